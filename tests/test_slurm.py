"""What is said and done about Slurm where no cluster is needed: states, notes of runs, a machine without a client."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from clone import PROJECT, Clone

from distillery import slurm
from distillery.errors import SlurmProblem
from distillery.slurm import PREFIX, Watch, cancel_orphans, cancel_rest, need_client, note_run, steady, watched
from distillery.snakemake_internals import at_most

RUN = f"{PREFIX}_1234"


def settled(*answers: dict[str, str] | None, requeues: bool = False) -> list[dict[str, str] | None]:
    """What the executor is told when squeue gives these answers, one after the other."""
    waiting = list(answers)

    async def query(_command: str, _logger: Any) -> tuple[dict[str, str] | None, float | None]:
        return waiting.pop(0), 0.1

    watch = Watch(query, RUN, requeues)
    watch.pause = 0.01

    async def ask() -> list[dict[str, str] | None]:
        return [(await watch("squeue", None))[0] for answer in answers if answer is not None]

    return asyncio.run(ask())


def test_a_preempted_job_has_ended() -> None:
    assert settled({"1": "PREEMPTED", "2": "RUNNING"}) == [{"1": "CANCELLED", "2": "RUNNING"}]


def test_a_preempted_job_that_slurm_requeues_has_not() -> None:
    assert settled({"1": "PREEMPTED"}, requeues=True) == [{"1": "PREEMPTED"}]


def test_a_job_that_the_controller_forgot_is_judged_by_its_files() -> None:
    assert settled({"1": "RUNNING"}, {"2": "PENDING"})[1] == {"1": "UNKNOWN", "2": "PENDING"}


def test_a_controller_without_an_answer_is_asked_again() -> None:
    """Of an empty answer the executor makes that it has no jobs."""
    assert settled({"1": "RUNNING"}, None, None, {"1": "COMPLETED"}) == [{"1": "RUNNING"}, {"1": "COMPLETED"}]


def test_a_silent_controller_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "SILENCE_SECONDS", 0.05)
    with pytest.raises(SlurmProblem, match="no answer to `squeue`"):
        settled({"1": "RUNNING"}, *[None] * 1000, {"1": "COMPLETED"})


def test_how_long_jobs_are_remembered_is_not_forgotten() -> None:
    said = iter([None, 40, None, 7])
    age = steady(lambda: next(said))
    assert [age() for _ in range(4)] == [slurm.MIN_JOB_AGE, 40, 40, 7]


def test_a_job_that_is_not_listed_yet_is_not_forgotten() -> None:
    assert settled({}, {"1": "PENDING"}) == [{}, {"1": "PENDING"}]


# ---- notes of runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_watched_while_its_process_lives(folder: Path) -> None:
    note_run(RUN)
    assert watched(RUN) is True
    code = f"from distillery.slurm import note_run; note_run('{PREFIX}_other')"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(PROJECT / "src")})
    assert watched(f"{PREFIX}_other") is False


def test_a_run_of_another_machine_cannot_be_judged(folder: Path) -> None:
    note_run(RUN)
    (folder / slurm.RUNS / f"{RUN}.json").write_text('["elsewhere", 1, 0.0]', "utf-8")
    assert watched(RUN) is None
    assert watched("never noted") is None


def answers(monkeypatch: pytest.MonkeyPatch, *listed: list[str]) -> list[tuple[str, ...]]:
    """A squeue that lists these jobs, one answer after the other, the last for ever; returns what was called."""
    called: list[tuple[str, ...]] = []
    waiting = list(listed)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        called.append(command)
        lines = [] if command[0] != "squeue" else waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return subprocess.CompletedProcess(command, 0, "".join(f"{line}\n" for line in lines), "")

    monkeypatch.setattr(slurm, "run_command", run)
    return called


def test_only_jobs_of_a_dead_snakemake_of_this_folder_are_cancelled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, pid in (("mine", os.getpid()), ("dead", 2**22)):
        note_run(f"{PREFIX}_{run}")
        if run == "dead":
            note = folder / slurm.RUNS / f"{PREFIX}_dead.json"
            note.write_text(json.dumps([socket.gethostname(), pid, 0.0]), "utf-8")
    jobs = [
        f"1|{PREFIX}_mine|RUNNING|None|{folder}|rule_sample",
        f"2|{PREFIX}_dead|RUNNING|None|{folder}|rule_sample",
        f"3|{PREFIX}_dead|RUNNING|None|/somewhere/else|rule_sample",
        f"4|{PREFIX}_foreign|PENDING|Resources|{folder}|rule_sample",
        f"5|another_dead|RUNNING|None|{folder}|",
    ]
    called = answers(monkeypatch, jobs, [])
    assert cancel_orphans() == 1
    assert [command for command in called if command[0] == "scancel"] == [("scancel", "2")]
    assert "make slurm-clean" in capsys.readouterr().err  # the foreign one

    called = answers(monkeypatch, jobs, [])
    assert cancel_orphans(surely=False) == 2
    [cancelled] = [command for command in called if command[0] == "scancel"]
    assert sorted(cancelled[1:]) == ["2", "4"]


def test_a_run_that_ends_leaves_no_jobs_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = (f"{number}|{PREFIX}_{run}|RUNNING|None|{folder}|" for number, run in ((1, "mine"), (2, "other")))
    called = answers(monkeypatch, [mine, other])
    cancel_rest(f"{PREFIX}_mine")
    assert called[1:] == [("scancel", "1")]
    called = answers(monkeypatch, [other])
    cancel_rest(f"{PREFIX}_mine")
    assert [command[0] for command in called] == ["squeue"]


def test_jobs_that_do_not_end_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "GONE_SECONDS", 0.1)
    answers(monkeypatch, [f"7|{PREFIX}_dead|COMPLETING|None|{folder}|"])
    with pytest.raises(SlurmProblem, match="do not end: 7"):
        cancel_orphans(surely=False)


# ---- without a client ------------------------------------------------------------------------------------------------


def test_a_machine_without_a_client_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SlurmProblem, match="no sbatch, squeue, scancel on this machine"):
        need_client()


def test_the_profile_on_a_machine_without_a_client_ends_before_anything_runs(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "sh", "which", "uname", "env"):
        found = next(Path(place, tool) for place in ("/usr/bin", "/bin") if Path(place, tool).exists())
        (tools / tool).symlink_to(found)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "all", "--profile", "slurm", "--configfile",
         "experiments/smoke.yaml"],
        cwd=clone.folder, env={**clone.environment, "PATH": str(tools)}, text=True, timeout=120,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "no sbatch, squeue, scancel on this machine" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (clone.folder / "results/smoke/data").exists()


def test_another_executor_is_left_alone() -> None:
    slurm.prepare(SimpleNamespace(executor_plugin=SimpleNamespace(name="local")))  # has nothing that a client needs


def test_the_profile_and_the_module_agree_on_the_names_of_jobs() -> None:
    profile = yaml.safe_load((PROJECT / slurm.PROFILE).read_text("utf-8"))
    assert profile["slurm-jobname-prefix"] == PREFIX
    assert profile["slurm-status-command"] == "squeue"
    assert "slurm-array-jobs" not in profile  # a failing task of one deletes what another has made


def test_a_long_sleep_is_cut_and_a_short_one_is_not() -> None:
    async def took(asked: float, limit: float) -> float:
        start = time.monotonic()
        await at_most(limit, lambda: asyncio.sleep(asked))()
        return time.monotonic() - start

    assert 0.2 <= asyncio.run(took(30, 0.2)) < 15
    assert 0.2 <= asyncio.run(took(0.2, 30)) < 15
