"""Every final table and figure is flagged for the report of Snakemake, and has a title, a category and a caption."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import PROJECT
from docutils.core import publish_doctree

from distillery.errors import BadInput
from distillery.plan import layout, rules, targets
from distillery.plan.load import load
from distillery.report.captions import CATEGORIES, Captions

CAPTIONS = Captions.below(PROJECT / "workflow/report")
FILES = sorted((PROJECT / "workflow/report").glob("*/*.rst"))
EXPERIMENTS = [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("digits-*.yaml"))]
EXPERIMENTS += sorted((PROJECT / "experiments").glob("smoke*.yaml"))  # those that need no data and no weights
RULES = {path: path.read_text("utf-8") for path in sorted((PROJECT / "workflow/rules").glob("*.smk"))}

FLAGGED = re.compile(r"shown\((layout\.(?:table|figure)\([^()]*\)|\{[^}]*\})\)")
UNFLAGGED = re.compile(r"(?<!shown\()layout\.(?:table|figure)\([^()]*\)(?!\[\"(?:markdown|parquet|png)\"\])")


def outputs(text: str) -> list[str]:
    """The output directives of a file of rules."""
    return re.findall(r"^    output:\n((?:        .*\n)+)", text, re.MULTILINE)


def flagged() -> list[str]:
    """The patterns that rules hand to `shown`, without wildcards."""
    calls = [call for text in RULES.values() for part in outputs(text) for call in FLAGGED.findall(part)]
    files = [path for call in calls for path in eval(call, {"layout": layout}).values()]
    return [path for path in files if path.endswith(tuple(rules.SHOWN))]


def shown_files(experiment: Path) -> list[str]:
    """The tables and figures of an experiment that a report shows."""
    content = yaml.safe_load(experiment.read_text("utf-8"))
    loaded = load(content)
    files = [*targets.tables(loaded), *targets.figures(loaded)]
    return [path for path in files if path.endswith(tuple(rules.SHOWN))]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_table_and_figure_has_a_flag_and_a_caption(experiment: Path) -> None:
    """Add `workflow/report/{tables,figures}/<name>.rst`, and hand the outputs of the rule to `shown`."""
    patterns = [re.compile(re.sub(r"\\\{\w+\\\}", ".*", re.escape(path))) for path in flagged()]
    for path in shown_files(experiment):
        assert CAPTIONS.of(path).text
        assert any(pattern.fullmatch(path) for pattern in patterns), f"no rule hands {path} to `shown`"


@pytest.mark.parametrize("file", RULES, ids=lambda path: path.stem)
def test_no_rule_makes_a_table_or_figure_without_a_flag(file: Path) -> None:
    assert [part for part in outputs(RULES[file]) if UNFLAGGED.search(part)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_caption_is_valid_and_reads_without_an_experiment(file: Path) -> None:
    caption = CAPTIONS.of(f"{file.parent.name}/{file.stem}.csv")
    assert CAPTIONS.file(f"{file.parent.name}/{file.stem}.csv") == file
    assert caption.category in CATEGORIES
    assert "{{" not in caption.text
    document = publish_doctree(file.read_text("utf-8"), settings_overrides={"halt_level": 2, "report_level": 5})
    assert document["title"] == caption.title


def test_a_caption_serves_the_files_of_all_methods_and_seeds() -> None:
    paths = ["<results>/figures/increments-lgd.svg", "<results>/seed-3/figures/increments-my-own.svg"]
    paths.append(layout.figure("increments-{method}", "{run}")["svg"])
    assert {CAPTIONS.of(path).title for path in paths} == {"Images by increment"}


def test_the_longest_name_wins(tmp_path: Path) -> None:
    for name in ("training", "training-autoencoder"):
        file = tmp_path / "figures" / f"{name}.rst"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f".. category: Training\n\n{name}\n====================\n\nA loss.\n", "utf-8")
    captions = Captions.below(tmp_path)
    assert captions.of("x/figures/training-autoencoder.svg").title == "training-autoencoder"
    assert captions.of("x/figures/training-lgd.svg").title == "training"


def test_a_missing_or_malformed_caption_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"workflow/report/tables/unheard.rst: no caption for .*; write one"):
        CAPTIONS.of("<results>/tables/unheard.csv")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/plain.rst").write_text("A caption without a title.\n", "utf-8")
    with pytest.raises(BadInput, match=r"plain\.rst: no caption; it begins with"):
        Captions.below(tmp_path).of("tables/plain.csv")


def test_one_format_of_each_file_is_flagged_with_its_title_and_wildcards() -> None:
    flags: dict[str, dict[str, Any]] = {}

    def report(path: str, **flag: Any) -> str:
        flags[path] = flag
        return path

    figure = layout.figure("calibration-{method}", "{run}")
    assert rules.shown(report, CAPTIONS, figure) == figure
    (flag,) = flags.values()
    assert list(flags) == [figure["svg"]]
    assert flag["labels"] == {"title": "Calibration curve", "form": "figure", "run": "{run}", "method": "{method}"}
    assert flag["category"] == "Guidance" and Path(flag["caption"]).is_file()
