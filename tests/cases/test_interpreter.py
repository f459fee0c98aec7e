"""Jobs run the Python that Snakemake runs, unless they have an environment or a container of their own."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from clone import Clone
from snakemake.settings.types import DeploymentSettings
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from distillery.plan.rules import command
from distillery.snakemake_internals import interpreter


def test_a_planned_job_names_the_interpreter_of_snakemake(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    commands = [line for line in clone.plan("-p").text.splitlines() if " -m distillery " in line]
    words = [shlex.split(line) for line in commands]
    assert words and {line[line.index("-m") - 1] for line in words} == {sys.executable}


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
    assert command("ingest").startswith("{PYTHON:q} -m distillery ingest ")
