"""Measure redundancy: the accuracy on each increment of a network trained on another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    method: str
    increment_size: int
    network: str
    recipe: Recipe
    students: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str) -> Settings:
        redundancy = experiment.analysis.redundancy
        network = redundancy.network or experiment.evaluation.networks[0]
        return cls(
            seed=experiment.seed(run),
            method=method,
            increment_size=redundancy.increment_size,
            network=network,
            recipe=experiment.recipe(experiment.evaluation.protocols[0], network, redundancy.increment_size),
            students=redundancy.students,
        )


def run(settings: Settings, *, images: Input, teacher: Input | None = None, matrix: Output, job: Job) -> None:
    """A distilled set, cut into increments by slot, to R[r, s]: accuracy on increment s of a network trained on r.

    With soft labels the teacher answers while networks are trained, also where the protocol stores its answers: each
    network sees images of its own.
    """
    import pyarrow as pa
    import torch

    from distillery.analysis.redundancy import redundancy_matrix
    from distillery.data.pixels import decoded
    from distillery.storage.images import read_images
    from distillery.storage.resume import Resume
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier, Domain
    from distillery.students.soft_labels import Teacher

    resumes: list[Resume] = []

    def resume(part: str) -> Resume:
        resumes.append(job.resume(matrix.with_name(f"{matrix.stem}.{part}")))
        return resumes[-1]

    distilled = read_images(images, "collect")
    pixels, soft_labels = decoded(distilled), None
    if teacher is not None:
        domain = Domain.of(pixels, settings.recipe)
        known = Classifier.load(teacher, "train_reference")
        soft_labels = Teacher(known, distilled.classes, domain, job.device).online()
    rows = redundancy_matrix(
        pixels,
        torch.from_numpy(distilled.labels),
        torch.from_numpy(distilled.columns["slot"] // settings.increment_size),
        classes=distilled.classes,
        network=settings.network,
        recipe=settings.recipe,
        students=settings.students,
        seed=settings.seed,
        device=job.device,
        soft_labels=soft_labels,
        resume=resume,
    )
    common = {"method": settings.method, "seed": settings.seed, "network": settings.network}
    write_table(matrix, pa.Table.from_pylist([{**common, **row} for row in rows]), job.provenance)
    for part in resumes:
        part.finish()
