"""The names of Snakemake and of its Slurm executor that are no public interface: they are used here and nowhere else.

A test compares each of them with the installed versions, and pyproject.toml allows the versions that were tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import json
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from distillery import processes

HOLDER = Path(".snakemake/holder.json")
"""Says which process holds the lock of this folder."""

LOCKS = Path(".snakemake/locks")
PLUGIN = "snakemake_executor_plugin_slurm"

Query = Callable[[str, Any], Awaitable[tuple[dict[str, str] | None, float | None]]]
"""The command that lists the states of jobs, and a logger, to the states by the numbers of jobs, and seconds."""


def note_holder() -> None:
    """Write down which process holds the lock of this folder, and which lock that is."""
    processes.write_owner(HOLDER, *_locks())


def remove_stale_lock() -> None:
    """Remove the lock that a killed Snakemake left; the lock of a living process, here or elsewhere, stays.

    So does a lock that the note does not know: that of a run which has not written its own note yet.
    """
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads(HOLDER.read_text("utf-8"))
        locks = [lock for about, lock in _locks().items() if about in noted]
        if processes.owner_alive(HOLDER) is False:
            for lock in locks:
                lock.unlink(missing_ok=True)


def _locks() -> dict[str, Path]:
    """The locks of this folder by what tells each from a later one of its name, whatever the clock says."""
    locks = {}
    for lock in LOCKS.glob("*.lock"):
        about = lock.stat()
        locks[f"{about.st_ino} {about.st_mtime_ns}"] = lock
    return locks


def interpreter(workflow: Any) -> str:
    """The Python that jobs run: that of this Snakemake, or, where they run in environments or containers, theirs."""
    from snakemake_interface_executor_plugins.settings import DeploymentMethod

    own = {DeploymentMethod.CONDA, DeploymentMethod.APPTAINER} & set(workflow.deployment_settings.deployment_method)
    return "python" if own else sys.executable


def tell_jobs(workflow: Any) -> None:
    """Tell the jobs of an executor that submits them that a scheduler has given them their cards."""
    if workflow.remote_exec:
        os.environ[processes.SCHEDULED] = "1"


def shell_prefix(workflow: Any) -> str:
    """What the shell does before the command of a rule, whose first word, `python`, stands for `interpreter`.

    The stage takes the place of its shell: it gets itself the signal that ends a job, and saves. A shell would die of
    it alone. The text of a rule is the same for every interpreter, and no job runs again because of another one.
    """
    python = shlex.quote(interpreter(workflow)).replace("{", "{{").replace("}", "}}")
    return f'set -euo pipefail; stage() {{{{ shift; exec {python} "$@"; }}}}; stage '


def limit_to_cards(workflow: Any, cards: int) -> None:
    """Let at most so many jobs at once ask for a card of this machine: two jobs on one card would share its memory."""
    local = workflow.resource_settings.nodes is None and workflow.is_main_process
    if local and cards and "gpu" not in workflow.global_resources:
        workflow.register_resource("gpu", cards)


def rule_graph(workflow: Any) -> dict[str, dict[str, Any]]:
    """The rules that take part in a run: by name, how many `jobs` each has, and the rules that they read `from`."""
    dag = workflow.dag
    rules: dict[str, dict[str, Any]] = {}
    for job in dag.jobs:
        node = rules.setdefault(job.rule.name, {"jobs": 0, "from": set()})
        node["jobs"] += 1
        node["from"] |= {other.rule.name for other in dag.dependencies[job]}
    return {name: {**node, "from": sorted(node["from"] - {name})} for name, node in sorted(rules.items())}


def rules_run_here(workflow: Any) -> set[str]:
    """The rules whose jobs this process is about to run on this machine; none where it submits them, or only plans."""
    plugin = workflow.executor_plugin
    if plugin is None or plugin.name != "local" or not workflow.is_main_process:
        return set()
    return {job.rule.name for job in workflow.dag.needrun_jobs()}


def before_planning(workflow: Any, prepare: Callable[[], object], *kinds: type[Exception]) -> None:
    """Let a run call a function when it knows its executor, before it looks which files are there.

    Args:
        kinds: exceptions of the function whose text alone is printed.
    """
    build = workflow._build_dag

    def prepared() -> None:
        with without_traceback(*kinds):
            prepare()
        build()

    workflow._build_dag = prepared


@contextlib.contextmanager
def without_traceback(*kinds: type[Exception]) -> Iterator[None]:
    """Let Snakemake end with the text of exceptions of these kinds alone."""
    from snakemake.exceptions import CliException

    class Refused(CliException):  # type: ignore[misc]
        """Snakemake prints lines of Snakefiles that it sees in a traceback; this exception shows none."""

        __traceback__ = property(lambda self: None, lambda self, traceback: None)

    try:
        yield
    except kinds as error:
        raise Refused(str(error)) from None


def experiment_files() -> list[Path]:
    """The files that this run of Snakemake is to read, by its command line and profiles: none where they do not say."""
    from snakemake.cli import parse_args

    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        arguments = parse_args(sys.argv[1:])[1]
        return [Path(path) for path in arguments.configfile or [Path(arguments.directory or "", "config.yaml")]]
    return []


class SlurmExecutor:
    """The executor that submits the jobs of a run to Slurm."""

    def __init__(self, workflow: Any) -> None:
        self._workflow, self._executor = workflow, workflow.scheduler._executor
        self._plugin: Any = importlib.import_module(PLUGIN)

    @staticmethod
    def submits(workflow: Any) -> bool:
        """Whether it is the executor of this run; a dry run has another one, a command that runs nothing has none."""
        plugin = workflow.executor_plugin
        return plugin is not None and bool(plugin.name == "slurm")

    @property
    def run(self) -> str:
        """The name of all jobs of this run."""
        return str(self._executor.run_uuid)

    @property
    def requeues(self) -> bool:
        """Whether Slurm puts a preempted job back into the queue."""
        return bool(self._workflow.executor_settings.requeue)

    def _first_jobs(self) -> Iterator[Any]:
        """The first job of each rule that has to run on the cluster."""
        rules: set[str] = set()
        for job in self._workflow.dag.needrun_jobs():
            if not job.is_local and job.rule.name not in rules:
                rules.add(job.rule.name)
                yield job

    def commands(self) -> list[str]:
        """The command that a node runs, for the first job of each rule that has to run."""
        return [self._executor.format_job_exec(job) for job in self._first_jobs()]

    def requests(self, name: str) -> Iterator[tuple[str, str]]:
        """The rule and the sbatch command, under this name, of the first job of each rule that has to run."""
        from snakemake_executor_plugin_slurm.submit_string import get_submit_command
        from snakemake_executor_plugin_slurm.utils import set_gres_string

        for job in self._first_jobs():
            about = {
                "run_uuid": name,
                "slurm_logfile": os.devnull,
                "comment_str": "",
                "account": next(self._executor.get_account_arg(job)),
                "partition": self._executor.get_partition_arg(job),
                "workdir": None,
            }
            command = get_submit_command(job, about, settings=self._workflow.executor_settings)
            yield job.rule.name, command + set_gres_string(job) + " --wrap true"

    def replace(
        self,
        states: Callable[[Query], Query],
        min_job_age: Callable[[Callable[[], int | None]], Callable[[], int]],
        longest_sleep: float,
    ) -> None:
        """Put other functions in the place of the executor's own.

        Args:
            states: makes of the question for the states of jobs the one that is asked.
            min_job_age: makes of the question for the controller's MinJobAge the one that is asked.
            longest_sleep: seconds between two checks.
        """
        self._plugin.query_job_status = states(self._plugin.query_job_status)
        self._plugin.get_min_job_age = min_job_age(self._plugin.get_min_job_age)
        self._executor.sleep = at_most(longest_sleep, self._executor.sleep)


def at_most(seconds: float, sleep: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """A sleep that ends after some seconds, if not before."""

    async def shorter() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sleep(), seconds)

    return shorter
