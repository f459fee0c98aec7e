"""Where running jobs stand: the newest line of the log of each, whenever there is a new one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from logging import LogRecord
from pathlib import Path
from threading import Event, Lock, Thread

from snakemake_interface_logger_plugins.common import LogEvent

TAIL_BYTES = 8192
LONGEST_LINE = 300


@dataclass
class _Job:
    """A running job.

    Attributes:
        label: its rule and its wildcards.
        logs: the files of its log.
        shown: its newest line at the last look; one that stood there before it began is none of its own.
    """

    label: str
    logs: list[Path]
    shown: str


class RunningJobs:
    """The jobs that Snakemake's events say are running, on this machine or anywhere with the same files."""

    def __init__(self, seconds: float, show: Callable[[str], object] | None = None) -> None:
        """
        Args:
            seconds: between two looks at the logs.
            show: takes a line; None: prints it on stderr.
        """
        self._seconds, self._show = seconds, show or _print
        self._jobs: dict[int, _Job] = {}
        self._lock, self._end = Lock(), Event()
        self._thread: Thread | None = None

    def note(self, record: LogRecord) -> None:
        """Take an event of Snakemake; the first job starts the looks."""
        about, event = vars(record), getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            wildcards = [text for value in dict(about["wildcards"] or {}).values() if (text := str(value).strip("/"))]
            logs = [Path(path) for path in about["log"] or () if str(path).endswith(".log")]
            job = _Job(" ".join([about["rule_name"], *wildcards]), logs, newest_line(logs))
            with self._lock:
                self._jobs[about["jobid"]] = job
            self._start()
        elif event in (LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR):
            with self._lock:
                self._jobs.pop(about["job_id"] if event == LogEvent.JOB_FINISHED else about["jobid"], None)

    def news(self) -> Iterator[str]:
        """A line for each running job whose log has a new one."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            line = newest_line(job.logs)
            if line and line != job.shown:
                job.shown = line
                yield f"{job.label}: {line}"

    def close(self) -> None:
        """Look no more."""
        self._end.set()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._look, name="running jobs", daemon=True)
            self._thread.start()

    def _look(self) -> None:
        while not self._end.wait(self._seconds):
            for line in self.news():
                self._show(line)


def newest_line(logs: list[Path]) -> str:
    """The last whole line of the first log that has one, without characters that move a terminal's cursor.

    The record of its cost, which a job that ends prints as JSON, is left out.
    """
    for log in logs:
        with suppress(OSError), log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - TAIL_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").split("\n")[:-1]  # the last one may be half a line
            for line in reversed(lines):
                text = "".join(filter(str.isprintable, line)).strip()
                if text and not text.startswith("{"):
                    return text[:LONGEST_LINE]
    return ""


def _print(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads it
        print(line, file=sys.stderr, flush=True)
