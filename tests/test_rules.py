"""What a rule hands to its stage: every file that the stage takes, under its name, and nothing else."""

from __future__ import annotations

import importlib
import re

import pytest
from clone import PROJECT

import distillery.__main__ as door

RULES = {
    block.split(":")[0]: block
    for path in sorted((PROJECT / "workflow/rules").glob("*.smk"))
    for block in re.split(r"^rule ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]
}
ALWAYS = {"settings", "threads", "cost"}


def test_every_stage_has_a_rule_of_its_name() -> None:
    assert sorted(RULES) == sorted(door.stage_names())


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_passes_every_file_of_its_stage_under_its_name(rule: str) -> None:
    stage = importlib.import_module(f"distillery.stages.{rule}")
    passed = dict(re.findall(r'" --([a-z-]+) \{\w+\.(\w+):q\}"', RULES[rule]))
    assert all(flag.replace("-", "_") == name for flag, name in passed.items())
    assert {name for flag, name in passed.items() if flag not in ALWAYS} == set(door._files(stage.run))
