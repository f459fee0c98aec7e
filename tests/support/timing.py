"""Limits on time that hold on a busy machine: processor seconds, beside those of a known command in the same minute."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from clone import Clone


def processor_seconds(clone: Clone, command: Sequence[str]) -> float:
    """Processor seconds of a command in a copy of the project, its child processes among them."""
    process = subprocess.Popen(
        command, cwd=clone.folder, env=clone.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime


def least_seconds(clone: Clone, *commands: Sequence[str], rounds: int = 3) -> list[float]:
    """Least processor seconds of each command; they take turns, so that all of them meet the same machine."""
    times = [[processor_seconds(clone, command) for command in commands] for _ in range(rounds)]
    return [min(column) for column in zip(*times, strict=True)]
