"""Fit the whitening of whole images (ZCA) on the training images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distillery.data.channels import Known
from distillery.data.settings import ZCA
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.plan.experiment import Experiment

BATCH = 1_000
"""Images that are in memory at once."""


class Settings(Block):
    normalization: Known
    zca: ZCA

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        zca = experiment.dataset.zca
        assert zca is not None
        return cls(normalization=experiment.dataset.normalization, zca=zca)


def run(settings: Settings, *, data: Input, whitening: Output, job: Job) -> None:
    """Training images to `mean` (D,), `matrix` and `inverse` (D, D), fp32, for D values of a standardised image."""
    from distillery.data.reading import ImageTable
    from distillery.data.whitening import fit_whitening
    from distillery.progress import Progress
    from distillery.students.networks import Domain

    table = ImageTable(data)
    channels, side, _ = table.shape
    domain = Domain.named(settings.normalization, side, channels)
    with Progress(job.stage, len(table), "image") as progress:

        def standardised() -> Iterator[Tensor]:
            for pixels, _ in table.batches(BATCH):
                mean, std = domain.statistics(pixels.device)
                yield (pixels / 255 - mean) / std
                progress.advance(len(pixels))

        fitted = fit_whitening(standardised(), settings.zca.eps)
    about = {"normalization": settings.normalization, "eps": settings.zca.eps}
    fitted.save(whitening, job.provenance, **about)
