"""Open a pretrained generator of diffusers, a DiT or a UNet: check it, and keep it with the names of its classes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distillery.diffusion.generators import PretrainedGenerator
from distillery.diffusion.settings import Sampling
from distillery.errors import BadInput
from distillery.job import Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The generator without its sampling."""

    name: str
    generator: PretrainedGenerator

    @classmethod
    def of(cls, experiment: Experiment, generator: str) -> Settings:
        block = experiment.generators[generator].model_copy(update={"sampling": Sampling()})
        return cls(name=generator, generator=PretrainedGenerator.model_validate(block))


def run(
    settings: Settings,
    *,
    index: Output,
    config: Output,
    weights: Output,
    scheduler: Output,
    classes: Output | None = None,
    job: Job,
) -> None:
    """A folder, or a name on the hub, to a network and a noise schedule in the layout of diffusers.

    Class vectors of a UNet go to `classes`, beside it.
    """
    from distillery.diffusion.class_names import class_table
    from distillery.diffusion.models import open_network, set_timestep_shift
    from distillery.diffusion.pipelines import open_scheduler, timestep_shift
    from distillery.diffusion.weights import check_digests, local_folder
    from distillery.divergence import refuse_diverged
    from distillery.errors import WeightsError
    from distillery.matching.conditioning import table_of_unet
    from distillery.storage.atomic import write_bytes, write_json
    from distillery.storage.tensors import write_tensors

    block = settings.generator
    try:
        folder = local_folder(block.weights, block.revision, (block.part, "scheduler"), block.subfolder, download=True)
        check_digests(folder, block.sha256)
        network = open_network(folder, block.part)
        noise = open_scheduler(folder / "scheduler")
        table = None if classes is None else table_of_unet(network, folder)
        rows = network.config.num_embeds_ada_norm if classes is None else 0 if table is None else len(table)
        names = class_table(folder, block.classes, rows) if rows else {}
    except WeightsError as error:
        raise BadInput(f"generators.{settings.name}.weights: {error}") from error
    what = f"generators.{settings.name}.weights: {block.weights}: the weights"
    refuse_diverged(network.parameters(), what, "download them again")
    if classes is None:
        set_timestep_shift(network, timestep_shift(network, block.timestep_shift))
        print(
            f"{settings.name}: {rows} classes, timestep shift {network.config.timestep_shift}, "
            f"{network.config.out_channels} channels out",
            file=sys.stderr,
        )
    else:
        write_tensors(classes, {} if table is None else {"weight": table}, job.provenance)
    write_tensors(weights, network.state_dict(), job.provenance)
    write_bytes(config, network.to_json_string().encode())
    write_bytes(scheduler, noise.to_json_string().encode())
    pipeline = "DiTPipeline" if classes is None else "DDPMPipeline"
    write_json(index, {"_class_name": pipeline, "id2label": names})
