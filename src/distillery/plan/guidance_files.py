"""The files that the guidances of a method need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


@dataclass(frozen=True)
class MethodFiles:
    """`GuidanceFiles` of one method of a run.

    Attributes:
        run: place of the run in the results.
        ipc: the size that is sampled.
    """

    experiment: Experiment
    run: str
    method: str
    ipc: int

    def gradients(self, surrogate: str) -> str:
        """The output of `select_checkpoints` for a surrogate."""
        return f"<results>/{self.run}surrogates/{surrogate}/gradients.safetensors"

    def modes(self, count: int | None) -> str:
        """The output of `discover_modes`, `count` modes per class; None: one per image."""
        number = count or self.experiment.modes(self.method, self.ipc)
        return f"<results>/{self.run}distilled/{self.method}/modes-{number}.safetensors"

    def latents(self) -> list[str]:
        """The latents of the training images; those of a pretrained autoencoder are the same for all runs."""
        run = self.run if self.experiment.autoencoder.kind == "train" else ""
        shards = range(self.experiment.latents.shards)
        return [f"<results>/{run}latents/train-{shard}.safetensors" for shard in shards]


def guidance_files(experiment: Experiment, run: str, method: str, ipc: int | None = None) -> dict[str, list[str]]:
    """Name of a guidance -> its files, in the order in which stages take them.

    Args:
        ipc: the size that is sampled; None: all sizes at once, in increments.
    """
    files = MethodFiles(experiment, run, method, ipc or max(experiment.ipc))
    return experiment.guidance(method).files(files)


def counts(files: dict[str, list[str]]) -> dict[str, int]:
    """How many files belong to each guidance."""
    return {name: len(paths) for name, paths in files.items()}
