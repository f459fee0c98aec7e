"""Measure the autoencoder on the test or validation images: PSNR, and the accuracy that reference networks lose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """Names for the table, and the blocks of the experiment whose files are inputs."""

    seed: int
    references: list[str]
    autoencoders: list[str]
    batch_size: int = 64

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        second = ["guidance_autoencoder"] if experiment.guidance_autoencoder else []
        return cls(
            seed=experiment.seed(run), references=sorted(experiment.references), autoencoders=["autoencoder", *second]
        )


def run(
    settings: Settings,
    *,
    test: Input,
    autoencoder: list[Input],
    guidance_autoencoder: list[Input] | None = None,
    references: list[Input] | None = None,
    table: Output,
    job: Job,
) -> None:
    """Test or validation images, autoencoders and references to one row per pair: PSNR in dB, accuracies in percent."""
    import pyarrow as pa

    from distillery.analysis.reconstruction import measure
    from distillery.data.reading import ImageTable
    from distillery.diffusion.autoencoder import Codec
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier

    codec = Codec.load(autoencoder[0].parent).to(job.device)
    small = Codec.load(guidance_autoencoder[0].parent).to(job.device) if guidance_autoencoder else None
    networks = {
        name: Classifier.load(path, "train_reference").to(job.device)
        for name, path in zip(settings.references, references or [], strict=True)
    }
    images = ImageTable(test)
    rows = []
    for name, decoder in zip(settings.autoencoders, [codec, *([small] if small else [])], strict=True):
        measured = measure(
            images, codec, decoder, networks, batch_size=settings.batch_size, device=job.device, what=job.stage
        )
        rows += [{"seed": settings.seed, "autoencoder": name, "images": len(images), **row} for row in measured]
    write_table(table, pa.Table.from_pylist(rows), job.provenance)
