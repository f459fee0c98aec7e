"""The one loop of all methods that optimise images: render, compare, pull back, step; snapshots on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distillery.errors import Diverged, StopRequested
from distillery.matching.objectives import Objective
from distillery.matching.spaces import Space
from distillery.matching.steps import Optimiser
from distillery.progress import Progress, count_images
from distillery.storage.history import History, history_tensors, restore_history
from distillery.storage.resume import Resume
from distillery.storage.tensors import below

MOST_GROWTH = 100.0
"""Largest growth of the parameters of an image; beyond it the image is meaningless to generator and networks."""


class MatchingDiverged(Diverged):
    """The images are no longer finite, or have grown beyond all measure; the message says which and when.

    Attributes:
        run: the run until then; its last snapshot is good.
        inside: the objective diverged: a network that it trains, or its own learned rate.
    """

    def __init__(self, why: str, run: Run, inside: bool = False) -> None:
        super().__init__(why)
        self.run, self.inside = run, inside


@dataclass
class Run:
    """The result of the loop.

    Attributes:
        snapshots: iteration -> all that its images are made of, and what the objective has learned, on the CPU.
        history: of every iteration the metrics of its last step: loss, those of the objective, norms of gradients.
    """

    history: History
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def match(
    space: Space,
    objective: Objective,
    optimiser: Optimiser,
    labels: Tensor,
    *,
    iterations: int,
    every: int,
    resume: Resume,
    what: str = "match",
) -> Run:
    """Optimise images.

    Nothing but the state of the space, the optimiser and the objective goes from one step to the next, and all that is
    random is keyed by the step: a run that was killed goes on with the bytes of one that was not.

    Args:
        optimiser: of the parameters of `space`.
        labels: (N,) int64, of the images.
        iterations: each of `objective.updates` steps.
        every: iterations between two snapshots; the state before the first and after the last are two of them.

    Raises:
        MatchingDiverged: see there.
    """
    run, start, updates = Run(History(iterations, "iteration")), 0, objective.updates
    if checkpoint := resume.restore():
        start = _restore(checkpoint, space, objective, optimiser, run)
    if not start:
        run.snapshots[0] = _snapshot(space, objective, 0)
    with Progress(what, iterations * updates, "step", start, state=run.history.summary) as progress:
        for step in range(start, iterations * updates):
            images = space.render(step)
            try:
                grad_images, metrics = objective.gradient(images, labels, step)
            except StopRequested:
                resume.checkpoint(lambda now=step: _checkpoint(space, objective, optimiser, run, now))  # type: ignore[misc]
                raise
            gradients = space.vjp(grad_images, step)
            sizes = {
                f"gradient_{name}": float(value.flatten(1).norm(dim=1).mean()) for name, value in gradients.items()
            }
            row = {**metrics, **sizes}
            _refuse(metrics, step // updates, run, inside=True)
            _refuse(row, step // updates, run)
            optimiser.step(gradients)
            _refuse_growth(optimiser, step // updates, run)
            done = step + 1
            if done % updates == 0:
                run.history.add(done // updates, **row)
                if done // updates % every == 0 or done == iterations * updates:
                    run.snapshots[done // updates] = _snapshot(space, objective, done)
            progress.advance()
            count_images(len(labels))
            resume.checkpoint(lambda now=done: _checkpoint(space, objective, optimiser, run, now))  # type: ignore[misc]
    return run


def _snapshot(space: Space, objective: Objective, step: int) -> dict[str, Tensor]:
    state = {name: value.detach().cpu().clone() for name, value in space.state(step).items()}
    return state | {name: torch.tensor(value, dtype=torch.float64) for name, value in objective.learned().items()}


def _refuse(values: dict[str, float], iteration: int, run: Run, inside: bool = False) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise MatchingDiverged(f"{name} is not finite in iteration {iteration}", run, inside)


def _refuse_growth(optimiser: Optimiser, iteration: int, run: Run) -> None:
    for name, times in optimiser.growth().items():
        if not times <= MOST_GROWTH:
            raise MatchingDiverged(f"{name} has grown {times:.3g} times in iteration {iteration}", run)


def _checkpoint(
    space: Space, objective: Objective, optimiser: Optimiser, run: Run, step: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"parameter/{name}": value.clone() for name, value in space.parameters.items()}
    tensors |= {f"optimiser/{name}": value for name, value in optimiser.state_dict().items()}
    tensors |= {f"objective/{name}": value for name, value in objective.state_dict().items()}
    facts = {"step": step, "micro_batch": space.batches.size}
    return tensors | snapshot_tensors(run.snapshots) | history_tensors(run.history), facts


@torch.no_grad()
def _restore(
    checkpoint: tuple[dict[str, Tensor], dict[str, Any]],
    space: Space,
    objective: Objective,
    optimiser: Optimiser,
    run: Run,
) -> int:
    tensors, facts = checkpoint
    for name, parameter in space.parameters.items():
        parameter.copy_(tensors[f"parameter/{name}"])
    optimiser.load_state_dict(below(tensors, "optimiser/"))
    objective.load_state_dict(below(tensors, "objective/"))
    run.snapshots.update(snapshots_of(tensors))
    restore_history(run.history, tensors)
    space.batches.size = facts["micro_batch"]
    return int(facts["step"])


def snapshot_tensors(snapshots: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Snapshots as flat tensors, `snapshot/<iteration>/<name>`."""
    return {
        f"snapshot/{iteration}/{name}": value for iteration, state in snapshots.items() for name, value in state.items()
    }


def snapshots_of(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The tensors of `snapshot_tensors` by iteration in ascending order."""
    snapshots: dict[int, dict[str, Tensor]] = {}
    for key, value in below(tensors, "snapshot/").items():
        iteration, _, name = key.partition("/")
        snapshots.setdefault(int(iteration), {})[name] = value
    return dict(sorted(snapshots.items()))
