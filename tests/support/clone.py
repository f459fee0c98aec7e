"""A working copy of the project in a folder of its own: to run, edit, move and kill as a user would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dry_runs
import psutil
import yaml

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "config.yaml", "pyproject.toml", "envs", "experiments", "profiles", "slurm", "src", "workflow")
NO_CLUSTER = PROJECT / "tests" / "no_cluster"
"""Holds a `scontrol` that fails at once: Snakemake's plugin for Slurm asks it whenever it is imported."""

SMOKE = "experiments/smoke.yaml"
SMOKE_RUN = ("--cores", "2", "--configfile", SMOKE)
NOTHING = "Nothing to be done"
_JOB = re.compile(
    r"^(?P<indent> *)(?:local)?rule (?P<rule>\w+):\n(?P<about>(?:(?P=indent) {4}.*\n)+)", re.MULTILINE
)  # the jobs of a group are indented
_FOREIGN = ("SLURM", "SNAKEMAKE", "DISTILLERY", "PYTEST", "XDG_CONFIG")


def clean_environment() -> dict[str, str]:
    """The environment without what belongs to the caller's cluster or workflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    path = os.pathsep.join([str(NO_CLUSTER), str(Path(sys.executable).parent), kept.get("PATH", "")])
    return {**kept, "PATH": path}


@dataclass(frozen=True)
class PlannedJob:
    """One job of a dry run."""

    rule: str
    inputs: list[str]
    outputs: list[str]
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a dry run says it would do."""

    text: str
    jobs: list[PlannedJob]

    @property
    def nothing(self) -> bool:
        """Whether nothing is to be done."""
        return NOTHING in self.text and not self.jobs

    @property
    def rules(self) -> Counter[str]:
        """How many jobs each rule has; `all` is left out, which does nothing."""
        return Counter(job.rule for job in self.jobs if job.rule != "all")

    @property
    def outputs(self) -> set[str]:
        """The files that would be made."""
        return {output for job in self.jobs for output in job.outputs}

    def reasons(self, rule: str) -> str:
        """Why the jobs of a rule would run."""
        return "\n".join(job.reason for job in self.jobs if job.rule == rule)


class Clone:
    """A working copy of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_project(cls, folder: Path) -> Clone:
        """A fresh copy, as from the version control: without results, caches and Snakemake's notes."""
        folder.mkdir(parents=True)
        for part in PARTS:
            source, target = PROJECT / part, folder / part
            if source.is_symlink():
                target.symlink_to(source.readlink())
            elif source.is_dir():
                shutil.copytree(
                    source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
                )
            else:
                shutil.copy2(source, target)
        return cls(folder)

    def copy(self, folder: Path) -> Clone:
        """A copy of this copy with all that it has, times of files included."""
        subprocess.run(["cp", "-a", str(self.folder), str(folder)], check=True)
        return Clone(folder)

    @property
    def environment(self) -> dict[str, str]:
        """An environment in which this copy's sources are what runs."""
        return {**clean_environment(), "PYTHONPATH": str(self.folder / "src")}

    def run(self, *command: str, timeout: float = 3600) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy; stdout and stderr together in `stdout`."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )

    def python(self, code: str) -> str:
        """What a piece of Python prints."""
        done = self.run(sys.executable, "-c", code)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    def smoke(self, *targets: str) -> str:
        """Run the smoke experiment to its end, or to some of its files; what it printed."""
        done = self.run("snakemake", *SMOKE_RUN, "--", *targets)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def killed(self, number: signal.Signals, jobs: int, seconds: float, *targets: str) -> bool:
        """Run the smoke experiment, or some of its files, and send a signal to its whole process group on the way.

        Args:
            jobs: the signal comes when so many jobs are done, those of earlier runs included,
            seconds: and so much time has passed since,
            targets: none: all.

        Returns:
            Whether it was still running.
        """
        process = subprocess.Popen(
            ["snakemake", *SMOKE_RUN, "--", *targets],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            enough = f"less than {jobs} jobs in an hour"
            wait_until(lambda: process.poll() is not None or self.jobs_done() >= jobs, 3600, enough)
            time.sleep(seconds)
            if process.poll() is not None:
                return False
            os.killpg(process.pid, number)
            return True
        finally:
            wait_until(lambda: not self.processes(), 600, f"jobs in {self.folder} outlive signal {number}")
            process.wait()

    def jobs_done(self) -> int:
        """How many jobs have said what they cost."""
        return len(list((self.folder / "results").rglob("cost/**/*.json")))

    def processes(self) -> list[psutil.Process]:
        """Processes that work in this folder, the dead ones that wait for their parent left out."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(self.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def dry_run(self, *arguments: str) -> tuple[int, str]:
        """Exit status of a dry run, and what it printed."""
        return dry_runs.snakemake(self.folder, self.environment, ["-n", *arguments])

    def plan(self, *arguments: str, experiment: str = SMOKE) -> Plan:
        """A dry run."""
        return self.plan_default("--configfile", experiment, *arguments)

    def plan_default(self, *arguments: str) -> Plan:
        """A dry run of whatever the arguments say."""
        status, printed = self.dry_run(*arguments)
        assert status == 0, printed
        jobs = []
        for found in _JOB.finditer(printed):
            about = dict(line.strip().partition(": ")[::2] for line in found["about"].splitlines())
            inputs, outputs = (about[key].split(", ") if about.get(key) else [] for key in ("input", "output"))
            jobs.append(PlannedJob(found["rule"], inputs, outputs, about.get("reason", "")))
        return Plan(printed, jobs)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a piece of text in a file; it has to be there."""
        file = self.folder / path
        text = file.read_text("utf-8")
        assert old in text, f"{path} holds no {old!r}"
        file.write_text(text.replace(old, new), "utf-8")

    def change(self, edit: Callable[[dict[str, Any]], object], experiment: str = SMOKE) -> None:
        """Change an experiment file."""
        file = self.folder / experiment
        content = yaml.safe_load(file.read_text("utf-8"))
        edit(content)
        file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")

    def artifacts(self) -> dict[str, bytes]:
        """All results by their paths. Logs, costs and the report page, which hold times, are none."""
        results = self.folder / "results"
        return {
            str(path.relative_to(results)): path.read_bytes()
            for path in sorted(results.rglob("*"))
            if path.is_file() and not {"logs", "cost"} & set(path.parts) and path.name != "index.html"
        }


def wait_until(condition: Callable[[], object], seconds: float, otherwise: str) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it did not come true in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)
