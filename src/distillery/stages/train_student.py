"""Train the student on the increments so far; it guides the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    increment: int
    network: str
    start: Literal["fresh", "continued"]
    recipe: Recipe

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, k: str) -> Settings:
        loop = experiment.loop(method)
        network = loop.student.network or experiment.references[loop.reference].network
        protocol = loop.student.protocol or experiment.evaluation.protocols[0]
        return cls(
            seed=experiment.seed(run),
            increment=int(k),
            network=network,
            start=loop.student.start,
            recipe=experiment.recipe(protocol, network, int(k) * loop.increment_size),
        )


def run(
    settings: Settings,
    *,
    images: list[Input],
    previous: Input | None = None,
    model: Output,
    history: Output,
    job: Job,
) -> None:
    """Increments 1 to k to a network at the end of its schedule; no test images choose an epoch."""
    import torch

    from distillery.data.pixels import decoded
    from distillery.storage.history import History, write_history
    from distillery.storage.images import concatenate, read_images
    from distillery.students.networks import Classifier, Domain
    from distillery.students.training import train_network

    distilled = concatenate([read_images(path, "select_increment") for path in images])
    pixels, labels = decoded(distilled), torch.from_numpy(distilled.labels)
    key = (settings.seed, job.stage, settings.increment)
    if previous is not None:
        classifier = Classifier.load(previous, job.stage)
    else:
        classifier = Classifier(settings.network, distilled.classes, Domain.of(pixels, settings.recipe), key)
    resume, recorded = job.resume(model), History(settings.recipe.epochs, "epoch")
    train_network(
        classifier,
        pixels,
        labels,
        settings.recipe,
        key=key,
        device=job.device,
        resume=resume,
        what=job.stage,
        history=recorded,
    )
    write_history(history, [recorded], job.provenance)
    classifier.save(model, job.provenance)
    resume.finish()
