"""Whether the jobs of an experiment can fit the limits, by estimates that no job stays below."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from distillery.devices import bound_cores, visible_cards
from distillery.errors import ExperimentError
from distillery.plan.estimate import estimates
from distillery.plan.experiment import Experiment
from distillery.plan.limits import CORE_TERAFLOPS, DISK_GB, MEMORY_GB, TERAFLOPS

GB = 1e9
CONTAINER = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """What jobs and files can have where no limit is stated.

    Attributes:
        memory: bytes of one job.
        disk: bytes of all files of a run.
        teraflops: of one job.
        name: for messages, before the limit.
    """

    memory: float = MEMORY_GB * GB
    disk: float = DISK_GB * GB
    teraflops: float = TERAFLOPS
    name: str = "the default limit is"

    @classmethod
    def here(cls, results: Path) -> Machine:
        """This machine; what lies below `results` has its room already. Of its cards nothing is known."""
        existing = next(folder for folder in (results, *results.absolute().parents) if folder.is_dir())
        disk = min(cls.disk, shutil.disk_usage(existing).free + written_below(results))
        if visible_cards():
            return cls(disk=disk, name="this machine has")
        return cls(min(cls.memory, machine_memory()), disk, CORE_TERAFLOPS * bound_cores(), "this machine has")


def written_below(folder: Path) -> int:
    """Bytes of the files below a folder; those that go away meanwhile are left out."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.lstat().st_size
    return size


def machine_memory() -> float:
    """Bytes that all processes of this machine, or of this container, can have, swap included."""
    import psutil

    memory = float(psutil.virtual_memory().total + psutil.swap_memory().total)
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, float(CONTAINER.read_text("ascii")))
    return memory


def refuse_here(experiment: Experiment, stages: Collection[str], results: Path) -> None:
    """Refuse jobs of these stages that cannot fit this machine, before the first one starts.

    Raises:
        ExperimentError: one line per fault.
    """
    if stages and (faults := list(check_limits(experiment, Machine.here(results), stages))):
        raise ExperimentError("\n".join(faults))


def check_limits(
    experiment: Experiment, machine: Machine | None = None, stages: Collection[str] | None = None
) -> Iterator[str]:
    """What surely takes more than the limits: of each block the worst, as `key: what it takes; the way out`.

    Args:
        machine: the limits that are not stated.
        stages: those that are to run; None: all.
    """
    machine, stated = machine or Machine(), experiment.limits
    memory = machine.memory if stated.memory_gb is None else stated.memory_gb * GB
    disk = machine.disk if stated.disk_gb is None else stated.disk_gb * GB
    teraflops = stated.teraflops or machine.teraflops
    worst: dict[str, tuple[float, str]] = {}

    def note(share: float, key: str, what: str, limit: str, name: str) -> None:
        block = ".".join(key.split(".")[: 1 if key.startswith("evaluation") else 2])
        if share > 1 and share > worst.get(block, (0.0, ""))[0]:
            owner = f"limits.{name} is" if getattr(stated, name) is not None else machine.name
            worst[block] = share, f"{key}: {what}; {owner} {limit}; lower it, or raise limits.{name}"

    files: dict[str, float] = {}
    for estimate in estimates(experiment):
        if stages is not None and estimate.stage not in stages:
            continue
        for key, size in estimate.disk.items():
            files[key] = files.get(key, 0.0) + size
        if needed := sum(estimate.memory.values()):
            key = max(estimate.memory, key=lambda name: estimate.memory[name])
            what = f"{estimate.stage} takes {_bytes(needed)} of memory at least"
            note(needed / memory, key, what, _bytes(memory), "memory_gb")
        hours = estimate.seconds(teraflops) / 3600
        what = f"{estimate.stage} takes {_number(hours)} hours at least, at {teraflops:,g} teraflops (limits.teraflops)"
        note(hours / stated.hours, estimate.time_key, what, f"{stated.hours:,g}", "hours")
    if files:
        key, needed = max(files, key=lambda name: files[name]), sum(files.values())
        what = f"its files take {_bytes(files[key])} of the disk at least, and all files {_bytes(needed)}"
        note(needed / disk, key, what, _bytes(disk), "disk_gb")
    yield from (words for _, words in worst.values())


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _bytes(size: float) -> str:
    unit, name = (1e12, "TB") if size >= 1e12 else (GB, "GB") if size >= GB else (1e6, "MB")
    return f"{_number(size / unit)} {name}"
