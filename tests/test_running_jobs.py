"""While jobs run, the console shows the newest line of each log, and nothing twice."""

from __future__ import annotations

import subprocess
import sys
import time
from logging import LogRecord, makeLogRecord
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clone import PROJECT, clean_environment
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_distillery import LogHandler, LogHandlerSettings
from snakemake_logger_plugin_distillery.running import LONGEST_LINE, RunningJobs, newest_line


def started(job: int, log: Path, **wildcards: str) -> LogRecord:
    logs = [str(log), str(log.with_suffix(".json"))]
    about = {"event": LogEvent.JOB_INFO, "jobid": job, "rule_name": "evaluate", "wildcards": wildcards, "log": logs}
    return makeLogRecord(about)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "evaluate.log"


@pytest.fixture
def jobs() -> RunningJobs:
    """Looks that nobody waits for: a test asks for the news itself."""
    return RunningJobs(3600, show=lambda line: None)


def test_the_newest_line_is_news_once(jobs: RunningJobs, log: Path) -> None:
    jobs.note(started(1, log, run="", method="dit", ipc="10"))
    assert list(jobs.news()) == []
    log.write_text("dit: 1/3 epoch, loss 2.1, 9 s left\ndit: 2/3 epoch, loss 1.9, 4 s left\n", "utf-8")
    assert list(jobs.news()) == ["evaluate dit 10: dit: 2/3 epoch, loss 1.9, 4 s left"]
    assert list(jobs.news()) == []


def test_a_line_is_shown_when_it_is_whole(jobs: RunningJobs, log: Path) -> None:
    jobs.note(started(1, log))
    log.write_text("one\ntw", "utf-8")
    assert list(jobs.news()) == ["evaluate: one"]


def test_the_log_of_an_earlier_attempt_is_no_news(jobs: RunningJobs, log: Path) -> None:
    log.write_text("killed here\n", "utf-8")
    jobs.note(started(1, log, run="seed-3/"))
    assert list(jobs.news()) == []
    log.write_text("starts again\n", "utf-8")
    assert list(jobs.news()) == ["evaluate seed-3: starts again"]


@pytest.mark.parametrize(
    "end", [{"event": LogEvent.JOB_FINISHED, "job_id": 1}, {"event": LogEvent.JOB_ERROR, "jobid": 1}]
)
def test_a_job_that_has_ended_has_no_news(end: dict[str, Any], jobs: RunningJobs, log: Path) -> None:
    jobs.note(started(1, log))
    jobs.note(makeLogRecord(end))
    log.write_text("too late\n", "utf-8")
    assert list(jobs.news()) == []


def test_other_events_and_jobs_without_a_log_are_passed_over(jobs: RunningJobs) -> None:
    jobs.note(makeLogRecord({"event": LogEvent.PROGRESS, "done": 1, "total": 2}))
    jobs.note(makeLogRecord({"msg": "no event"}))
    nothing = {"event": LogEvent.JOB_INFO, "jobid": 0, "rule_name": "all", "wildcards": None, "log": None}
    jobs.note(makeLogRecord(nothing))
    jobs.note(makeLogRecord({"event": LogEvent.JOB_FINISHED, "job_id": 7}))
    assert list(jobs.news()) == []


def test_the_record_of_a_cost_is_no_line(log: Path) -> None:
    log.write_text('step 3/3\n{"stage": "evaluate"}\n', "utf-8")
    assert newest_line([log]) == "step 3/3"


def test_a_line_moves_no_cursor_and_fits_a_screen(log: Path) -> None:
    log.write_bytes(b"\x1b[2J\xff" + b"x" * 10_000 + b"\n\n \t\n")
    line = newest_line([log])
    assert len(line) == LONGEST_LINE and line.isprintable()


@pytest.mark.parametrize(("options", "follows"), [({}, True), ({"dryrun": True}, False), ({"quiet": {"all"}}, False)])
def test_jobs_are_followed_where_they_run_and_progress_is_wanted(
    options: dict[str, Any],
    follows: bool,
    log: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "argv", ["snakemake"])
    settings = SimpleNamespace(**{"dryrun": False, "quiet": set(), **options})
    handler = LogHandler(settings, LogHandlerSettings(seconds=0.01))
    handler.emit(started(1, log))
    log.write_text("step 1\n", "utf-8")
    shown = ""
    for _ in range(200 if follows else 10):
        shown += capsys.readouterr().err
        if shown:
            break
        time.sleep(0.01)
    handler.close()
    assert shown == ("evaluate: step 1\n" if follows else "")


SNAKEFILE = """
rule all:
    output: "done"
    log: "all.log"
    shell: "for step in 1 2 3 4 5; do echo $step/5, loss 0.$step >> {log}; sleep 0.3; done; touch {output}"
"""


@pytest.mark.parametrize("loggers", [["distillery"], ["rich", "distillery"]], ids="+".join)
def test_a_run_shows_its_steps_beside_any_console(loggers: list[str], tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE, "utf-8")
    (tmp_path / "config.yaml").write_text("name: x", "utf-8")
    environment = {**clean_environment(), "PYTHONPATH": str(PROJECT / "src")}
    command = ["snakemake", "--cores", "1", "--logger", *loggers, "--logger-distillery-seconds", "0.2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if line.startswith("all: ")]
    assert 2 <= len(steps) <= 5 and steps == sorted(set(steps)), done.stderr
    assert steps[-1].endswith("loss 0.4") or steps[-1].endswith("loss 0.5")


def test_a_wrong_file_is_read_first_beside_other_loggers(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE, "utf-8")
    (tmp_path / "config.yaml").write_text("name: [", "utf-8")
    environment = {**clean_environment(), "PYTHONPATH": str(PROJECT / "src")}
    command = ["snakemake", "-n", "--logger", "rich", "distillery"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: config.yaml"), done.stderr
