"""Train the surrogate of influence guidance on all training images, and keep every epoch (IGD)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Network, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    name: str
    network: Network
    recipe: Recipe

    @classmethod
    def of(cls, experiment: Experiment, run: str, surrogate: str) -> Settings:
        block = experiment.surrogates[surrogate]
        return cls(
            seed=experiment.seed(run),
            name=surrogate,
            network=block.network,
            recipe=experiment.recipe(block.training, block.network, "full"),
        )


def run(settings: Settings, *, images: Input, checkpoints: Output, history: Output, job: Job) -> None:
    """Images to the states of a network, numbered by epoch from 0, the state before training."""
    from distillery.data.pixels import load_pixels
    from distillery.storage.history import History, write_history
    from distillery.storage.tensors import write_tensors
    from distillery.students.networks import Classifier, Domain
    from distillery.students.training import train_network

    pixels, labels, classes, _ = load_pixels(images)
    key = (settings.seed, job.stage, settings.name)
    classifier = Classifier(settings.network, classes, Domain.of(pixels, settings.recipe), key)
    resume, recorded = job.resume(checkpoints), History(settings.recipe.epochs, "epoch")
    kept: list[dict[str, Tensor]] = []
    train_network(
        classifier,
        pixels,
        labels,
        settings.recipe,
        key=key,
        device=job.device,
        resume=resume,
        what=job.stage,
        kept=kept,
        history=recorded,
    )
    write_history(history, [recorded], job.provenance)
    tensors = {f"{number}/{name}": value for number, state in enumerate(kept) for name, value in state.items()}
    write_tensors(checkpoints, tensors, job.provenance, **classifier.description, checkpoints=len(kept))
    resume.finish()
