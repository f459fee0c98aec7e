"""Measure redundancy: the accuracy on each increment of a network trained on another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """Parts of `increment_size` images per class, as many as `ipc` images per class give.

    `slots`: consecutive slots are a part; `random`: parts are drawn; `real`: they are drawn from all training images.
    """

    seed: int
    method: str
    ipc: int
    increment_size: int
    cut: Literal["slots", "random", "real"]
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
            ipc=experiment.redundancy_ipc,
            increment_size=redundancy.increment_size,
            cut=experiment.cut(method),
            network=network,
            recipe=experiment.recipe(experiment.evaluation.protocols[0], network, redundancy.increment_size, method),
            students=redundancy.students,
        )


def run(settings: Settings, *, images: Input, teacher: Input | None = None, matrix: Output, job: Job) -> None:
    """A set, cut into increments or random parts, to R[r, s]: accuracy on increment s of a network trained on r.

    With soft labels the teacher answers while networks are trained, also where the protocol stores its answers: each
    network sees images of its own.
    """
    import numpy as np
    import pyarrow as pa
    import torch

    from distillery.analysis.parts import parts_of, slots_by_id
    from distillery.analysis.redundancy import redundancy_matrix
    from distillery.data.pixels import decoded
    from distillery.data.reading import ImageTable
    from distillery.storage.images import SOFT_LABEL, learned_rate, read_images
    from distillery.storage.resume import Resume
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier, Domain
    from distillery.students.soft_labels import Teacher

    resumes: list[Resume] = []

    def resume(part: str) -> Resume:
        resumes.append(job.resume(matrix.with_name(f"{matrix.stem}.{part}")))
        return resumes[-1]

    size, count = settings.increment_size, settings.ipc // settings.increment_size

    def parts(labels: np.ndarray, slots: np.ndarray, classes: list[str]) -> np.ndarray:
        return parts_of(labels, slots, classes, size, increments=settings.cut == "slots", seed=settings.seed)

    if settings.cut == "real":
        table = ImageTable(images)
        part = parts(table.labels, slots_by_id(table.labels, table.paths()), table.classes)
        rows = np.flatnonzero((part >= 0) & (part < count))
        cut, part = table.take(rows), part[rows]
    else:
        cut = read_images(images, "collect")
        part = parts(cut.labels, cut.columns["slot"], cut.classes)
    pixels, soft_labels = decoded(cut), None
    if teacher is not None:
        domain = Domain.of(pixels, settings.recipe)
        known = Classifier.load(teacher, "train_reference")
        soft_labels = Teacher(known, cut.classes, domain, job.device).online()
    own_labels = cut.columns.get(SOFT_LABEL) if settings.recipe.labels == "set" else None
    cells = redundancy_matrix(
        pixels,
        torch.from_numpy(cut.labels if own_labels is None else own_labels),
        torch.from_numpy(part),
        classes=cut.classes,
        network=settings.network,
        recipe=settings.recipe.for_set(learned_rate(cut.columns)),
        students=settings.students,
        seed=settings.seed,
        device=job.device,
        soft_labels=soft_labels,
        resume=resume,
    )
    common = {"method": settings.method, "seed": settings.seed, "network": settings.network}
    write_table(matrix, pa.Table.from_pylist([{**common, **cell} for cell in cells]), job.provenance)
    for training in resumes:
        training.finish()
