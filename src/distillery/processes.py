"""Whether the process that wrote a note still lives.

psutil's `create_time` does not tell: it is counted from a boot time that moves when the clock is set, and then a living
process looks like another one.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import psutil

PROC = Path("/proc")


def write_owner(note: Path) -> None:
    """Write down which process this is."""
    note.parent.mkdir(parents=True, exist_ok=True)
    temporary = note.with_name(f".{note.name}.{os.getpid()}")
    temporary.write_text(json.dumps([socket.gethostname(), os.getpid(), identity(os.getpid())]), "utf-8")
    temporary.replace(note)


def owner_alive(note: Path) -> bool | None:
    """Whether the process that signed a note lives; None where that cannot be told from here."""
    try:
        host, pid, signed = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if host != socket.gethostname():
        return None
    return identity(pid) == signed


def identity(pid: int) -> str:
    """What a process and no later one with its number has; empty if there is none, or if it has ended.

    On Linux the machine's boot and the ticks between that and the start; elsewhere the second of the start.
    """
    if not (PROC / "self/stat").exists():
        try:
            return f"{psutil.Process(pid).create_time():.0f}"
        except psutil.NoSuchProcess:
            return ""
    try:
        state, *fields = (PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    boot = (PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    return "" if state in "ZX" else f"{boot} {fields[18]}"
