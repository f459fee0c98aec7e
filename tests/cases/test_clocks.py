"""A clock that is set back or forth, and files of any date, decide nothing."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from clone import PROJECT
from tiny import CPU

from distillery.job import Job
from distillery.processes import age, temporary_name
from distillery.progress import WORK, Progress
from distillery.storage.atomic import write_bytes
from distillery.storage.resume import Resume

SOURCES = sorted((PROJECT / "src").rglob("*.py"))
WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "datetime.utcnow", "create_time"}
ORDER = ast.Lt | ast.LtE | ast.Gt | ast.GtE


@pytest.fixture(params=[-1e9, 1e9, 0.0], ids=["back", "forth", "to the epoch"])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets the clock of this process."""
    changed = 0.0 if request.param == 0 else time.time() + request.param
    return lambda: monkeypatch.setattr(time, "time", lambda: changed)


def wall_clock(tree: ast.AST) -> Iterator[str]:
    """The calls of a module that ask for the date."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in WALL or name.rpartition(".")[2] in ("create_time", "utcnow", "fromtimestamp"):
                yield f"{name} in line {node.lineno}"


def compared_times(tree: ast.AST) -> Iterator[str]:
    """Comparisons of times of files by which of them is later."""
    for node in ast.walk(tree):
        ordered = isinstance(node, ast.Compare) and any(isinstance(operator, ORDER) for operator in node.ops)
        if ordered and "st_mtime" in ast.unparse(node):
            yield ast.unparse(node)


def test_no_module_asks_for_the_date_or_which_file_is_later() -> None:
    """But an input from the future is told by the date, and so is the start of a process without `/proc`; a tracker
    asks for the date of what it is sent."""
    trees = {path.relative_to(PROJECT / "src").as_posix(): ast.parse(path.read_text("utf-8")) for path in SOURCES}
    read = [name for name, tree in trees.items() if [*wall_clock(tree)]]
    assert read == ["distillery/plan/check_inputs.py", "distillery/processes.py", "distillery/report/tracking.py"]
    assert [name for name, tree in trees.items() if [*compared_times(tree)]] == ["distillery/plan/check_inputs.py"]
    assert [*compared_times(ast.parse("a.stat().st_mtime <= noted"))] != []
    assert [*wall_clock(ast.parse("time.time(); datetime.now()"))] != []


def test_the_cost_of_a_job_does_not_follow_the_clock(clock: Callable[[], None]) -> None:
    before = WORK.seconds
    clock()
    assert before <= WORK.seconds < before + 60
    assert 0 < age() < 7 * 24 * 3600


def test_the_age_of_a_process_includes_the_start_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = age()
    monkeypatch.setattr("distillery.processes.PROC", tmp_path)  # where there is no /proc
    assert 0 <= age() <= whole + 0.1


def test_a_checkpoint_and_a_line_of_progress_come_in_time(
    clock: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soon, late = (Resume(tmp_path / name, "digest", every) for name, every in (("soon", 0.0), ("late", 1e9)))
    with Progress("a loop", 2) as progress:
        clock()
        for resume in (soon, late):
            resume.checkpoint(lambda: ({"a": torch.ones(1)}, {"step": 1}))
        progress.advance(2)
    assert soon.path.exists() and not late.path.exists()
    line = capsys.readouterr().err
    assert "2/2 step" in line and "-" not in line.partition("2/2 step")[2]


def test_the_temporary_file_of_a_living_process_stays_whatever_its_date(tmp_path: Path) -> None:
    temporary = temporary_name(tmp_path / "file")
    for date in (0, 4_000_000_000):
        temporary.touch()
        os.utime(temporary, (date, date))
        write_bytes(tmp_path / "file", b"content")
        assert temporary.exists()


def test_work_is_taken_up_whatever_the_dates_of_its_inputs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"images")
    digests = set()
    for date in (0, 4_000_000_000):
        os.utime(data, (date, date))
        digests.add(Job("train_student", "{}", CPU, 1, (data,)).resume(tmp_path / "out").digest)
    assert len(digests) == 1
