"""Open a pretrained class-conditional DiT of diffusers: check it, and keep it with the names of its classes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distillery.diffusion.settings import PretrainedGenerator, Sampling
from distillery.errors import BadInput
from distillery.job import Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """What the stage depends on: the generator without its sampling."""

    name: str
    generator: PretrainedGenerator

    @classmethod
    def of(cls, experiment: Experiment, generator: str) -> Settings:
        """The part of an experiment that this stage reads."""
        block = experiment.generators[generator]
        assert isinstance(block, PretrainedGenerator)
        return cls(name=generator, generator=block.model_copy(update={"sampling": Sampling()}))


def run(settings: Settings, *, index: Output, config: Output, weights: Output, scheduler: Output, job: Job) -> None:
    """A folder, or a name on the hub, to a transformer and a noise schedule in the layout of diffusers."""
    from distillery.diffusion.class_names import class_table
    from distillery.diffusion.models import open_transformer, set_timestep_shift
    from distillery.diffusion.pipelines import open_scheduler, timestep_shift
    from distillery.diffusion.weights import check_digests, local_folder
    from distillery.errors import WeightsError
    from distillery.storage.atomic import write_bytes, write_json
    from distillery.storage.tensors import write_tensors

    block = settings.generator
    try:
        folder = local_folder(
            block.weights, block.revision, ("transformer", "scheduler"), block.subfolder, download=True
        )
        check_digests(folder, block.sha256)
        transformer = open_transformer(folder / "transformer")
        noise = open_scheduler(folder / "scheduler")
        names = class_table(folder, block.classes, transformer.config.num_embeds_ada_norm)
    except WeightsError as error:
        raise BadInput(f"generators.{settings.name}.weights: {error}") from error
    set_timestep_shift(transformer, timestep_shift(transformer, block.timestep_shift))
    write_tensors(weights, transformer.state_dict(), job.provenance)
    write_bytes(config, transformer.to_json_string().encode())
    write_bytes(scheduler, noise.to_json_string().encode())
    write_json(index, {"_class_name": "DiTPipeline", "id2label": names})
    print(
        f"{settings.name}: {transformer.config.num_embeds_ada_norm} classes, timestep shift "
        f"{transformer.config.timestep_shift}, {transformer.config.out_channels} channels out",
        file=sys.stderr,
    )
