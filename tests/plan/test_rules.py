"""What a rule hands to its stage: the settings, the code and the command."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from clone import PROJECT
from wildcards import Job

import distillery.__main__ as command_line
from distillery.plan import rules
from distillery.plan.load import load
from distillery.signature import stage_files

PLANNED = [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("smoke*.yaml"))]
HEAVY = ("torch", "diffusers", "timm", "sklearn", "pandas", "matplotlib")


@pytest.mark.parametrize("stage", command_line.stage_names())
def test_a_command_names_every_file_of_its_stage(stage: str) -> None:
    words = shlex.split(rules.command(stage).split(" > ")[0])
    files = stage_files(importlib.import_module(f"distillery.stages.{stage}").run)
    options = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    assert options == {"settings", "threads", "cost", *files}
    for name, file in files.items():
        assert words[words.index(f"--{name.replace('_', '-')}") + 1] == f"{{{file.kind}.{name}:q}}"


def test_settings_are_one_text_whatever_the_order_of_the_wildcards() -> None:
    experiment = load(yaml.safe_load(PLANNED[0].read_text("utf-8")))
    wildcards = [{"run": "", "reference": "real"}, {"reference": "real", "run": ""}]
    texts = {rules.settings(experiment, "train_reference")(Job(**one)) for one in wildcards}
    assert len(texts) == 1


def test_every_network_of_the_students_is_checked() -> None:
    config = yaml.safe_load((PROJECT / "experiments/smoke.yaml").read_text("utf-8"))
    config["methods"]["lgd"]["student"]["networks"] = ["convnet2_w8", "resnet18", "test_resnet"]
    config["methods"]["lgd"]["student"]["students"] = 2
    checks = rules.checked(load(config), "train_student")(Job(method="lgd", k=1))
    assert checks == [f"<results>/networks/{name}-16-trained.csv" for name in ("resnet18", "test_resnet")]


def test_a_constraint_without_names_matches_nothing() -> None:
    assert not re.fullmatch(rules.one_of([]), "")
    assert re.fullmatch(rules.one_of(["a+b"]), "a+b") and not re.fullmatch(rules.one_of(["a+b"]), "aab")


def test_memory_grows_with_each_attempt() -> None:
    assert [rules.memory(8)(Job(), attempt) for attempt in (1, 2)] == ["8GB", "16GB"]


def test_planning_imports_nothing_that_computes() -> None:
    """Loading an experiment, its input functions, and the settings and command of every stage."""
    program = (
        "import sys, yaml\n"
        "from pathlib import Path\n"
        "from distillery.plan import rules, targets\n"
        "from distillery.plan.inputs import Inputs\n"
        "from distillery.plan.load import load\n"
        "from distillery.__main__ import stage_names\n"
        "for path in sys.argv[1:]:\n"
        "    experiment = load(yaml.safe_load(Path(path).read_text('utf-8')))\n"
        "    Inputs(experiment), targets.tables(experiment), targets.figures(experiment)\n"
        "for stage in stage_names():\n"
        "    rules.command(stage), rules.code(stage)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, *map(str, PLANNED)]
    assert subprocess.run(command, cwd=PROJECT, text=True, capture_output=True, check=True).stdout.strip() == "[]"
