"""Which device a stage computes on, with how many threads, and which card it leases.

torch is imported inside the functions: a lease has to be taken before torch looks at the cards.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import stat
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from distillery.errors import BadInput
from distillery.processes import scheduled, take_lock

if TYPE_CHECKING:
    import torch

LEASE_SECONDS = 24 * 3600.0
"""How long a job waits for a card that others have."""

SAY_SECONDS = 600.0
"""Between two words on that."""

_leases: list[IO[str]] = []


def bound_cores() -> int:
    """The cores that this process is bound to; all of the machine where the system cannot say, as that of a Mac."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowed_cores() -> int:
    """The cores that this process may keep busy: those it is bound to, and no more than Slurm has given to its job."""
    bound, given = bound_cores(), os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(bound, int(given)) if given.isdecimal() and int(given) > 0 else bound


def visible_cards() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [card.strip() for card in listed.split(",") if card.strip() and card.strip() != "-1"]
    found = Path("/proc/driver/nvidia/gpus")
    return [str(index) for index in range(len(list(found.iterdir())))] if found.is_dir() else []


def lease_card() -> str | None:
    """Take one of several visible GPUs for this process alone, and hide the others from it.

    The lock ends with the process, however that ends. Where there is one card or none nothing is leased, and in a job
    that was submitted to a scheduler neither: it has its card. With every card taken it says so, and waits for one.

    Raises:
        TimeoutError: every card was taken for as long as `LEASE_SECONDS`.
        BadInput: another user made the folder of locks, or may write in it.
    """
    cards = visible_cards()
    if len(cards) < 2 or scheduled():
        return None
    folder = Path(tempfile.gettempdir(), f"distillery-cards-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise BadInput(
            f"{folder}: not a folder that this user alone writes, so its locks cannot be trusted; remove it, or set "
            "TMPDIR to a folder of your own"
        )
    start, said = time.monotonic(), -math.inf
    while (now := time.monotonic()) - start < LEASE_SECONDS:
        if now - start > 1 and now - said > SAY_SECONDS:
            said = now
            print(f"waiting for a card: {', '.join(cards)} are leased (locks in {folder})", file=sys.stderr, flush=True)
        for card in cards:
            path = folder / f"{card}.lock"
            lock = path.open("a")
            if not take_lock(lock, path):
                lock.close()
                continue
            _leases.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = card
            return card
        time.sleep(0.2)
    raise TimeoutError(f"no card was free for {LEASE_SECONDS / 3600:.0f} h: {', '.join(cards)} (locks in {folder})")


def prepare(threads: int) -> torch.device:
    """Set torch up so that equal work gives equal bytes, and return the device to compute on."""
    import torch

    _keep_memory()
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # without the compiler, which `use_deterministic_algorithms` imports
    # Against reads that nobody does, for some percent of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = False
        # Where torch only warns of what does not repeat, the gradients of fused attention do not repeat.
        torch.backends.cuda.enable_math_sdp(True)
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_cudnn_sdp(False)
        return torch.device("cuda")
    return torch.device("cpu")


def compiled(network: Any) -> Any:
    """A network or function compiled for one shape, as repeatable as `prepare` asked for."""
    import torch

    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(True, warn_only=True)  # says so to the compiler, too
    return torch.compile(network, dynamic=False)


def fused_attention(device: torch.device) -> AbstractContextManager[None]:
    """Where attention may take fused kernels: on a GPU, without a graph. Forward they repeat."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if device.type != "cuda" or torch.is_grad_enabled():
        return nullcontext()
    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]
    )


def plain_attention() -> AbstractContextManager[None]:
    """Where attention takes the kernel that has a second derivative; fused ones have none, on any device."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)


def lowered(device: torch.device, precision: Literal["auto", "float32", "bfloat16"]) -> torch.autocast:
    """Where networks compute in bfloat16, if they are told to; auto: on a GPU."""
    import torch

    low = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


SMALLEST_SIDE = 32
"""Of images in pixels: on smaller ones bfloat16 makes some networks slower on a CPU."""

_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""What Linux calls the instructions, the last one on ARM."""


@cache
def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every core has instructions for bfloat16, as far as Linux says; without them it is slower than fp32."""
    with suppress(OSError):
        flags = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text("utf-8", "replace"), re.MULTILINE)
        return bool(flags) and all(_BFLOAT16_FLAGS & set(words.split()) for words in flags)
    return False


def trains_in_bfloat16(device: torch.device, precision: Literal["auto", "float32", "bfloat16"], side: int) -> bool:
    """Whether networks are trained in bfloat16 on images of a side in pixels.

    `auto`: on a GPU, and on a CPU that has instructions for it, from `SMALLEST_SIDE` on.
    """
    if precision == "auto":
        return device.type == "cuda" or (side >= SMALLEST_SIDE and cpu_has_bfloat16())
    return precision == "bfloat16"


def described(device: torch.device) -> str:
    """What results depend on by rounding: `cuda`, `cpu`, or `cpu with bfloat16`."""
    return "cpu with bfloat16" if device.type == "cpu" and cpu_has_bfloat16() else device.type


def _keep_memory() -> None:
    """Let the C library keep what torch frees: given back, every large tensor is paid for again in page faults.

    Worth a sixth to a third of a training step of a small network. Of glibc alone; elsewhere nothing happens.
    """
    mmap_threshold, trim_threshold = -3, -1  # the names of malloc.h
    try:
        adjust = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    adjust(mmap_threshold, 1 << 25)  # the most that glibc takes
    adjust(trim_threshold, (1 << 31) - 1)
