"""Measure incremental dynamics: the loss of a student that goes on from increment to increment of a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """`recipes`: of each increment; `increments`: whether consecutive slots are parts, as redundancy has it."""

    seed: int
    method: str
    increments: bool
    increment_size: int
    network: str
    recipes: list[Recipe]
    looks: int
    students: int

    @property
    def recipe(self) -> Recipe:
        """That of the first increment; all see images of one side."""
        return self.recipes[0]

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str) -> Settings:
        block = experiment.analysis.incremental_dynamics
        assert block is not None
        network, size = block.network or experiment.evaluation.networks[0], block.increment_size
        protocol, epochs = experiment.evaluation.protocols[0], {"epochs": block.epochs}
        return cls(
            seed=experiment.seed(run),
            method=method,
            increments=experiment.cut(method) == "slots",
            increment_size=size,
            network=network,
            recipes=[
                experiment.recipe(protocol, network, k * size, method).model_copy(update=epochs)
                for k in range(1, max(experiment.ipc) // size + 1)
            ],
            looks=min(block.looks, block.epochs),
            students=block.students,
        )


def run(
    settings: Settings, *, images: Input, test: Input, teacher: Input | None = None, dynamics: Output, job: Job
) -> None:
    """A distilled set, in increments or cut at random, to losses at each look and accuracies after each increment.

    A set of fewer images than one increment gives a table without rows.
    """
    import pyarrow as pa
    import torch

    from distillery.analysis.incremental import incremental_dynamics
    from distillery.analysis.parts import parts_of
    from distillery.data.pixels import decoded, load_pixels
    from distillery.storage.images import read_images
    from distillery.storage.resume import Resume
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier, Domain
    from distillery.students.soft_labels import Teacher

    resumes: list[Resume] = []

    def resume(part: str) -> Resume:
        resumes.append(job.resume(dynamics.with_name(f"{dynamics.stem}.{part}")))
        return resumes[-1]

    distilled = read_images(images, "collect")
    pixels, soft_labels = decoded(distilled), None
    tested, test_labels, tested_classes, _ = load_pixels(test)
    if tested_classes != distilled.classes:
        raise BadInput(f"{test} and {images} have different classes; delete the one that is out of date, and run again")
    if teacher is not None:
        domain = Domain.of(pixels, settings.recipe)
        known = Classifier.load(teacher, "train_reference")
        soft_labels = Teacher(known, distilled.classes, domain, job.device).online()
    parts = parts_of(
        distilled.labels,
        distilled.columns["slot"],
        distilled.classes,
        settings.increment_size,
        increments=settings.increments,
        seed=settings.seed,
    )
    rows = incremental_dynamics(
        pixels,
        torch.from_numpy(distilled.labels),
        torch.from_numpy(parts),
        (tested, test_labels),
        classes=distilled.classes,
        network=settings.network,
        recipes=settings.recipes,
        looks=settings.looks,
        students=settings.students,
        seed=settings.seed,
        device=job.device,
        soft_labels=soft_labels,
        resume=resume,
    )
    schema = pa.schema(
        [("method", pa.string()), ("seed", pa.int64()), ("network", pa.string())]
        + [(name, pa.int64()) for name in ("student", "increment", "images", "epoch")]
        + [(name, pa.float64()) for name in ("loss", "test_accuracy")]
    )
    common = {"method": settings.method, "seed": settings.seed, "network": settings.network}
    write_table(dynamics, pa.Table.from_pylist([{**common, **row} for row in rows], schema), job.provenance)
    for part in resumes:
        part.finish()
