"""Open a pretrained UNet of diffusers as a generator for optimised images: check it, and keep it with its classes."""

from __future__ import annotations

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


def run(
    settings: Settings, *, index: Output, config: Output, weights: Output, scheduler: Output, classes: Output, job: Job
) -> None:
    """A folder with `unet/` and `scheduler/` to the layout of the pipeline, with the class vectors beside the UNet."""
    from distillery.diffusion.class_names import class_table
    from distillery.diffusion.models import open_unet
    from distillery.diffusion.pipelines import open_scheduler
    from distillery.diffusion.weights import check_digests, local_folder
    from distillery.errors import WeightsError
    from distillery.matching.tables import table_of_unet
    from distillery.storage.atomic import write_bytes, write_json
    from distillery.storage.tensors import write_tensors

    block = settings.generator
    try:
        folder = local_folder(block.weights, block.revision, ("unet", "scheduler"), block.subfolder, download=True)
        check_digests(folder, block.sha256)
        unet = open_unet(folder / "unet")
        noise = open_scheduler(folder / "scheduler")
        table = table_of_unet(unet, folder)
        names = {} if table is None else class_table(folder, block.classes, len(table))
    except WeightsError as error:
        raise BadInput(f"generators.{settings.name}.weights: {error}") from error
    write_tensors(weights, unet.state_dict(), job.provenance)
    write_bytes(config, unet.to_json_string().encode())
    write_bytes(scheduler, noise.to_json_string().encode())
    write_tensors(classes, {} if table is None else {"weight": table}, job.provenance)
    write_json(index, {"_class_name": "DDPMPipeline", "id2label": names})
