"""Choose among the snapshots of optimised images, by networks trained on each and tested on validation images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    method: str
    ipc: int
    choose: Literal["best", "last"]
    network: str
    recipe: Recipe
    students: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        matching = experiment.matching
        network = matching.network or experiment.comparing(method)
        recipe = experiment.recipe(matching.protocol or experiment.evaluation.protocols[0], network, ipc, method)
        return cls(
            seed=experiment.seed(run),
            method=method,
            ipc=int(ipc),
            choose=matching.choose,
            network=network,
            recipe=recipe.model_copy(update={"evaluations": 1}),
            students=matching.students,
        )


def run(
    settings: Settings,
    *,
    rendered: list[Input],
    validation: Input | None = None,
    whitening: Input | None = None,
    images: Output,
    choice: Output,
    job: Job,
) -> None:
    """Rendered snapshots to the images of one, and a table of the accuracy of each; test images are not used.

    `validation` is read where the best is chosen.
    """
    import numpy as np
    import pyarrow as pa
    import torch

    from distillery.data.pixels import load_pixels
    from distillery.data.whitening import opened_whitening
    from distillery.storage.images import concatenate, learned_rate, read_images, write_images
    from distillery.storage.resume import Resume
    from distillery.storage.tables import write_table
    from distillery.students.set_accuracy import set_accuracies

    whole = concatenate([read_images(path, "render") for path in rendered])
    # Networks meet the images in one order, however many jobs made them.
    whole = whole.take(np.lexsort((whole.columns["slot"], whole.labels, whole.columns["iteration"])))
    resumes: list[Resume] = []

    def resume(part: str) -> Resume:
        resumes.append(job.resume(choice.with_name(f"{choice.stem}.{part}")))
        return resumes[-1]

    iterations = sorted(set(whole.columns["iteration"].tolist()))
    rows, means = [], dict[int, float]()
    kept = iterations[-1]
    if settings.choose == "best":
        if validation is None:
            raise BadInput("matching.choose: best chooses on validation images, and none are given")
        tested, test_labels, classes, _ = load_pixels(validation)
        for iteration in iterations:
            some = whole.take(np.flatnonzero(whole.columns["iteration"] == iteration))
            measured = set_accuracies(
                torch.from_numpy(some.pixels()),
                torch.from_numpy(some.labels),
                classes,
                settings.network,
                settings.recipe.for_set(learned_rate(some.columns)),
                validation=(tested, test_labels),
                students=settings.students,
                key=(settings.seed, job.stage),
                device=job.device,
                resume=lambda part, now=iteration: resume(f"iteration-{now}.{part}"),  # type: ignore[misc]
                what=f"{settings.method} ipc {settings.ipc} iteration {iteration}",
                whitening=opened_whitening(whitening, job.device),
            )
            rows += [{"iteration": iteration, "student": i, "accuracy": percent} for i, percent in enumerate(measured)]
            means[iteration] = float(np.nan_to_num(measured).mean())  # a network that has diverged has learned nothing
        kept = max(iterations, key=lambda iteration: (means[iteration], iteration))  # of equal ones the later
    facts = {"method": settings.method, "ipc": settings.ipc, "seed": settings.seed, "network": settings.network}
    table = rows or [{"iteration": iteration, "student": None, "accuracy": None} for iteration in iterations]
    choices = pa.Table.from_pylist([{**facts, **row, "kept": row["iteration"] == kept} for row in table])
    write_table(choice, choices, job.provenance)
    write_images(images, whole.take(np.flatnonzero(whole.columns["iteration"] == kept)), job.provenance)
    for part in resumes:
        part.finish()
