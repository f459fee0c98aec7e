"""A test cluster, and runs of the workflow on it that can be disturbed at a chosen moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
from clone import PROJECT, Clone, wait_until

from distillery.slurm import PREFIX

HERE = PROJECT / "tests/slurm"
SMALL = "experiments/small.yaml"
GENERATOR = "results/small/generators/dit"
TARGET = f"{GENERATOR}/model_index.json"
WEIGHTS = f"{GENERATOR}/transformer/diffusion_pytorch_model.safetensors"
RESUME = f"{WEIGHTS}.resume.safetensors"
LOG = "results/small/logs/train_generator-dit.log"
OURS = f"{PREFIX}_{uuid.uuid4().hex[:12]}"
"""The beginning of the names of all jobs that this process asks for: it looks at no others."""

PATIENCE = 600
"""Seconds that a run on a busy machine may take before a test gives up on it."""


for _number in (signal.SIGINT, signal.SIGHUP):
    # A background process of a shell ignores the one, what nohup started the other, and so would all that it starts.
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


def slurm(*command: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(command, text=True, capture_output=True, check=True, timeout=60).stdout.strip()


def submit(command: str, *options: str, name: str = "alone") -> str:
    """Submit a shell command as a job; its number."""
    return slurm("sbatch", "--parsable", "--output=/dev/null", f"--job-name={OURS}_{name}", *options, "--wrap", command)


class Cluster:
    """The two nodes that `cluster.sh` starts."""

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(HERE / "cluster.sh"), *arguments]
        done = subprocess.run(command, text=True, capture_output=True, timeout=600, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    def jobs(self, *states: str) -> list[str]:
        """Numbers of our jobs in some states: pending, running and ending ones, if none are named."""
        return own_jobs(slurm("squeue", "-h", "-o", "%A %j", *(["-t", ",".join(states)] if states else [])))

    def idle(self) -> bool:
        """Whether every node is there and has nothing to do."""
        return set(slurm("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"}

    def clear(self) -> None:
        """Cancel our jobs, and wait until they are gone."""
        for how in (["--signal=KILL", "--full"], []):
            if jobs := self.jobs():  # some may end by themselves meanwhile
                subprocess.run(["scancel", *how, *jobs], capture_output=True, check=False, timeout=60)
        wait_until(lambda: not self.jobs(), 60, f"jobs do not end: {self.jobs()}")


def own_jobs(listed: str) -> list[str]:
    """The numbers of our jobs in lines of numbers and names."""
    return [
        number for number, _, name in (line.partition(" ") for line in listed.splitlines()) if name.startswith(OURS)
    ]


class Run:
    """One `snakemake --cores all --profile slurm` at work."""

    def __init__(self, clone: Clone, *arguments: str, checkpoint_seconds: float = 0.2) -> None:
        self.clone = clone
        self._printed = clone.folder / f"printed-{time.monotonic_ns()}.txt"
        with self._printed.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "snakemake"), "--configfile", SMALL,
                 "--cores", "all", "--profile", "slurm", "--slurm-jobname-prefix", OURS, *arguments],
                cwd=clone.folder,
                env={**clone.environment, "DISTILLERY_CHECKPOINT_SECONDS": str(checkpoint_seconds)},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self._printed.read_text("utf-8")

    def wait(self) -> int:
        """Its exit status."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"no end after {PATIENCE} s:\n{self.printed}") from None

    def succeeds(self) -> str:
        """Wait for its good end; what it printed."""
        assert self.wait() == 0, self.printed
        return self.printed

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something that happens while it runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.printed}"
            assert time.monotonic() < end, f"not {what}:\n{self.printed}"
            time.sleep(0.05)

    def until_says(self, words: str) -> None:
        """Wait until it prints something."""
        self.until(lambda: words in self.printed, f"it said {words!r}")

    def stage_saved(self, but: tuple[int, ...] = ()) -> psutil.Process:
        """Wait until the training of the generator has saved; it is stopped then, for the test to do its worst."""
        trainings: list[psutil.Process] = []

        def started() -> bool:
            trainings[:] = [process for process in stages(self.clone) if process.pid not in but]
            return bool(trainings)

        self.until(started, "the training starts")
        before = self._saved_at()
        self.until(lambda: self._saved_at() > before, "a checkpoint")
        trainings[0].suspend()
        return trainings[0]

    def _saved_at(self) -> int:
        """When the training has last saved, in nanoseconds; 0 if there is nothing to go on from."""
        with contextlib.suppress(FileNotFoundError):
            return (self.clone.folder / RESUME).stat().st_mtime_ns
        return 0


def stages(clone: Clone, name: str = "train_generator") -> list[psutil.Process]:
    """The processes of a stage that work in a clone."""
    found = []
    for process in clone.processes():
        try:
            if process.cmdline()[1:4] == ["-m", "distillery", name]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def job_of(process: psutil.Process) -> str:
    """The number of the Slurm job that a process belongs to."""
    return process.environ()["SLURM_JOB_ID"]


def node_of(job: str) -> str:
    """The node that a job runs on."""
    return slurm("squeue", "-h", "-o", "%N", "-j", job)


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def told_to_end(process: psutil.Process) -> bool:
    """Whether a stopped process has got a TERM; Slurm may have let it go on by itself, and then it is over."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    except FileNotFoundError:
        return True
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd")), 16)
    return gone(process) or bool(mask >> (signal.SIGTERM - 1) & 1)


def go_on(process: psutil.Process) -> None:
    """Let a stopped process go on, if it is still there."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


def end(run: Run, number: signal.Signals) -> None:
    """Send a signal to a Snakemake, and wait until it is gone."""
    os.kill(run.process.pid, number)
    run.process.wait(120)
