"""What a rule hands to its stage: every file that the stage takes, under its name, and nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml
from clone import PROJECT

import distillery.__main__ as command_line

RULES = {
    rule.partition(":")[0]: rule.partition('command("')[2].partition('"')[0]
    for path in sorted((PROJECT / "workflow/rules").glob("*.smk"))
    for rule in path.read_text("utf-8").split("\nrule ")[1:]
}


def test_every_stage_has_a_rule_of_its_name() -> None:
    assert {stage: stage for stage in command_line.stage_names()} == RULES


def test_the_environment_of_conda_installs_the_project_from_its_folder(tmp_path: Path) -> None:
    """Snakemake copies both files elsewhere, and runs the script where it runs itself."""
    environment = yaml.safe_load((PROJECT / "envs/distillery.yaml").read_text("utf-8"))
    assert [package for package in environment["dependencies"] if not isinstance(package, str)] == []
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
