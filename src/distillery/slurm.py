"""What Snakemake's Slurm executor leaves open: requests that no node can meet, orphans of a killed run, endless waits.

The Snakefile calls `prepare` in the process that submits. `make slurm-clean` and `make slurm-queue` are commands of
this module. Orders go through sbatch, squeue and scancel, as the executor's own do.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import getpass
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from distillery import processes
from distillery.errors import SlurmProblem
from distillery.snakemake_internals import Query, SlurmExecutor

PREFIX = "distillery"
"""Of the names of jobs; `slurm-jobname-prefix` of the profile says the same."""

PROFILE = "slurm/profile.yaml"
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


# ---- before the first job --------------------------------------------------------------------------------------------


def clear(workflow: Any) -> None:
    """Cancel what a killed run left in the queue, before a run on Slurm looks which files are there.

    A cancelled job removes the files that it was making, and those of its group: a plan that counts on them is wrong.

    Raises:
        SlurmProblem: no client, or no controller.
    """
    if SlurmExecutor.submits(workflow):
        need_client()
        cancel_orphans()


def prepare(workflow: Any) -> None:
    """Prepare a run on Slurm: refuse what cannot work, keep the executor from hanging.

    Does nothing for a run on another executor.

    Raises:
        SlurmProblem: a request that no node can meet.
    """
    if not SlurmExecutor.submits(workflow):
        return
    executor = SlurmExecutor(workflow)
    note_run(executor.run)
    atexit.register(cancel_rest, executor.run)
    refuse_shell(executor.commands())
    try_requests(executor.requests(PREFIX))
    executor.replace(lambda query: Watch(query, executor.run, executor.requeues), steady, LOOK_SECONDS)


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
    done = run_command("squeue", "--noheader", "--name", PREFIX)
    if done.returncode:
        raise SlurmProblem(f"--profile slurm: the controller does not answer: {done.stderr.strip()}")


def refuse_shell(commands: Iterable[str]) -> None:
    """Refuse to submit a command that the shell of the login node would read as more than text.

    The executor puts it between double quotes, in which `$`, a backquote and a backslash keep their meaning. Names in
    an experiment cannot hold them; folders, names of files and words of the command line can.

    Raises:
        SlurmProblem: a word of a command has such a character.
    """
    for command in commands:
        if read := re.search(r"\S*[$`\\]\S*", command):
            raise SlurmProblem(
                f"--profile slurm: {read[0]}: the shell that submits jobs would read this as a command; rename the"
                " folder or file, or leave the word out, so that no $, backquote or backslash stands in it"
            )


def try_requests(requests: Iterable[tuple[str, str]]) -> None:
    """Ask sbatch about one job of each rule; requests are rules and the commands that submit.

    Raises:
        SlurmProblem: sbatch refuses for a reason that waiting does not cure.
    """
    rules: dict[str, str] = {}
    for rule, command in requests:
        rules.setdefault(command, rule)
    refused = []
    for command, rule in rules.items():
        done = run_command(*shlex.split(command), "--test-only")
        if done.returncode and "not available" in done.stderr:
            # It says the same of nodes that are down for now; a job that is submitted waits for those (unless held).
            done = run_command(*shlex.split(command), "--begin=now+1hour")
            if not done.returncode:
                run_command("scancel", done.stdout.strip().partition(";")[0])
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
    done = run_command("squeue", "--noheader", "--user", getpass.getuser(), "--format", "%A|%j|%T|%r|%Z|%k")
    if done.returncode:
        raise SlurmProblem(f"squeue: {done.stderr.strip()}")
    here = str((folder or Path()).resolve())
    jobs = [Queued(*line.split("|", 5)) for line in done.stdout.splitlines() if line.count("|") >= 5]
    return [job for job in jobs if job.run.startswith(f"{PREFIX}_") and str(Path(job.folder).resolve()) == here]


def note_run(run: str) -> None:
    """Write down which process watches the jobs of a run."""
    processes.write_owner(RUNS / f"{run}.json")


def watched(run: str) -> bool | None:
    """Whether a living process watches the jobs of a run; None where that cannot be told from here."""
    return processes.owner_alive(RUNS / f"{run}.json")


def cancel_orphans(surely: bool = True) -> int:
    """Cancel the jobs of this folder that no living Snakemake watches, wait until they have ended, and count them.

    With `surely` those whose Snakemake may live on another machine are left, and a message says so.

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
        run_command("scancel", *(job.number for job in orphans))
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
            run_command("scancel", *left)


# ---- while it runs ---------------------------------------------------------------------------------------------------


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
        self.explained = time.monotonic() - EXPLAIN_SECONDS + 60

    async def __call__(self, command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await self._query(command, logger)
        start = warned = time.monotonic()
        while states is None:
            now = time.monotonic()
            if now - start > SILENCE_SECONDS:
                raise SlurmProblem(f"no answer to `{command}` for {now - start:.0f} s")
            if now - warned > 60:
                warned = now
                logger.warning(f"No answer to `{command}` for {now - start:.0f} s; jobs run on, and it is asked again.")
            await asyncio.sleep(self.pause)
            states, seconds = await self._query(command, logger)
        states = self.settle(states)
        if "PENDING" in states.values() and time.monotonic() - self.explained >= EXPLAIN_SECONDS:
            self.explained = time.monotonic()
            done = await asyncio.to_thread(
                run_command, "squeue", "--noheader", "--name", self._run, "--states", "PENDING", "--format", "%r"
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


def run_command(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm, which gets a minute to answer."""
    try:
        return subprocess.run(command, text=True, capture_output=True, timeout=COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"{command[0]}: no answer in {COMMAND_SECONDS:.0f} s")


def main(arguments: list[str]) -> int:
    """`clean` cancels orphans; `queue` lists the jobs of this folder and why they wait; the exit status."""
    processes.accept_all_characters()
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
