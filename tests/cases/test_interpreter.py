"""Jobs run the Python that Snakemake runs, unless they have an environment or a container of their own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from clone import Clone
from snakemake.settings.types import DeploymentSettings
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from distillery.plan.rules import command
from distillery.snakemake_internals import interpreter


def test_a_planned_job_shows_its_command(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    assert "python -m distillery ingest --settings" in clone.plan("-p").text


@pytest.mark.parametrize(
    ("methods", "python"),
    [
        (set(), sys.executable),
        ({DeploymentMethod.ENV_MODULES}, sys.executable),
        ({DeploymentMethod.CONDA}, "python"),
        ({DeploymentMethod.APPTAINER}, "python"),
        ({DeploymentMethod.CONDA, DeploymentMethod.APPTAINER}, "python"),
    ],
)
def test_environments_and_containers_have_a_python_of_their_own(methods: set[DeploymentMethod], python: str) -> None:
    settings = DeploymentSettings(deployment_method=frozenset(methods))
    assert interpreter(SimpleNamespace(deployment_settings=settings)) == python


def test_the_text_of_a_rule_names_no_interpreter() -> None:
    """Snakemake runs jobs again whose text has changed: another interpreter is no such change."""
    assert command("ingest").startswith("python -m distillery ingest ")


def test_the_command_runs_in_the_interpreter_in_the_place_of_its_shell(tmp_path: Path) -> None:
    """Also where another `python` comes first, and the path of the interpreter has braces, a quote and a space."""
    (tmp_path / "python").write_text("#!/bin/sh\necho another python\n", "utf-8")
    (tmp_path / "python").chmod(0o755)
    folder = tmp_path / "it's a {folder}"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    rule = tmp_path / "Snakefile"
    program = "import os, sys; print(sys.executable, os.getppid())"
    rule.write_text(
        "from types import SimpleNamespace\nimport sys, distillery.snakemake_internals as internals\n"
        f"sys.executable = {str(folder / 'python')!r}\n"
        "shell.prefix(internals.shell_prefix(workflow))\n"
        "rule all:\n    output: 'out'\n"
        f'    shell: """python -c {shlex.quote(program)} > {{output}}"""\n',
        "utf-8",
    )
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--snakefile", rule], cwd=tmp_path, env=environment
    )
    assert process.wait(60) == 0
    python, parent = (tmp_path / "out").read_text("utf-8").rsplit(maxsplit=1)
    assert (python, int(parent)) == (str(folder / "python"), process.pid)
