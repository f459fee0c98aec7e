"""The names of Snakemake and its Slurm executor that are no public interface are still there, and mean the same."""

from __future__ import annotations

import inspect
import os
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake.api  # first: snakemake.workflow imports it back
import snakemake.cli
import snakemake.persistence.file
import snakemake_executor_plugin_slurm as plugin
from clone import PROJECT
from packaging.requirements import Requirement
from snakemake.dag import DAG
from snakemake.exceptions import CliException, format_exception_to_string
from snakemake.jobs import Job
from snakemake.rules import Rule
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import ResourceSettings
from snakemake.workflow import Workflow
from snakemake_executor_plugin_slurm import submit_string, utils

from distillery import snakemake_internals
from distillery.errors import SlurmProblem
from distillery.snakemake_internals import (
    LOCKS,
    SlurmExecutor,
    before_planning,
    limit_to_cards,
    note_holder,
    remove_stale_lock,
    rules_run_here,
    without_traceback,
)


def parameters(function: Callable[..., Any]) -> str:
    """Names and defaults, without types."""
    bare = [
        parameter.replace(annotation=parameter.empty) for parameter in inspect.signature(function).parameters.values()
    ]
    return str(inspect.Signature(bare))


@pytest.mark.parametrize(
    ("function", "signature", "kind"),
    [
        (snakemake.cli.parse_args, "(argv)", "plain"),
        (Workflow.register_resource, "(self, name, value)", "plain"),
        (inspect.getattr_static(Workflow, "_build_dag"), "(self)", "plain"),
        (DAG.needrun_jobs, "(self, exclude_finished=True)", "plain"),
        (plugin.query_job_status, "(command, logger)", "coroutine"),
        (plugin.get_min_job_age, "()", "plain"),
        (plugin.Executor.sleep, "(self)", "coroutine"),
        (plugin.Executor.get_account_arg, "(self, job)", "generator"),
        (plugin.Executor.get_partition_arg, "(self, job)", "plain"),
        (utils.set_gres_string, "(job)", "plain"),
        (submit_string.get_submit_command, "(job, params, settings=None, failed_nodes=None, array_job=False)", "plain"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_function_is_called_as_before(function: Callable[..., Any], signature: str, kind: str) -> None:
    assert parameters(function) == signature
    assert inspect.iscoroutinefunction(function) == (kind == "coroutine")
    assert inspect.isgeneratorfunction(function) == (kind == "generator")


@pytest.mark.parametrize("name", ["executor_plugin", "is_main_process", "scheduler", "dag"])
def test_a_workflow_has_a_property(name: str) -> None:
    assert isinstance(inspect.getattr_static(Workflow, name), property)


@pytest.mark.parametrize("name", ["jobs", "dependencies"])
def test_a_graph_of_jobs_has_a_property(name: str) -> None:
    assert isinstance(inspect.getattr_static(DAG, name), property)


def test_the_graph_of_rules_counts_jobs_and_leaves_out_circles_of_one_rule() -> None:
    first, second, last = (SimpleNamespace(rule=SimpleNamespace(name=name)) for name in ("grow", "grow", "all"))
    edges = {id(first): [], id(second): [first], id(last): [first, second]}
    dag = SimpleNamespace(jobs=[first, second, last], dependencies=Edges(edges))
    assert snakemake_internals.rule_graph(SimpleNamespace(dag=dag)) == {
        "all": {"jobs": 1, "from": ["grow"]},
        "grow": {"jobs": 2, "from": []},
    }


class Edges(dict[int, list[Any]]):
    """The jobs that a job reads from, by the job, which has no hash."""

    def __getitem__(self, job: Any) -> list[Any]:
        return super().__getitem__(id(job))


def test_attributes_are_set_where_they_are_read() -> None:
    assert "self._executor = " in inspect.getsource(JobScheduler.__init__)
    assert "self.global_resources = " in inspect.getsource(Workflow)
    run = inspect.getsource(Workflow.execute)
    assert 0 < run.index("self._executor_plugin = executor_plugin") < run.index("self._build_dag()")
    assert "self._executor_plugin = None" in inspect.getsource(Workflow)
    assert "self.executor_settings = " in inspect.getsource(Workflow)
    assert {"resource_settings", "executor_settings"} <= Workflow.__dataclass_fields__.keys()
    assert "nodes" in ResourceSettings.__dataclass_fields__
    assert "self.run_uuid = " in inspect.getsource(plugin.Executor)
    assert {"requeue", "jobname_prefix", "status_command"} <= plugin.ExecutorSettings.__dataclass_fields__.keys()
    assert isinstance(Job.is_local, property)
    assert hasattr(Rule, "name")


def test_the_executor_asks_by_the_names_that_are_replaced() -> None:
    """`replace` puts functions into the module; the executor has to look there, and to know the states that it gets."""
    source = Path(inspect.getfile(plugin)).read_text("utf-8")
    for words in ("await query_job_status(", "min_job_age = get_min_job_age()", '"CANCELLED"', '"UNKNOWN"'):
        assert words in source
    waits = inspect.getsource(plugin.RemoteExecutor)
    assert "await self.sleep()" in waits


def test_a_submission_reads_the_parameters_that_it_gets() -> None:
    read = set(re.findall(r"\bparams\.(\w+)", inspect.getsource(submit_string.get_submit_command)))
    assert read == {"run_uuid", "slurm_logfile", "comment_str", "account", "partition", "workdir"}


@pytest.mark.parametrize(
    ("executor", "main", "rules"),
    [
        ("local", True, {"evaluate", "sample"}),
        ("local", False, set()),
        ("slurm", True, set()),
        ("dryrun", True, set()),
        (None, True, set()),
    ],
)
def test_rules_run_here_where_this_process_runs_their_jobs(executor: str | None, main: bool, rules: set[str]) -> None:
    jobs = [SimpleNamespace(rule=SimpleNamespace(name=name)) for name in ("sample", "evaluate", "evaluate")]
    plugin = None if executor is None else SimpleNamespace(name=executor)
    dag = SimpleNamespace(needrun_jobs=lambda: iter(jobs))
    assert rules_run_here(SimpleNamespace(executor_plugin=plugin, is_main_process=main, dag=dag)) == rules


def test_locks_are_files_in_the_folder_of_notes() -> None:
    source = inspect.getsource(snakemake.persistence.file)
    assert '"locks"' in source
    assert ".{lock_type}.lock" in source


@pytest.mark.parametrize("package", ["snakemake", "snakemake-executor-plugin-slurm"])
def test_no_version_is_installed_whose_internals_were_not_tested(package: str) -> None:
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    [allowed] = [found.specifier for found in map(Requirement, wanted) if found.name == package]
    major, minor, *_ = version(package).split(".")
    assert version(package) in allowed
    assert f"{major}.{int(minor) + 1}.0" not in allowed


def test_nobody_else_uses_them() -> None:
    words = re.compile(r"\._executor\b|needrun_jobs|register_resource|resource_settings|\.snakemake/locks|\.run_uuid")
    module = Path(snakemake_internals.__file__)
    places = [*(PROJECT / "src").rglob("*.py"), *(PROJECT / "workflow").rglob("*.smk"), PROJECT / "Snakefile"]
    assert [path for path in places if path != module and words.search(path.read_text("utf-8"))] == []
    assert words.search(module.read_text("utf-8"))


# ---- what is made of them --------------------------------------------------------------------------------------------


def a_workflow(resources: dict[str, int], nodes: int | None = None, main: bool = True) -> Any:
    return SimpleNamespace(
        resource_settings=SimpleNamespace(nodes=nodes),
        is_main_process=main,
        global_resources=resources,
        register_resource=resources.__setitem__,
    )


@pytest.mark.parametrize(
    ("before", "nodes", "main", "cards", "after"),
    [
        pytest.param({}, None, True, 2, {"gpu": 2}, id="here"),
        pytest.param({"gpu": 1}, None, True, 2, {"gpu": 1}, id="the user's own limit"),
        pytest.param({}, None, True, 0, {}, id="no card"),
        pytest.param({}, 8, True, 2, {}, id="on a cluster"),
        pytest.param({}, None, False, 2, {}, id="in a job"),
    ],
)
def test_cards_limit_the_jobs_of_a_local_run(
    before: dict[str, int], nodes: int | None, main: bool, cards: int, after: dict[str, int]
) -> None:
    limit_to_cards(a_workflow(before, nodes, main), cards)
    assert before == after


def test_snakemake_shows_the_text_of_an_expected_error_alone() -> None:
    with pytest.raises(CliException) as error, without_traceback(SlurmProblem):
        raise SlurmProblem("no controller")
    assert format_exception_to_string(error.value, {__file__: {}}) == "Error: no controller"
    assert error.value.__suppress_context__
    with pytest.raises(KeyError), without_traceback(SlurmProblem):
        raise KeyError


def test_only_a_run_on_slurm_has_its_executor() -> None:
    for name, expected in (("slurm", True), ("local", False)):
        assert SlurmExecutor.submits(SimpleNamespace(executor_plugin=SimpleNamespace(name=name))) is expected


@pytest.mark.parametrize("holder", ["dead", "alive", "elsewhere", "nobody", "dead, and a new lock"])
def test_only_the_lock_of_a_dead_process_is_removed(
    holder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lock = LOCKS / "0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/a\n", "utf-8")
    if holder != "nobody":
        note_holder()
        note = snakemake_internals.HOLDER.read_text("utf-8")
        if holder.startswith("dead"):
            snakemake_internals.HOLDER.write_text(re.sub(r", \d+,", ", 4194304,", note), "utf-8")
        elif holder == "elsewhere":
            snakemake_internals.HOLDER.write_text(re.sub(r'^\["[^"]*"', '["elsewhere"', note), "utf-8")
    if holder == "dead, and a new lock":  # of a run that has written no note yet, by a clock that was set back
        lock.unlink()
        lock.write_text("results/a\n", "utf-8")
        os.utime(lock, (0, 0))
    remove_stale_lock()
    assert lock.exists() == (holder != "dead")


def test_a_run_is_prepared_before_it_looks_which_files_are_there() -> None:
    """A cancelled job removes files; a plan that counts on them would never end."""
    done: list[str] = []
    workflow = SimpleNamespace(_build_dag=lambda: done.append("planned"))
    before_planning(workflow, lambda: done.append("prepared"))
    build = vars(workflow)["_build_dag"]
    build()
    assert done == ["prepared", "planned"]

    def refuse() -> None:
        raise SlurmProblem("no controller")

    before_planning(workflow, refuse, SlurmProblem)
    build = vars(workflow)["_build_dag"]
    with pytest.raises(CliException, match="no controller"):
        build()
    assert done == ["prepared", "planned"]
