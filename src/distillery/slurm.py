"""What Snakemake's Slurm executor leaves open: requests that no node can meet, orphans of a killed run, endless waits.

The Snakefile calls `prepare` in the process that submits. `make slurm-clean` and `make slurm-queue` are commands of
this module. Orders go through sbatch, squeue and scancel, as the executor's own do.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import getpass
import importlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from distillery import processes
from distillery.errors import SlurmProblem

PREFIX = "distillery"
"""Of the names of jobs; `slurm-jobname-prefix` of the profile says the same."""

PROFILE = "workflow/profiles/slurm/profile.yaml"
RUNS = Path(".snakemake/slurm-runs")
COMMAND_SECONDS = 60.0
GONE_SECONDS = 120.0
"""How long a cancelled job may take to save and end: more than the KillWait of clusters, which is 30 s."""

LOOK_SECONDS = 30.0
"""Between two questions for the states of jobs, at most. The executor's own waits grow to three minutes, at each link
of a chain of increments."""

EXPLAIN_SECONDS = 600.0
"""Between two words on jobs that wait."""

SILENCE_SECONDS = 24 * 3600.0
"""How long a controller may give no answer while jobs run."""

MIN_JOB_AGE = 300
"""Seconds that a controller remembers an ended job, where nobody changed it."""

REFUSALS = re.compile(r"invalid|not available|permitted|violates|unsupported|too many|exceeds", re.IGNORECASE)
"""What sbatch says of a request that waiting does not help."""

Query = Callable[[str, Any], Awaitable[tuple[dict[str, str] | None, float | None]]]


# ---- before the first job --------------------------------------------------------------------------------------------


def prepare(workflow: Any) -> None:
    """Prepare a run on Slurm: refuse what cannot work, cancel what a killed run left, keep the executor from hanging.

    Does nothing for a run on another executor.

    Raises:
        SlurmProblem: no client, no controller, or a request that no node can meet.
    """
    if workflow.executor_plugin.name != "slurm":
        return
    executor = workflow.scheduler._executor
    run: str = executor.run_uuid
    need_client()
    cancel_orphans()
    note_run(run)
    atexit.register(cancel_rest, run)
    try_requests(workflow.dag.needrun_jobs(), executor, workflow.executor_settings)
    module = importlib.import_module("snakemake_executor_plugin_slurm")
    watch = Watch(module.query_job_status, run, bool(workflow.executor_settings.requeue))
    module.query_job_status = watch  # type: ignore[attr-defined]
    module.get_min_job_age = steady(module.get_min_job_age)  # type: ignore[attr-defined]
    executor.sleep = at_most(LOOK_SECONDS, executor.sleep)


def need_client() -> None:
    """Slurm's commands are here, and its controller answers.

    Raises:
        SlurmProblem: they are not, or it does not.
    """
    absent = [name for name in ("sbatch", "squeue", "scancel") if which(name) is None]
    if absent:
        raise SlurmProblem(
            f"--profile slurm: no {', '.join(absent)} on this machine. Start it on a login node, where jobs are"
            " submitted from; without the profile everything runs here"
        )
    done = _run("squeue", "--noheader", "--name", PREFIX)
    if done.returncode:
        raise SlurmProblem(f"--profile slurm: the controller does not answer: {done.stderr.strip()}")


def try_requests(jobs: Iterable[Any], executor: Any, settings: Any) -> None:
    """Ask sbatch about one job of each rule.

    Raises:
        SlurmProblem: sbatch refuses for a reason that waiting does not cure.
    """
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    asked: dict[str, str] = {}
    rules: set[str] = set()
    for job in jobs:
        if job.is_local or job.rule.name in rules:
            continue
        rules.add(job.rule.name)
        about = {
            "run_uuid": PREFIX,
            "slurm_logfile": os.devnull,
            "comment_str": "",
            "account": next(executor.get_account_arg(job)),
            "partition": executor.get_partition_arg(job),
            "workdir": None,
        }
        command = get_submit_command(job, about, settings=settings) + set_gres_string(job) + " --wrap true"
        asked.setdefault(command, job.rule.name)
    refused = []
    for command, rule in asked.items():
        done = _run(*shlex.split(command), "--test-only")
        if done.returncode and "not available" in done.stderr:
            # It says the same of nodes that are down for now; a job that is submitted waits for those (unless held).
            done = _run(*shlex.split(command), "--begin=now+1hour")
            if not done.returncode:
                _run("scancel", done.stdout.strip().partition(";")[0])
        words = " ".join(
            done.stderr.replace("sbatch: error: ", "")
            .replace("allocation failure: ", "")
            .replace("Batch job submission failed: ", "")
            .split()
        )
        if done.returncode and REFUSALS.search(words):
            request = re.sub(r" --(job-name|output|export|comment|parsable)\S*( (?!-)\S*)?", "", f" {command}")
            refused.append(f"  {rule}: {words}\n    {' '.join(request.split())}")
    if refused:
        raise SlurmProblem(
            f"--profile slurm: the cluster refuses what these rules ask for:\n{chr(10).join(refused)}\n"
            f"Partition, account, form of the GPU request, and what a rule asks for are set in {PROFILE}"
        )


# ---- orphans ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Queued:
    """A job in the queue.

    Attributes:
        run: name of the job, which is that of its run.
        folder: that it was submitted from.
    """

    number: str
    run: str
    state: str
    reason: str
    folder: str
    comment: str


def queue(folder: Path | None = None) -> list[Queued]:
    """This user's jobs of this workflow, submitted from a folder."""
    done = _run("squeue", "--noheader", "--user", getpass.getuser(), "--format", "%A|%j|%T|%r|%Z|%k")
    if done.returncode:
        raise SlurmProblem(f"squeue: {done.stderr.strip()}")
    here = str((folder or Path()).resolve())
    found = [Queued(*line.split("|", 5)) for line in done.stdout.splitlines() if line.count("|") >= 5]
    return [job for job in found if job.run.startswith(f"{PREFIX}_") and str(Path(job.folder).resolve()) == here]


def note_run(run: str) -> None:
    """Write down which process watches the jobs of a run."""
    processes.write_owner(RUNS / f"{run}.json")


def watched(run: str) -> bool | None:
    """Whether a living process watches the jobs of a run; None where that cannot be told from here."""
    return processes.owner_alive(RUNS / f"{run}.json")


def cancel_orphans(surely: bool = True) -> int:
    """Cancel the jobs of this folder that no living Snakemake watches, and wait until they have saved and ended.

    Args:
        surely: leave those whose Snakemake may live on another machine, and say so.

    Returns:
        How many there were.

    Raises:
        SlurmProblem: they do not end.
    """
    jobs = queue()
    states = {run: watched(run) for run in {job.run for job in jobs}}
    for note in RUNS.glob("*.json"):
        if note.stem not in states and watched(note.stem) is False:
            note.unlink(missing_ok=True)
    orphans = [job for job in jobs if states[job.run] is False or (states[job.run] is None and not surely)]
    unsure = [job for job in jobs if states[job.run] is None and surely]
    if unsure:
        print(
            f"{len(unsure)} jobs of this folder belong to a Snakemake on another machine. They do no harm but double"
            " the work; if it is dead, `make slurm-clean` cancels them",
            file=sys.stderr,
        )
    if orphans:
        print(f"cancelling {len(orphans)} jobs whose Snakemake is dead; long stages save first", file=sys.stderr)
        _run("scancel", *(job.number for job in orphans))
        numbers, end = {job.number for job in orphans}, time.monotonic() + GONE_SECONDS
        while left := numbers & {job.number for job in queue()}:
            if time.monotonic() > end:
                raise SlurmProblem(f"cancelled jobs that do not end: {' '.join(sorted(left))}; see `squeue --me`")
            time.sleep(0.5)
    return len(orphans)


def cancel_rest(run: str) -> None:
    """Cancel the jobs of a run that has ended.

    The executor cancels those on its list; one that Ctrl-C finds asking for their states has none of them there.
    """
    with contextlib.suppress(SlurmProblem):  # then the next run finds them
        if left := [job.number for job in queue() if job.run == run]:
            _run("scancel", *left)


# ---- while it runs ---------------------------------------------------------------------------------------------------


def at_most(seconds: float, sleep: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """A sleep that ends after some seconds, if not before."""

    async def shorter() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sleep(), seconds)

    return shorter


def steady(ask: Callable[[], int | None]) -> Callable[[], int]:
    """What the controller said last of its MinJobAge.

    The executor asks before each check, and where a busy controller does not answer it turns to sacct; which without
    accounting never answers either.
    """
    known = [MIN_JOB_AGE]

    def answer() -> int:
        if (age := ask()) is not None:
            known[0] = age
        return known[0]

    return answer


class Watch:
    """The executor's question for the states of its jobs, with answers that it would wait on for ever put right.

    - No answer is asked for again: without one the executor forgets its jobs.
    - A preempted job that is not requeued has ended: it counts as cancelled, and Snakemake starts it again.
    - A job that the controller told of once, and has forgotten (a login node that slept longer than MinJobAge, a
      controller that lost its state), is judged by its files.
    - Jobs that wait are explained now and then by the reason that squeue gives.
    """

    pause = 5.0

    def __init__(self, query: Query, run: str, requeues: bool = False) -> None:
        self._query, self._run, self._requeues = query, run, requeues
        self._seen: set[str] = set()
        self._explained = time.monotonic() - EXPLAIN_SECONDS + 60

    async def __call__(self, command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await self._query(command, logger)
        start = said = time.monotonic()
        while states is None:
            now = time.monotonic()
            if now - start > SILENCE_SECONDS:
                raise SlurmProblem(f"no answer to `{command}` for {now - start:.0f} s")
            if now - said > 60:
                said = now
                logger.warning(f"No answer to `{command}` for {now - start:.0f} s; jobs run on, and it is asked again.")
            await asyncio.sleep(self.pause)
            states, seconds = await self._query(command, logger)
        states = self.settle(states)
        if "PENDING" in states.values() and time.monotonic() - self._explained >= EXPLAIN_SECONDS:
            self._explained = time.monotonic()
            done = await asyncio.to_thread(
                _run, "squeue", "--noheader", "--name", self._run, "--states", "PENDING", "--format", "%r"
            )
            reasons = Counter(done.stdout.split("\n")[:-1]).most_common()
            if reasons:
                words = ", ".join(f"{count} for {reason}" for reason, count in reasons)
                logger.info(f"Jobs wait in the queue: {words}. `make slurm-queue` lists them.")
        return states, seconds

    def settle(self, states: dict[str, str]) -> dict[str, str]:
        """States that the executor acts on."""
        settled = dict.fromkeys(self._seen - states.keys(), "UNKNOWN")
        self._seen |= states.keys()
        for job, state in states.items():
            ended = state == "PREEMPTED" and not self._requeues
            settled[job] = "CANCELLED" if ended else state
        return settled


# ---- commands --------------------------------------------------------------------------------------------------------


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, text=True, capture_output=True, timeout=COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]}: no answer in {COMMAND_SECONDS:.0f} s")


def main(arguments: list[str]) -> int:
    """`clean` cancels orphans; `queue` lists the jobs of this folder and why they wait; the exit status."""
    try:
        need_client()
        if arguments == ["clean"]:
            count = cancel_orphans(surely=False)
            print(f"{count} jobs cancelled" if count else "no orphans: nothing to cancel")
        elif arguments == ["queue"]:
            for job in queue():
                print(f"{job.number:>9} {job.state:11} {job.reason:20} {job.comment}")
        else:
            print("usage: python -m distillery.slurm clean | queue", file=sys.stderr)
            return 2
    except SlurmProblem as problem:
        print(f"distillery: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
