"""Several processes that share one training in one job: started by torchrun, averaged after every step.

Every process draws the random numbers of the whole batch and works on its share of it, so that the result depends on
the number of processes by rounding alone. The first one alone writes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distillery.processes import scheduled

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def rank() -> int:
    """The number of this process among those that share the training; 0 where it is alone."""
    return int(os.environ.get("RANK", "0")) if inside() else 0


def size() -> int:
    """How many processes share the training."""
    return int(os.environ["WORLD_SIZE"]) if inside() else 1


def inside() -> bool:
    """Whether this process was started by `launch`."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "WORLD_SIZE" in os.environ


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Become torchrun, which starts so many processes of this command. Signals that end a job reach them all."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "distillery"]
    os.execv(sys.executable, [sys.executable, *command, *arguments])


def choose_card(cards: Sequence[str]) -> None:
    """Where a scheduler gave this job several cards, take the one of this process's number."""
    if inside() and scheduled() and len(cards) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[int(os.environ["LOCAL_RANK"]) % len(cards)]


def join(device: torch.device) -> None:
    """Meet the other processes."""
    if inside():
        import torch

        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def leave() -> None:
    """Part from the other processes."""
    if inside():
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all processes."""
    if size() == 1:
        return
    import torch

    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= size()
    at = 0
    for tensor in tensors:
        tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
        at += tensor.numel()


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    if size() == 1:
        return flag
    import torch

    told = torch.tensor([float(flag)], device=device)
    torch.distributed.all_reduce(told)
    return bool(told.item() > 0)
