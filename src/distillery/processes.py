"""Which process wrote a file, whether it still lives, and how much memory it has taken.

psutil's `create_time` does not identify a process: it is counted from a boot time that moves when the clock is set, and
then a living process looks like another one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import resource
import socket
import sys
import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

PROC = Path("/proc")
LONGEST_NAME = 255
"""Bytes of a file name that file systems take."""

SCHEDULED = "DISTILLERY_SCHEDULED"
"""The environment variable that the Snakefile sets in the jobs of an executor that submits them."""

_FIRST = time.monotonic()
_OWNER = re.compile(r"(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<process>[0-9a-f]{8})-[0-9a-f]{8}\.tmp")


def write_owner(note: Path, *about: str) -> None:
    """Write down which process this is, and more about it."""
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(note)
    temporary.write_text(json.dumps([socket.gethostname(), os.getpid(), identity(os.getpid()), *about]), "utf-8")
    temporary.replace(note)


def owner_alive(note: Path) -> bool | None:
    """Whether the process that `write_owner` noted lives; None where that cannot be told from here."""
    try:
        host, pid, process, *_ = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if host != socket.gethostname():
        return None
    return identity(pid) == process


def identity(pid: int) -> str:
    """What no other process of that number has, on this machine; empty if there is none or it has ended.

    On Linux the machine's boot and the ticks between that and the start; elsewhere the second of the start.
    """
    if not (PROC / "self/stat").exists():
        try:
            import psutil

            return f"{psutil.Process(pid).create_time():.0f}"
        except psutil.NoSuchProcess:
            return ""
    try:
        state, *fields = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    boot = (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    return "" if state in "ZX" else f"{boot} {fields[18]}"


def age() -> float:
    """Seconds since this process started, by a clock that nobody sets; elsewhere than on Linux since it was imported.

    The start of the process, in ticks since the boot, includes the start of Python, which is seconds on a slow disk.
    """
    try:
        ticks = (PROC / "self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.monotonic() - _FIRST


def scheduled() -> bool:
    """Whether an executor of Snakemake has submitted this job: then the scheduler has given it its cards.

    A Snakemake that runs its jobs itself, also in an interactive allocation of Slurm, leaves that to leases.
    """
    return SCHEDULED in os.environ


# ---- temporary files -------------------------------------------------------------------------------------------------


def temporary_name(path: Path) -> Path:
    """A new hidden name beside `path` that says which process writes there; no two writers get the same.

    What dead writers of `path` left under such names is removed.
    """
    remove_abandoned(path)
    owner = f"{_machine()}-{os.getpid()}-{_own_digest(os.getpid())}-{uuid.uuid4().hex[:8]}.tmp"
    return path.with_name(_prefix(path.name) + owner)


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` whose writers are dead.

    Those of living writers stay, and those of other machines and users, whose processes cannot be told from here.
    """
    prefix = _prefix(path.name)
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            owner = _OWNER.fullmatch(entry.name, len(prefix)) if entry.name.startswith(prefix) else None
            if owner is None or owner["machine"] != _machine():
                continue
            with contextlib.suppress(OSError):
                mine = entry.stat(follow_symlinks=False).st_uid == os.getuid()
                if mine and _digest(identity(int(owner["pid"]))) != owner["process"]:
                    Path(entry.path).unlink()


def _prefix(name: str) -> str:
    """The beginning of the temporary names of a file; a digest stands for a name that would become too long."""
    longest = LONGEST_NAME - len(f"..{'0' * 8}-{'0' * 10}-{'0' * 8}-{'0' * 8}.tmp")
    return f".{name if len(os.fsencode(name)) <= longest else _digest(name)}."


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


@lru_cache(maxsize=1)
def _own_digest(pid: int) -> str:
    return _digest(identity(pid))


def _machine() -> str:
    """Stands for this machine, or for a container with process numbers of its own."""
    try:
        numbers = (PROC / "self/ns/pid").readlink()
    except OSError:
        numbers = Path()
    return _digest(f"{socket.gethostname()} {numbers}")


# ---- terminals -------------------------------------------------------------------------------------------------------


def accept_all_characters() -> None:
    """Let this process print characters that its terminal or log cannot show: their names stand for them.

    Otherwise the sign ± ends a finished run with an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="namereplace")


# ---- locks -----------------------------------------------------------------------------------------------------------

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""What a file system answers that has no locks."""


def take_lock(file: IO[Any], path: Path) -> bool:
    """Lock an open file for this process, without waiting; False where a living process holds the lock.

    The lock ends with the process, however that ends. On a file system without locks a note beside the file says which
    process holds it (`drop_lock` removes it). The note of a dead process counts for nothing, nor does that of another
    machine, whose processes cannot be told from here.

    Args:
        path: of the file.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return _claim(_note_of(path))
    return True


def drop_lock(path: Path) -> None:
    """Remove the note of `take_lock`, if there is one; a lock of the file system ends when the file is closed."""
    _note_of(path).unlink(missing_ok=True)


def _note_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _claim(note: Path) -> bool:
    """Put the note of this process there, unless that of a living one is."""
    while True:
        own, stale = temporary_name(note), temporary_name(note)
        write_owner(own)
        try:
            note.hardlink_to(own)  # one process alone gets to make it, with all its text
            return True
        except FileExistsError:
            if owner_alive(note):
                return False
            with contextlib.suppress(FileNotFoundError):
                note.rename(stale)
            if owner_alive(stale):  # another process has put its own there since
                with contextlib.suppress(FileExistsError):
                    note.hardlink_to(stale)
        finally:
            for temporary in (own, stale):
                temporary.unlink(missing_ok=True)


# ---- memory ----------------------------------------------------------------------------------------------------------


def peak_memory_mb() -> float:
    """The most memory that this process, or one process that it started and waited for, has held.

    Linux starts `ru_maxrss` of a program at the peak of the process that started it; `VmHWM` is the program's own.
    """
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    with contextlib.suppress(OSError, StopIteration):
        lines = (PROC / "self/status").read_text("utf-8", "replace").splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return max(own, children) / (2**20 if sys.platform == "darwin" else 1024)  # a Mac counts bytes
