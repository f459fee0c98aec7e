"""Choose among the sets of several methods, by networks trained on each and tested on validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.methods.best_of import BestOf
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """`candidates` are the methods whose sets are compared, in the order of their files."""

    seed: int
    method: str
    candidates: list[str]
    ipc: int
    network: str
    recipe: Recipe
    students: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        best = experiment.method_of(method, BestOf)
        trained = best.trained(f"methods.{method}", experiment)
        recipe = experiment.recipe(trained.protocol, trained.network, ipc)
        return cls(
            seed=experiment.seed(run),
            method=method,
            candidates=best.methods,
            ipc=int(ipc),
            network=trained.network,
            recipe=recipe.model_copy(update={"evaluations": 1}),
            students=best.students,
        )


def run(settings: Settings, *, sets: list[Input], validation: Input, images: Output, choice: Output, job: Job) -> None:
    """The sets of several methods to one of them, and a table of the accuracies of each; test images are not used.

    Networks learn the labels that come with a set, where the recipe says so, and hard ones otherwise.
    """
    import numpy as np
    import pyarrow as pa
    import torch

    from distillery.data.pixels import load_pixels
    from distillery.storage.images import read_images, read_learned_rate, read_soft_labels, write_images
    from distillery.storage.resume import Resume
    from distillery.storage.tables import write_table
    from distillery.students.set_accuracy import set_accuracies

    tested, test_labels, classes, _ = load_pixels(validation)
    resumes: list[Resume] = []

    def resume(part: str) -> Resume:
        resumes.append(job.resume(choice.with_name(f"{choice.stem}.{part}")))
        return resumes[-1]

    rows, means = [], []
    for name, path in zip(settings.candidates, sets, strict=True):
        pixels, labels, named, _ = load_pixels(path, "collect")
        if named != classes:
            raise BadInput(f"{path}: has classes {', '.join(named)}, and {validation} has {', '.join(classes)}")
        own_labels = read_soft_labels(path, "collect") if settings.recipe.labels == "set" else None
        measured = set_accuracies(
            pixels,
            labels if own_labels is None else torch.from_numpy(own_labels),
            classes,
            settings.network,
            settings.recipe.for_set(read_learned_rate(path, "collect")),
            validation=(tested, test_labels),
            students=settings.students,
            key=(settings.seed, job.stage),
            device=job.device,
            resume=lambda part, now=name: resume(f"{now}.{part}"),  # type: ignore[misc]
            what=f"{settings.method} ipc {settings.ipc} set of {name}",
        )
        rows += [{"candidate": name, "student": i, "accuracy": percent} for i, percent in enumerate(measured)]
        means.append(float(np.nan_to_num(measured).mean()))  # a network that has diverged has learned nothing
    kept = means.index(max(means))  # of equal ones the first
    facts = {"method": settings.method, "ipc": settings.ipc, "seed": settings.seed, "network": settings.network}
    facts |= {"n": settings.students, "validation_images": len(test_labels)}
    table = [{**facts, **row, "kept": row["candidate"] == settings.candidates[kept]} for row in rows]
    write_table(choice, pa.Table.from_pylist(table), job.provenance)
    write_images(images, read_images(sets[kept], "collect"), job.provenance)
    for part in resumes:
        part.finish()
