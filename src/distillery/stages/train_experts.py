"""Train experts on the real images, one shard: the weights after every epoch, for trajectory matching."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.data.channels import Known
from distillery.job import Input, Job, Output
from distillery.matching.settings import Experts
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """Experts `first` to `last` - 1."""

    seed: int
    name: str
    network: str
    experts: Experts
    epochs: int
    first: int
    last: int
    normalization: Known = "imagenet"

    @classmethod
    def of(cls, experiment: Experiment, run: str, experts: str, shard: str) -> Settings:
        """The part of an experiment that this stage reads; how many shards there are it does not depend on."""
        block = experiment.experts[experts]
        first = int(shard) * block.per_shard
        return cls(
            seed=experiment.seed(run),
            name=experts,
            network=experiment.experts_network(experts),
            normalization=experiment.dataset.normalization,
            experts=block.model_copy(update={"count": 1, "per_shard": 1, "epochs": None, "network": None}),
            epochs=experiment.experts_epochs(experts),
            first=first,
            last=min(first + block.per_shard, block.count),
        )


def run(
    settings: Settings,
    *,
    data: Input,
    whitening: Input | None = None,
    trajectories: Output,
    history: Output,
    job: Job,
) -> None:
    """Training images to `theta` (experts, epochs + 1, P) fp32, the state before training first."""
    from distillery.matching.experts import description, train_experts
    from distillery.matching.networks import Comparing
    from distillery.matching.real_images import RealImages
    from distillery.storage.history import write_history
    from distillery.storage.tensors import write_tensors

    real = RealImages.load(data, job.device, normalization=settings.normalization, whitening=whitening)
    networks = Comparing(settings.network, real.classes, real.domain, job.device)
    recipe = settings.experts.recipe(settings.epochs, settings.normalization)
    resume = job.resume(trajectories)
    theta, histories = train_experts(
        real,
        networks,
        recipe,
        range(settings.first, settings.last),
        key=(settings.seed, job.stage, settings.name),
        device=job.device,
        resume=resume,
        resume_of=lambda number: job.resume(trajectories.with_name(f"{trajectories.stem}.expert-{number}")),
    )
    write_history(history, histories, job.provenance)
    write_tensors(trajectories, {"theta": theta}, job.provenance, **description(networks, real, recipe))
    resume.finish()
