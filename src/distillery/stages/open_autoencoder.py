"""Open a pretrained autoencoder of diffusers: check it, and keep it with its scale and shift."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distillery.diffusion.settings import PretrainedAutoencoder
from distillery.errors import BadInput
from distillery.job import Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """`opened` is the block of the experiment: `autoencoder` or `guidance_autoencoder`."""

    opened: str
    autoencoder: PretrainedAutoencoder
    resolution: int
    image_channels: int

    @classmethod
    def of(cls, experiment: Experiment, opened: str) -> Settings:
        dataset = experiment.dataset
        return cls(
            opened=opened,
            autoencoder=getattr(experiment, opened),
            resolution=dataset.resolution,
            image_channels=1 if dataset.channels == "grey" else 3,
        )


def run(settings: Settings, *, config: Output, weights: Output, job: Job) -> None:
    """A folder, or a name on the hub, to an autoencoder in the layout of `save_pretrained`."""
    from distillery.diffusion.models import open_autoencoder
    from distillery.diffusion.weights import check_digests, latent_statistics, local_folder
    from distillery.divergence import refuse_diverged
    from distillery.errors import WeightsError
    from distillery.storage.atomic import write_bytes
    from distillery.storage.tensors import write_tensors

    block = settings.autoencoder
    try:
        folder = local_folder(block.weights, block.revision, ("",), block.subfolder, download=True)
        check_digests(folder, block.sha256)
        model = open_autoencoder(folder)
    except WeightsError as error:
        raise BadInput(f"{settings.opened}.weights: {error}") from error
    what = f"{settings.opened}.weights: {block.weights}: the weights"
    refuse_diverged(model.parameters(), what, "download them again")
    takes = model.config.in_channels
    if takes != settings.image_channels:
        raise BadInput(
            f"{settings.opened}.weights: {block.weights} takes images of {takes} channels, and dataset.channels has "
            f"{settings.image_channels}; set dataset.channels: {'rgb' if takes == 3 else 'grey'}"
        )
    if block.scaling_factor is not None:
        model.register_to_config(scaling_factor=block.scaling_factor)
    if block.shift_factor is not None:
        model.register_to_config(shift_factor=block.shift_factor)
    try:
        statistics = latent_statistics(model.config)
    except WeightsError as error:
        raise BadInput(f"{settings.opened}.weights: {block.weights}: {error}") from error
    write_tensors(weights, model.state_dict(), job.provenance)
    write_bytes(config, model.to_json_string().encode())
    about = model.config
    print(
        f"{settings.opened}: {type(model).__name__} of {block.weights}, "
        f"scale {about.scaling_factor}, shift {about.get('shift_factor') or 0}"
        f"{', mean and standard deviation of each channel' if statistics else ''}",
        file=sys.stderr,
    )
