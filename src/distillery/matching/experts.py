"""Experts: networks whose training on the real images is kept, epoch by epoch, as flat vectors of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillery.divergence import refuse_diverged
from distillery.errors import BadInput, Diverged, damaged
from distillery.matching.checks import wrong_experts
from distillery.matching.networks import Comparing
from distillery.matching.real_images import RealImages
from distillery.storage.history import History
from distillery.storage.resume import Resume
from distillery.storage.tensors import below, described_tensors, load_slice, opened_tensor
from distillery.students.settings import Recipe, Speed
from distillery.students.training import train_networks

MADE_BY = "train_experts"
Shapes = dict[str, torch.Size]


def shapes_of(network: nn.Module) -> Shapes:
    """The parameters of a network by name, in the order in which a flat vector holds them."""
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def unflattened(weights: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """A flat vector (P,) as the parameters of a network; a view."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = weights.split(sizes)
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def flattened(parameters: Mapping[str, Tensor], shapes: Shapes) -> Tensor:
    """The parameters of a network as one vector, (P,) fp32 on the CPU."""
    return torch.cat([parameters[name].detach().float().cpu().flatten() for name in shapes])


def train_experts(
    real: RealImages,
    networks: Comparing,
    recipe: Recipe,
    numbers: Sequence[int],
    *,
    key: tuple[int | str, ...],
    device: torch.device,
    resume: Resume,
    resume_of: Callable[[int], Resume],
) -> tuple[Tensor, list[History]]:
    """Trajectories of experts of these numbers: (experts, epochs + 1, P) fp32, the state before training first.

    Beside them the history of each expert.

    fp32 throughout: in bfloat16 the differences between epochs would drown in rounding. `resume` is that of finished
    experts, `resume_of` that of the training of one expert.

    Raises:
        Diverged: an expert diverges.
    """
    done: list[Tensor] = []
    histories = [History(recipe.epochs, "epoch", [number]) for number in numbers]
    if checkpoint := resume.restore():
        done = list(checkpoint[0]["theta"].unbind())
        for number, history in zip(numbers, histories, strict=True):
            history.load_state_dict(below(checkpoint[0], f"history-{number}/"))
        for number in numbers[: len(done)]:  # it may have been stopped between the two files
            resume_of(number).finish()
    for number, history in list(zip(numbers, histories, strict=True))[len(done) :]:
        classifier, training = networks.classifier((*key, number)), resume_of(number)
        kept: list[dict[str, Tensor]] = []
        train_networks(
            [classifier],
            real.pixels,
            real.labels,
            recipe,
            keys=[(*key, number)],
            device=device,
            speed=Speed(precision="float32"),
            kept=kept,
            resume=training,
            what=f"expert {number}",
            history=history,
        )
        shapes = {f"network.{name}": shape for name, shape in shapes_of(classifier.network).items()}
        theta = torch.stack([flattened(state, shapes) for state in kept])
        if not theta.isfinite().all():
            training.finish()
            raise Diverged(
                f"experts: expert {number} diverges: its weights are not finite within {recipe.epochs} epochs at rate "
                f"{recipe.learning_rate:g}; lower experts.<name>.learning_rate"
            )
        done.append(theta)
        resume.checkpoint(
            lambda: ({"theta": torch.stack(done), **_states(numbers, histories)}, {"experts": len(done)}), force=True
        )
        training.finish()
    return torch.stack(done), histories


def _states(numbers: Sequence[int], histories: Sequence[History]) -> dict[str, Tensor]:
    return {
        f"history-{number}/{name}": value
        for number, history in zip(numbers, histories, strict=True)
        for name, value in history.state_dict().items()
    }


def description(networks: Comparing, real: RealImages, recipe: Recipe) -> dict[str, Any]:
    """The metadata of a file of experts."""
    return wanted_of(networks.name, real, recipe)


def wanted_of(network: str, real: RealImages, recipe: Recipe) -> dict[str, Any]:
    """The description of experts that are matched by this network on these images, trained as the recipe says.

    Its `epochs` is the last epoch that is read.
    """
    return {
        "network": network,
        "classes": real.classes,
        "size": real.domain.size,
        "channels": real.domain.channels,
        **real.view,
        "data": real.digest,
        "epochs": recipe.epochs,
        "recipe": recipe.model_dump(mode="json"),
    }


class Trajectories:
    """Trajectories of any number of files, read state by state."""

    def __init__(self, paths: Sequence[Path], wanted: Mapping[str, Any]) -> None:
        """
        Args:
            wanted: the entries of `description` that have to agree; `epochs` is the last epoch that is read.

        Raises:
            BadInput: experts of another network, other images, another recipe, or fewer epochs.
            DamagedArtifact: not a file of experts.
        """
        self._places: list[tuple[Path, int]] = []
        for path in paths:
            try:
                about, count = described_tensors(path), opened_tensor(path, "theta", MADE_BY).get_shape()[0]
            except (OSError, ValueError) as error:
                raise damaged(path, MADE_BY, error) from error
            if why := wrong_experts(about, wanted):
                raise BadInput(f"{path}: {why}; give others, or leave out experts.<name>.files to train them here")
            self._places += [(path, row) for row in range(count)]

    def __len__(self) -> int:
        return len(self._places)

    def state(self, expert: int, epoch: int) -> Tensor:
        """The weights of an expert after so many epochs, (P,) fp32.

        Raises:
            Diverged: they are not finite.
        """
        path, row = self._places[expert]
        state: Tensor = load_slice(path, "theta")[row, epoch]
        refuse_diverged([state], f"{path}: the weights of expert {row} after epoch {epoch}", "train experts again")
        return state
