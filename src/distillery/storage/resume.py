"""Loops that survive a kill: a checkpoint by time and on a signal, an exact restore, a clean stop.

A loop asks `restore` once, calls `checkpoint` after every step, and `finish` when its outputs are written. To resume,
run the same command again.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from distillery import parallel
from distillery.errors import NotSafetensors
from distillery.lean_imports import without_compiler
from distillery.progress import WORK
from distillery.storage.atomic import discard
from distillery.storage.tensors import below, load_tensors, save_tensors

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

IMPATIENT_SECONDS = 2.0
"""An interrupt so long after the first signal is a second request by the user, not the first one repeated."""

_requested: list[int] = []
_savers: list[Path] = []
"""Resume files that this process has opened: before the first one nothing would be saved."""


def stop_requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return bool(_requested)


def request_stop(number: int) -> None:
    """Ask this process to stop at its next checkpoint, as the signal of this number does."""
    _requested.append(number)


def clear_stop() -> None:
    """Withdraw every request to stop: the process goes on, or runs another stage."""
    _requested.clear()


def stop_on_signals() -> None:
    """Turn the signals that end a job into a request, which the next checkpoint answers by saving first.

    The same end is often announced twice: Slurm sends TERM when it preempts a job and again when it ends its steps, and
    torchrun and a terminal pass on a signal that all processes have got. Only an interrupt some seconds later ends the
    process without a checkpoint: somebody is impatient. Where no loop could save, every signal does.
    """
    first: list[float] = []

    def note(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not _savers:
            raise SystemExit(128 + number)
        if number == signal.SIGINT and first and now - first[0] > IMPATIENT_SECONDS and not parallel.inside():
            raise SystemExit(128 + number)
        first.append(now)
        request_stop(number)

    for number in SIGNALS:
        signal.signal(number, note)


class Resume:
    """The resume file of one loop."""

    def __init__(self, output: Path, digest: str, every: float = 120.0) -> None:
        """
        Args:
            output: the artifact that the loop makes; the resume file stands beside it.
            digest: of settings, code and inputs. A file of another digest is not used.
            every: seconds between two checkpoints.
        """
        self.path = output.with_name(output.name + ".resume.safetensors")
        self.digest, self._every, self._last = digest, every, time.monotonic()
        _savers.append(self.path)

    def restore(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and facts of the last checkpoint; None where there is none of this digest."""
        try:
            tensors, about = load_tensors(self.path)
        except FileNotFoundError:
            return None
        except (OSError, NotSafetensors) as error:
            print(f"{self.path}: cannot be read ({error}); starting afresh", file=sys.stderr)
            return None
        if about.get("digest") != self.digest:
            print(f"{self.path}: made by other settings, code or inputs; starting afresh", file=sys.stderr)
            return None
        WORK.take_over(float(about.get("seconds", 0)))
        facts = json.loads(about["facts"])
        place = ", ".join(f"{name} {value}" for name, value in facts.items() if not isinstance(value, list | dict))
        print(f"{self.path}: resuming at {place}", file=sys.stderr)
        return tensors, facts

    def checkpoint(self, state: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]], force: bool = False) -> None:
        """Save if it is time to, if `force` says so, or if a signal asked for it; after a signal the process ends.

        Raises:
            SystemExit: a signal asked for it; the state is saved.
        """
        if force or _requested or time.monotonic() - self._last >= self._every:
            tensors, facts = state()
            about = {"digest": self.digest, "facts": json.dumps(facts), "seconds": f"{WORK.seconds:.3f}"}
            save_tensors(self.path, tensors, about)
            self._last = time.monotonic()
        if _requested:
            print(f"stopped by signal {_requested[0]}; saved {self.path}", file=sys.stderr)
            raise SystemExit(128 + _requested[0])

    def finish(self) -> None:
        """The outputs are written: the resume file is needed no more."""
        discard(self.path)


@without_compiler()
def pack(
    modules: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer] | None = None
) -> dict[str, Tensor]:
    """The state of modules and optimizers as flat tensors, cloned."""
    states = {f"module/{name}/": module.state_dict() for name, module in modules.items()}
    states |= {f"optimizer/{name}/": optimizer_tensors(optimizer) for name, optimizer in (optimizers or {}).items()}
    return {f"{prefix}{key}": value.clone() for prefix, state in states.items() for key, value in state.items()}


@without_compiler()
def unpack(
    tensors: dict[str, Tensor],
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer] | None = None,
) -> None:
    """Load the tensors of `pack` into modules and optimizers."""
    for name, module in modules.items():
        module.load_state_dict(below(tensors, f"module/{name}/"))
    for name, optimizer in (optimizers or {}).items():
        load_optimizer(optimizer, below(tensors, f"optimizer/{name}/"))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as flat tensors, `<parameter>/<name>`."""
    return {
        f"{index}/{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of `optimizer_tensors` into an optimizer."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
