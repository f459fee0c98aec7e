"""Encode the training images, one shard: mean and standard deviation of their latents, and of their mirrors'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.settings import Latents
from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.plan.experiment import Experiment


class Settings(Block):
    latents: Latents = Latents()
    shard: int = 0

    @classmethod
    def of(cls, experiment: Experiment, run: str, shard: str) -> Settings:
        return cls(latents=experiment.latents, shard=int(shard))


def run(settings: Settings, *, images: Input, autoencoder: list[Input], latents: Output, job: Job) -> None:
    """Images to `mean`, `std` (N, C, h, w) of scaled latents, `labels` (N,), and `mirror_mean`, `mirror_std`."""
    from distillery.data.reading import ImageTable, span_of
    from distillery.diffusion.autoencoder import Codec
    from distillery.diffusion.latents import encode_rows, layout
    from distillery.storage.tensors import growing_tensors, is_whole, partial_name

    table, options = ImageTable(images), settings.latents
    codec = Codec.load(autoencoder[0].parent).to(job.device)
    start, stop = span_of(len(table), settings.shard, options.shards)
    if start == stop:
        raise BadInput(f"latents.shards: {options.shards} jobs for {len(table)} images; allowed: 1 to {len(table)}")
    side = next(table.batches(1, start, start + 1))[0].shape[-1]
    about = {"classes": table.classes, "autoencoder": codec.digest, "shard": settings.shard, "shards": options.shards}
    tensors = layout(stop - start, codec.channels, codec.latent_size(side), options.precision, options.mirrored)
    resume, first = job.resume(latents), 0
    if is_whole(partial_name(latents)) and (checkpoint := resume.restore()):
        first = int(checkpoint[1]["images"])
    with growing_tensors(latents, tensors, job.provenance, first > 0, **about) as writer:

        def state(images: int) -> tuple[dict[str, Tensor], dict[str, int]]:
            writer.flush()
            return {}, {"images": images}

        encode_rows(
            table,
            codec,
            writer,
            start,
            stop,
            mirrored=options.mirrored,
            batch_size=options.batch_size,
            device=job.device,
            what=job.stage,
            first=first,
            done=lambda images: resume.checkpoint(lambda: state(images)),
        )
    resume.finish()
