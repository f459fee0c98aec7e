"""Random kills while an experiment runs on the test cluster, over and over: what a user has to do, and what comes out.

    python benchmarks/reliability.py --kills 200

Every some seconds something is ended: a process of a stage, a job, a node with all that runs on it, the controller, or
Snakemake itself (killed, hung up, interrupted). A run that ends before its time is started by the same command again.
Finished, its files are compared byte for byte with those of an undisturbed run on this machine, and the next begins.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests/support"))

from clone import Clone  # noqa: E402
from on_slurm import HERE, SMALL, Cluster, Run, end  # noqa: E402

PAUSE_SECONDS = (0.5, 20.0)
"""Between a start or a kill and the next kill. A job starts and saves in some ten seconds; it has to get on too."""

STAGES = "a process of a stage: kill -9"
JOBS = "a job: scancel"
NODES = "a node and all that runs on it: kill -9"
CONTROLLER = "the controller: restart, 2 s away"
SIGNALS = {
    "Snakemake: kill -9": signal.SIGKILL,
    "Snakemake: hang-up": signal.SIGHUP,
    "Snakemake: Ctrl-C": signal.SIGINT,
}
KINDS = (STAGES, JOBS, NODES, CONTROLLER, *SIGNALS)


@dataclass
class Outcome:
    """What happened.

    Attributes:
        kills: by kind.
        again: how often the same command had to be given again, by the kind of the last kill.
        unlocks: how often Snakemake asked for `--unlock`.
        runs: finished ones.
        different: files of finished runs that differ from the undisturbed one.
        unfinished: runs after which a dry run found something to do.
    """

    kills: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    unlocks: int = 0
    runs: int = 0
    different: list[str] = field(default_factory=list)
    unfinished: int = 0
    seconds: float = 0.0

    def table(self) -> str:
        """As Markdown."""
        lines = ["| what was ended | times | same command given again |", "| --- | ---: | ---: |"]
        lines += [f"| {kind} | {self.kills[kind]} | {self.again[kind]} |" for kind in KINDS]
        lines.append(f"| **all** | **{self.kills.total()}** | **{self.again.total()}** |")
        lines.append("")
        lines.append(
            f"{self.runs} runs finished in {self.seconds / 60:.0f} min; files that differ from an undisturbed run:"
            f" {len(self.different)}; runs that left something to do: {self.unfinished}; `--unlock` needed:"
            f" {self.unlocks}."
        )
        return "\n".join(lines)


def undisturbed(folder: Path) -> Clone:
    """The experiment, finished on this machine without the cluster."""
    clone = new_clone(folder)
    done = clone.run("snakemake", "--cores", "all", "--configfile", SMALL)
    if done.returncode:
        raise SystemExit(done.stdout)
    return clone


def new_clone(folder: Path) -> Clone:
    """The project before its first run of the experiment."""
    clone = Clone.of_project(folder)
    shutil.copy(HERE / "small.yaml", clone.folder / SMALL)
    return clone


class Trouble:
    """Ends things at random."""

    def __init__(self, cluster: Cluster, seed: int, pause: tuple[float, float]) -> None:
        self.cluster, self.draw, self.pause = cluster, random.Random(seed), pause

    def wait(self, run: Run) -> bool:
        """Let some seconds pass; whether the run still goes."""
        stop = time.monotonic() + self.draw.uniform(*self.pause)
        while time.monotonic() < stop and run.process.poll() is None:
            time.sleep(0.05)
        return run.process.poll() is None

    def make(self, clone: Clone, run: Run) -> str | None:
        """End something; what it was, or None where there was nothing of that kind."""
        kind = self.draw.choice(KINDS)
        if kind in SIGNALS:
            end(run, SIGNALS[kind])
        elif kind == CONTROLLER:
            self.cluster("restart", "2")
        elif kind == NODES:
            node = self.draw.choice(("cn1", "cn2"))
            self.cluster("lose", node)
            time.sleep(self.draw.uniform(0, 5))
            self.cluster("return", node)
        elif kind == JOBS:
            jobs = self.cluster.jobs("RUNNING")
            if not jobs:
                return None
            subprocess.run(["scancel", self.draw.choice(jobs)], capture_output=True, check=False, timeout=60)
        else:
            stages = [process for process in clone.processes() if _is_stage(process)]
            if not stages:
                return None
            try:
                self.draw.choice(stages).kill()
            except psutil.NoSuchProcess:
                return None
        return kind


def _is_stage(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1:3] == ["-m", "distillery"]
    except psutil.Error:
        return False


def disturb(
    cluster: Cluster,
    folder: Path,
    kills: int,
    seed: int,
    outcome: Outcome,
    say: Callable[[str], None] = print,
    pause: tuple[float, float] = PAUSE_SECONDS,
    finished: Clone | None = None,
) -> None:
    """Run the experiment again and again until so many things were ended, and compare what comes out.

    Args:
        finished: an undisturbed run; none: one is made.
    """
    trouble, start = Trouble(cluster, seed, pause), time.monotonic()
    whole = (finished or undisturbed(folder / "undisturbed")).artifacts()
    while outcome.kills.total() < kills:
        clone, last = new_clone(folder / f"run-{outcome.runs}"), ""
        run = Run(clone)
        while True:
            if outcome.kills.total() < kills and trouble.wait(run) and (kind := trouble.make(clone, run)):
                outcome.kills[kind] += 1
                last = kind
            if outcome.kills.total() >= kills:
                run.wait()
            status = run.process.poll()
            if status == 0:
                break
            if status is not None:
                if "--unlock" in run.printed:
                    outcome.unlocks += 1
                    clone.run("snakemake", "--unlock", "--configfile", SMALL)
                elif not last:
                    raise SystemExit(f"failed by itself:\n{run.printed}")
                outcome.again[last] += 1
                run = Run(clone)
        made = clone.artifacts()
        outcome.different += sorted(name for name in whole.keys() | made.keys() if whole.get(name) != made.get(name))
        outcome.unfinished += not clone.plan(experiment=SMALL).nothing
        outcome.runs += 1
        cluster.clear()
        shutil.rmtree(clone.folder)
        outcome.seconds = time.monotonic() - start
        say(
            f"{outcome.kills.total()} kills, {outcome.runs} runs, {len(outcome.different)} files differ,"
            f" {outcome.unfinished} runs left something to do, {outcome.seconds:.0f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="of what is ended when; none: another each time")
    parser.add_argument(
        "--pause", type=float, nargs=2, default=PAUSE_SECONDS, help="seconds before a kill, from and to"
    )
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    cluster = Cluster()
    cluster("start")
    outcome = Outcome()
    say, pause = functools.partial(print, flush=True), tuple(arguments.pause)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        contextlib.suppress(KeyboardInterrupt),  # the table then says what was until here
    ):
        disturb(cluster, Path(name), arguments.kills, seed, outcome, say, pause)
    cluster("stop", "--purge")
    print(outcome.table())
    for file in outcome.different:
        print(f"differs: {file}")
    sys.exit(bool(outcome.different or outcome.unfinished))


if __name__ == "__main__":
    main()
