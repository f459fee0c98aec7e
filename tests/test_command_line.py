"""`python -m distillery`: what it says to a wrong call, and what it records of a right one."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from distillery import __main__ as command_line
from distillery import devices, progress
from distillery.data import ingest as ingest_module
from distillery.provenance import ROOT
from distillery.signature import File, stage_files
from distillery.stages import collect, evaluate, generate_increment
from distillery.storage.images import ImageSet, encode_png, read_images, write_images

MADE_BY = {"stage": "test"}
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
COMMANDS = sorted(path.stem for path in (ROOT / "commands").glob("*.py") if path.stem != "__init__")


def part(path: Path, slots: list[int]) -> Path:
    """A part of a distilled set of two classes."""
    pixels = np.random.default_rng(slots[0]).integers(0, 256, (2 * len(slots), 1, 8, 8), dtype=np.uint8)
    labels = np.tile(np.arange(2, dtype=np.int64), len(slots))
    columns = {"slot": np.repeat(slots, 2), "latent": np.ones((len(labels), 4), np.float32)}
    names = [f"{path.stem}/{row}" for row in range(len(labels))]
    write_images(path, ImageSet([encode_png(one) for one in pixels], labels, ["a", "b"], names, columns), MADE_BY)
    return path


@pytest.fixture
def call(tmp_path: Path) -> list[str]:
    """A right call of a stage that computes nothing."""
    parts = [part(tmp_path / "one.parquet", [0]), part(tmp_path / "two.parquet", [1, 2])]
    settings = ["collect", "--settings", '{"ipc":2}']
    return [*settings, "--parts", *map(str, parts), "--images", str(tmp_path / "out.parquet")]


def test_a_stage_runs_without_snakemake(call: list[str], tmp_path: Path) -> None:
    assert command_line.main(call) == 0
    images = read_images(tmp_path / "out.parquet", "collect")
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.columns["slot"].tolist() == [0, 1, 0, 1]


def test_the_stages_are_the_files() -> None:
    assert command_line.stage_names() == STAGES
    assert "evaluate" in STAGES
    assert command_line.command_names() == COMMANDS
    assert COMMANDS and not {*COMMANDS} & {*STAGES}


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_stage_with_its_first_words(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for stage in [*STAGES, *COMMANDS]:
        [line] = [line for line in lines if line.split()[:1] == [stage]]
        assert len(line.split()) > 3
        assert line.endswith(".")


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_names_its_files(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main([stage, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for words in ("--settings", "--threads", "--cost", "output file"):
        assert words in shown


def test_an_unknown_stage_is_told_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["evalute", "--settings", "{}"]) == 2
    there = f"stages: {', '.join(STAGES)}; commands: {', '.join(COMMANDS)}"
    assert capsys.readouterr().err == f"distillery: no stage or command 'evalute'; {there}\n"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{", "no JSON: Expecting property name"),
        ("[]", "a JSON object is wanted: ipc"),
        ("{}", "ipc: field required"),
        ('{"ipc": 2, "icp": 3}', "icp: no such key; did you mean 'ipc'?; allowed: ipc"),
        ('{"ipc": "2"}', "ipc: input should be a valid integer (given: '2')"),
        ("[" * 100_000, "too many blocks within one another"),
        ("", "no JSON: Expecting value"),
    ],
)
def test_wrong_settings_are_refused(
    call: list[str], settings: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call[2] = settings
    assert command_line.main(call) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("distillery collect: --settings: ") and words in line
    assert not (tmp_path / "out.parquet").exists()


def test_a_missing_input_is_named(call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "two.parquet").unlink()
    assert command_line.main(call) == 2
    assert capsys.readouterr().err == f"distillery collect: {tmp_path / 'two.parquet'}: no such file\n"
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("argument", ["--parts", "--images"])
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_named(
    call: list[str], argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path, "a folder; give a file"), (tmp_path / "pipe", "no plain file")):
        call[call.index(argument) + 1] = str(path)
        assert command_line.main(call) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"distillery collect: {path}: {words}")


@pytest.mark.parametrize("option", ["--threads", "--checkpoint-seconds"])
@pytest.mark.parametrize("value", ["0.5x", "-1", "nan", "", "1e400", "9" * 5000])
def test_a_number_of_the_command_line_is_one(
    call: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main([*call, f"{option}={value}"])
    assert ended.value.code == 2
    assert "is no number of" in capsys.readouterr().err
    if option == "--checkpoint-seconds":
        monkeypatch.setenv("DISTILLERY_CHECKPOINT_SECONDS", value)
        with pytest.raises(SystemExit):
            command_line.main(call)
        assert "is no number of seconds" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--settings", "--parts", "--images"])
def test_a_missing_argument_is_named(call: list[str], argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = call.index(argument)
    end = next((at for at in range(start + 1, len(call)) if call[at].startswith("--")), len(call))
    with pytest.raises(SystemExit) as ended:
        command_line.main(call[:start] + call[end:])
    assert ended.value.code == 2
    assert f"the following arguments are required: {argument}" in capsys.readouterr().err


def test_an_argument_that_no_stage_takes_is_named(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main([*call, "--image", "a"])
    assert ended.value.code == 2
    assert "--image" in capsys.readouterr().err


def test_a_damaged_input_ends_in_one_line(call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.parquet"
    path.write_bytes(path.read_bytes()[:200])
    assert command_line.main(call) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"distillery collect: {path}: cannot be read (")


def test_what_a_user_can_put_right_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = '{"seed":0,"choice":{"kind":"random"},"ipc":9}'
    data = part(tmp_path / "data.parquet", [0, 1])
    arguments = ["--data", str(data), "--images", str(tmp_path / "out.parquet")]
    assert command_line.main(["select", "--settings", settings, *arguments]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("distillery select: ipc: class 'a' has 2 training images, fewer than 9")


def test_the_cost_is_a_file_of_its_own(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "WORK", progress.Work())
    assert command_line.main([*call, "--cost", str(tmp_path / "cost" / "collect.json")]) == 0
    cost = json.loads((tmp_path / "cost" / "collect.json").read_text("utf-8"))
    assert cost.keys() == {"stage", "device", "threads", "seconds", "peak_memory_mb"}
    assert (cost["stage"], cost["device"]) == ("collect", "none")
    assert cost["seconds"] > 0
    # Of this process or of one that it has started, which here may be one of an earlier test.
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    assert 10 < cost["peak_memory_mb"] <= 1.01 * most / 1024  # the two peaks are not counted at the same moment
    assert json.loads(capsys.readouterr().err) == cost


def test_a_stage_that_fails_records_no_cost(call: list[str], tmp_path: Path) -> None:
    (tmp_path / "one.parquet").write_bytes(b"")
    assert command_line.main([*call, "--cost", str(tmp_path / "cost.json")]) == 1
    assert not (tmp_path / "cost.json").exists()


def test_a_stage_that_computes_nothing_depends_on_no_threads(call: list[str], tmp_path: Path) -> None:
    made = []
    for threads in ("1", "2"):
        assert command_line.main([*call, "--threads", threads]) == 0
        made.append((tmp_path / "out.parquet").read_bytes())
    assert made[0] == made[1]


THREADS = """
import json, sys
from distillery import __main__ as command_line
from distillery import progress
from distillery.job import Input, Job, Output
from distillery.stages import select_by_learnability
from distillery.stages.select_by_learnability import Settings

def run(settings, *, data, previous=None, student=None, reference=None, images, job):
    import torch
    print(torch.get_num_threads(), job.threads, job.device.type, len(job.inputs), student, job.checkpoint_seconds)

run.__annotations__ = select_by_learnability.run.__annotations__
select_by_learnability.run = run
file = sys.argv[1]
settings = '{"seed":0,"increment":2,"increment_size":1,"reference_weight":1.0,"min_reference_probability":0.0}'
for more in json.loads(sys.argv[2]):
    assert not command_line.main([
        "select_by_learnability", "--settings", settings, "--previous", file, file,
        "--data", file, "--reference", file, "--images", file + ".out", *more,
    ])
"""


def test_a_stage_that_computes_uses_the_threads_that_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    arguments = [["--threads", "1"], ["--student", "--checkpoint-seconds", "5"]]  # a rule gives no file for --student
    command = [sys.executable, "-c", THREADS, str(path), json.dumps(arguments)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    one, other = done.stdout.splitlines()
    assert one.split() == ["1", "1", "cpu", "4", "None", "120.0"]
    assert other.split()[4:] == ["None", "5.0"]


def test_the_arguments_of_a_stage_come_from_its_signature() -> None:
    assert stage_files(collect.run) == {"parts": File("input", True, False), "images": File("output", False, False)}
    assert stage_files(evaluate.run) == {
        "images": File("input", False, False),
        "test": File("input", False, False),
        "teacher": File("input", False, True),
        "soft_labels": File("input", False, True),
        "whitening": File("input", False, True),
        "evaluations": File("output", False, False),
        "history": File("output", False, False),
    }
    files = stage_files(generate_increment.run)
    assert files["generator"] == File("input", True, False)
    assert files["previous"] == File("input", True, True)
    assert files["student"] == File("input", False, True)
    assert files["candidates"] == File("output", False, False)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_settings_and_one_run(stage: str) -> None:
    import importlib

    module: ModuleType = importlib.import_module(f"distillery.stages.{stage}")
    assert module.Settings.model_config["extra"] == "forbid"
    kinds = {file.kind for file in stage_files(module.run).values()}
    assert "output" in kinds
    assert module.__doc__
    assert module.run.__doc__


def test_a_wrong_call_loads_nothing_that_computes(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom distillery.__main__ import main\n"
        "main(['nothing']); main([])\n"
        "print(*{'torch', 'pandas', 'diffusers', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_many_images_are_decoded_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "POOL_FROM", 1)
    settings = {"dataset": {"source": {"kind": "digits"}, "resolution": 16, "holdout": {}, "classes": ["0", "1"]}}
    files = {name: tmp_path / f"{name}.parquet" for name in ("train", "test", "rejected", "duplicates")}
    pools: list[int] = []
    pool = ingest_module.ProcessPoolExecutor

    def noted(workers: int, *rest: Any, **options: Any) -> Any:
        pools.append(workers)
        return pool(workers, *rest, **options)

    monkeypatch.setattr(ingest_module, "ProcessPoolExecutor", noted)
    monkeypatch.setattr(devices, "allowed_cores", lambda: 2)
    call = ["ingest", "--settings", json.dumps(settings), "--threads"]
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert command_line.main([*call, "64", *options]) == 0
    pooled = {name: path.read_bytes() for name, path in files.items()}
    assert pools == [2]
    # One core asked for is one process, whatever the machine has.
    assert command_line.main([*call, "1", *options]) == 0
    assert {name: path.read_bytes() for name, path in files.items()} == pooled
    assert pools == [2]
