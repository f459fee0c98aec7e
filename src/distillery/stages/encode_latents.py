"""Encode the training images: mean and standard deviation of their latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block, Count

if TYPE_CHECKING:
    from distillery.experiment import Experiment


class Settings(Block):
    """What the stage depends on."""

    batch_size: Count = 256

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        """The part of an experiment that this stage reads."""
        return cls()


def run(settings: Settings, *, images: Input, autoencoder: list[Input], latents: Output, job: Job) -> None:
    """Images to tensors `mean` and `std` (N, C, h, w), scaled to unit variance, and `labels` (N,)."""
    import torch

    from distillery.artifacts import write_tensors
    from distillery.data.pixels import load_pixels, to_unit
    from distillery.diffusion.autoencoder import Codec
    from distillery.progress import Progress

    pixels, labels, classes, _ = load_pixels(images)
    codec = Codec.load(autoencoder[0].parent).to(job.device)
    parts = []
    with torch.no_grad(), Progress(job.stage, len(pixels), "image") as progress:
        for batch in pixels.split(settings.batch_size):
            parts.append([part.cpu() for part in codec.encode(to_unit(batch).to(job.device))])
            progress.advance(len(batch))
    mean, std = (torch.cat(column) for column in zip(*parts, strict=True))
    write_tensors(latents, {"mean": mean, "std": std, "labels": labels}, job.provenance, classes=classes)
