"""Every path below the results is written once, and rules name files by it."""

from __future__ import annotations

import re

from clone import PROJECT

from distillery.plan import layout

RULES = sorted((PROJECT / "workflow/rules").glob("*.smk"))
SOURCES = sorted((PROJECT / "src/distillery").rglob("*.py"))


def patterns() -> list[str]:
    """All patterns of the layout."""
    single = [value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str)]
    folders = [layout.autoencoder("{run}autoencoder"), layout.generator(), layout.unet(), layout.finetuned()]
    return [*single, *(path for folder in folders for path in folder.values())]


def test_no_two_files_share_a_path() -> None:
    filled = [re.sub(r"\{\w+\}", "x", path) for path in {*patterns()}]
    assert len(filled) == len(set(filled))


def test_no_rule_and_no_other_module_writes_a_path_below_the_results() -> None:
    for file in [*RULES, *SOURCES]:
        if file.name == "layout.py":
            continue
        code = "\n".join(line for line in file.read_text("utf-8").splitlines() if not line.lstrip().startswith("#"))
        assert not re.findall(r"\"<results>/", code), file


def test_the_common_part_of_the_rules_defines_no_function() -> None:
    common = (PROJECT / "workflow/rules/common.smk").read_text("utf-8")
    assert not re.findall(r"^\s*(def|class|lambda) ", common, re.MULTILINE)
    assert len(common.splitlines()) <= 120


def test_a_path_of_the_first_seed_lies_at_the_top() -> None:
    wildcards = {"method": "lgd", "ipc": 10}
    assert layout.fill(layout.DISTILLED, run="", **wildcards) == "<results>/distilled/lgd/ipc10.parquet"
    assert layout.fill(layout.DISTILLED, run="seed-3/", **wildcards) == "<results>/seed-3/distilled/lgd/ipc10.parquet"


def test_costs_are_grouped_by_method() -> None:
    logs = layout.logs("evaluate", "method", "ipc", run="{run}")
    assert logs == {
        "text": "<results>/{run}logs/evaluate-{method}-{ipc}.log",
        "cost": "<results>/{run}cost/{method}/evaluate-{ipc}.json",
    }
    assert layout.logs("ingest")["cost"] == "<results>/cost/ingest.json"
