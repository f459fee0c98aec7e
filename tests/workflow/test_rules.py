"""What a rule hands to its stage: every file that the stage takes, under its name, and nothing else."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from clone import PROJECT

import distillery.__main__ as command_line

RULES = {
    block.split(":")[0]: block
    for path in sorted((PROJECT / "workflow/rules").glob("*.smk"))
    for block in re.split(r"^rule ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]
}
ALWAYS = {"settings", "threads", "cost"}


def test_every_stage_has_a_rule_of_its_name() -> None:
    assert sorted(RULES) == sorted(command_line.stage_names())


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_passes_every_file_of_its_stage_under_its_name(rule: str) -> None:
    stage = importlib.import_module(f"distillery.stages.{rule}")
    passed = dict(re.findall(r'" --([a-z-]+) \{\w+\.(\w+):q\}"', RULES[rule]))
    assert all(flag.replace("-", "_") == name for flag, name in passed.items())
    assert {name for flag, name in passed.items() if flag not in ALWAYS} == set(command_line.files_of(stage.run))


def test_the_environment_of_conda_installs_the_project_from_its_folder(tmp_path: Path) -> None:
    """Snakemake copies both files elsewhere, and runs the script where it runs itself."""
    environment = yaml.safe_load((PROJECT / "envs/distillery.yaml").read_text("utf-8"))
    assert [one for one in environment["dependencies"] if not isinstance(one, str)] == []
    script, stub = tmp_path / "copied.sh", tmp_path / "bin" / "python"
    script.write_bytes((PROJECT / "envs/distillery.post-deploy.sh").read_bytes())
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "$@"\n', "utf-8")
    stub.chmod(0o755)
    path = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    done = {
        cwd: subprocess.run(["sh", script], cwd=cwd, env=path, capture_output=True, text=True, check=False)
        for cwd in (PROJECT, tmp_path)
    }
    assert (done[PROJECT].returncode, done[PROJECT].stdout) == (0, "-m pip install -c constraints.txt .\n")
    assert (PROJECT / "constraints.txt").is_file() and (PROJECT / "pyproject.toml").is_file()
    assert done[tmp_path].returncode == 1 and "has no pyproject.toml" in done[tmp_path].stderr
