"""Two experiments are compared: settings that differ, results with intervals, and what cannot be compared."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from about import ABOUT
from clone import PROJECT
from scipy.stats import ttest_ind

from distillery.__main__ import main
from distillery.analysis.statistics import paired_difference
from distillery.plan.load import load
from distillery.report.compare import differing, welch
from distillery.report.pooled import t_interval, units
from distillery.report.tables import ABSENT, EVALUATION, accuracy_table, interval, redundancy_table, write_formats
from distillery.storage.images import ImageSet, encode_png, write_images
from distillery.storage.tables import write_table

IMAGES = 40
PROTOCOL = "small"


def answers(share: float, seed: int) -> np.ndarray:
    """(IMAGES,) bool."""
    return np.random.default_rng(seed).random(IMAGES) < share


def evaluations(share: float, students: int = 3, start: int = 0, method: str = "lgd") -> pd.DataFrame:
    """Networks of one cell, each with the test images that it answers correctly."""
    rows = []
    for student in range(students):
        correct = answers(share, start + student)
        row = {"method": method, "ipc": 10, "network": "convnet", "protocol": PROTOCOL, "seed": 0, "student": student}
        row |= {"epoch": 1, "accuracy": 100 * correct.mean(), "correct": np.packbits(correct).tobytes()}
        rows.append({**row, "images": 20, "test_images": IMAGES, "parameters": 5, "label_bytes": 0})
    return pd.DataFrame(rows)[EVALUATION]


def run_of(folder: Path, rows: pd.DataFrame, *, pixel: int = 0, redundancy: float = 50.0, **changes: Any) -> Path:
    """The files of a finished run that a comparison reads."""
    import pyarrow as pa

    config = {**yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8")), "name": folder.name, **changes}
    folder.mkdir()
    text = yaml.safe_dump(load(config).resolved, allow_unicode=True)
    (folder / "experiment.yaml").write_text(text, "utf-8")
    for network, part in rows.groupby("network"):
        path = folder / f"evaluation/lgd/ipc10/{network}/{PROTOCOL}.parquet"
        write_table(path, pa.Table.from_pandas(part, preserve_index=False), {})
    cells = [
        {"method": "lgd", "seed": 0, "network": "convnet", "student": student, "trained_on": r, "tested_on": s}
        | {"accuracy": redundancy + student}
        for student in range(2)
        for r in (1, 2)
        for s in (1, 2)
    ]
    about = ABOUT.model_copy(update={"experiment": folder.name})
    for name, table in {
        "accuracy": accuracy_table(rows, ["lgd"], ["convnet"]),
        "redundancy": redundancy_table(pd.DataFrame(cells), ["lgd"], None),
    }.items():
        paths = [folder / f"tables/{name}.{end}" for end in ("csv", "parquet", "md")]
        write_formats(table, "", *paths, {}, about)
    pixels = np.full((IMAGES, 1, 4, 4), pixel, np.uint8)
    images = ImageSet([encode_png(one) for one in pixels], np.zeros(IMAGES, np.int64), ["a", "b"], ["x"] * IMAGES)
    write_images(folder / "data/test.parquet", images, {"written": folder.name})
    return folder


def cells(text: str, first: str) -> list[str]:
    """The first row of a table that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def printed(capsys: pytest.CaptureFixture[str], *folders: Path, status: int = 0) -> str:
    """What the command prints."""
    assert main(["compare", *map(str, folders)]) == status
    output = capsys.readouterr()
    return output.out if status == 0 else output.err


def test_a_difference_on_the_same_test_images_is_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = evaluations(0.9), evaluations(0.6, start=50)
    text = printed(capsys, run_of(tmp_path / "a", theirs), run_of(tmp_path / "b", ours))
    correct = [np.stack([answers(share, at + student) for student in range(3)]) for share, at in ((0.9, 0), (0.6, 50))]
    known = paired_difference(*correct, sets=[0, 0, 0])
    row = cells(text, "lgd    |  10 | convnet")
    assert row[-3:] == [f"{known.difference:+.1f}", f"{known.low:.1f} to {known.high:.1f}", "paired"]
    assert "Paired intervals" in text


def test_on_other_test_images_it_is_that_of_welch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = evaluations(0.9, students=4), evaluations(0.6, start=50)
    text = printed(capsys, run_of(tmp_path / "a", theirs, pixel=1), run_of(tmp_path / "b", ours))
    known = ttest_ind(ours["accuracy"], theirs["accuracy"], equal_var=False).confidence_interval(0.95)
    row = cells(text, "lgd    |  10 | convnet")
    assert row[-2:] == [f"{known.low:.1f} to {known.high:.1f}", "unpaired"]
    assert "Unpaired intervals: difference ± t √(s₁²/n₁ + s₂²/n₂)" in text


def test_accuracies_on_validation_images_are_paired_by_those_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    searching = {"dataset": {**blocks["dataset"], "validation": {}}}
    searching["evaluation"] = {**blocks["evaluation"], "split": "validation"}
    first = run_of(tmp_path / "a", evaluations(0.6, start=50), **searching)
    second = run_of(tmp_path / "b", evaluations(0.9), **searching)
    text = printed(capsys, first, second)
    assert "no validation images, so that nothing is paired by them" in text
    assert cells(text, "lgd    |  10 | convnet")[-1] == "unpaired"
    for folder in (first, second):
        (folder / "data/test.parquet").rename(folder / "data/validation.parquet")
    assert cells(printed(capsys, first, second), "lgd    |  10 | convnet")[-1] == "paired"


def test_one_network_has_a_difference_and_no_interval() -> None:
    change = welch(90.0, float("nan"), 1, 80.0, 1.0, 3)
    assert change.words == ["+10.0", "–", "no interval: one replicate"]  # noqa: RUF001


def test_redundancies_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = evaluations(0.9)
    text = printed(capsys, run_of(tmp_path / "a", rows), run_of(tmp_path / "b", rows, redundancy=40.0))
    row = cells(text, "lgd    | redundancy")
    assert row[2:5] == ["50.5 ± 0.7 (2)", "40.5 ± 0.7 (2)", "-10.0"]
    assert "No experiment has a table of coverage." in text


def test_settings_that_differ_are_listed_with_their_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))["methods"]
    changed = {**methods, "lgd": {**methods["lgd"], "candidates": 5}, "new": {"kind": "herding", "features": "real"}}
    rows = evaluations(0.9)
    text = printed(capsys, run_of(tmp_path / "a", rows), run_of(tmp_path / "b", rows, methods=changed))
    assert cells(text, "methods.lgd.candidates")[1:] == ["3", "5"]
    assert cells(text, "methods.new")[1] == "not there" and "herding" in cells(text, "methods.new")[2]
    assert "| name" not in text
    again = printed(capsys, tmp_path / "a", run_of(tmp_path / "c", rows))
    assert "The resolved settings are equal, but for the name." in again


def test_true_and_one_differ_and_equal_branches_are_left_out() -> None:
    first, second = {"a": {"x": 1, "y": [2]}, "b": True}, {"a": {"x": 1, "y": [3]}, "b": 1}
    assert list(differing([first, second])) == [("a.y", [[2], [3]]), ("b", [True, 1])]


def test_other_data_sets_and_protocols_are_named_and_not_subtracted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = evaluations(0.9)
    config = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    one = run_of(tmp_path / "a", rows)
    other = run_of(tmp_path / "b", rows, dataset={**config["dataset"], "holdout": {"fraction": 0.5}})
    text = printed(capsys, one, other)
    assert "a and b have different data sets, so no difference of results is shown." in text
    assert cells(text, "lgd    |  10 | convnet")[-1] == cells(text, "lgd    | redundancy")[-1] == "–"  # noqa: RUF001
    text = printed(capsys, one, run_of(tmp_path / "c", rows.assign(protocol="minimax")))
    assert "No protocol is common (a has small; c has minimax), so no accuracy compares." in text


def test_redundancies_of_other_measurements_are_not_subtracted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = evaluations(0.9)
    analysis = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))["analysis"]
    changed = {"redundancy": {**analysis["redundancy"], "students": 3}}
    text = printed(capsys, run_of(tmp_path / "a", rows), run_of(tmp_path / "b", rows, analysis=changed))
    assert "a and b measured redundancy with different settings, so no difference is shown." in text
    assert cells(text, "lgd    | redundancy")[-1] == "–"  # noqa: RUF001


def test_an_unfinished_run_is_named_and_the_rest_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = evaluations(0.9)
    finished, unfinished = run_of(tmp_path / "a", rows), run_of(tmp_path / "b", rows)
    for name in ("accuracy", "redundancy"):
        (unfinished / f"tables/{name}.parquet").unlink()
    (unfinished / "data/test.parquet").unlink()
    text = printed(capsys, finished, unfinished)
    assert "b: unfinished: no table of accuracies; run the same command again" in text
    assert "b: no test images" in text
    assert cells(text, "lgd    |  10 | convnet")[-4:] == ["–"] * 4  # noqa: RUF001


def test_three_experiments_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run_of(tmp_path / name, evaluations(0.9, start=50 * place)) for place, name in enumerate("abc")]
    text = printed(capsys, *folders)
    assert len(cells(text, "lgd    |  10 | convnet")) == 4 + 1 + 2 * 4


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["a"], "one folder of results; give two or more"),
        (["a", "a"], "the same folder of results stands there twice"),
        (["a", "nowhere"], "no such folder; give the folder of a run"),
        (["a", "empty"], "no experiment.yaml, so this is no folder of a run"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    folders: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path / "a", evaluations(0.9))
    (tmp_path / "empty").mkdir()
    error = printed(capsys, *(tmp_path / name for name in folders), status=1)
    assert words in error and "Traceback" not in error and error.count("\n") == 1


def test_folders_of_one_name_are_told_apart_by_their_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        folders.append(run_of(tmp_path / place / "a", evaluations(0.9)))
    assert cells(printed(capsys, *folders), "one/a")[0] == "one/a"


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_text_from_data_as_it_is(tmp_path: Path) -> None:
    rows = evaluations(0.9)
    folders = [run_of(tmp_path / name, rows) for name in "ab"]
    hostile = '<script>alert(1)</script> & "quoted" \''
    resolved = yaml.safe_load((folders[1] / "experiment.yaml").read_text("utf-8"))
    resolved["methods"]["lgd"]["stream"] = hostile
    (folders[1] / "experiment.yaml").write_text(yaml.safe_dump(resolved), "utf-8")
    output = tmp_path / "page.html"
    assert main(["compare", *map(str, folders), "--output", str(output)]) == 0
    page = Page(output.read_text("utf-8"))
    assert "script" not in page.tags and hostile in page.text
    assert page.tags.count("table") == 4 and "methods.lgd.stream" in page.text
    assert not re.search(r"(src|href)=|https?://", output.read_text("utf-8"))


def test_an_output_is_markdown_or_html_and_not_overwritten_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(run_of(tmp_path / name, evaluations(0.9))) for name in "ab"]
    assert main(["compare", *folders, "--output", str(tmp_path / "page.pdf")]) == 1
    assert "allowed endings: .md, .html" in capsys.readouterr().err
    output = tmp_path / "page.md"
    output.write_text("mine", "utf-8")
    assert main(["compare", *folders, "--output", str(output)]) == 1
    assert "is there; give another name, or --force" in capsys.readouterr().err
    assert output.read_text("utf-8") == "mine"
    assert main(["compare", *folders, "--output", str(output), "--force"]) == 0
    assert output.read_text("utf-8").startswith("# Comparison of experiments")


def test_the_origin_of_the_tables_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *(run_of(tmp_path / name, evaluations(0.9)) for name in "ab"))
    row = cells(text, "a ")
    assert row[1] == ABOUT.dataset and re.fullmatch(r"[0-9a-f]{40}( with changes)?|not a checkout", row[2])
    assert json.loads(json.dumps(row))


# ---- several splits of one data set ----------------------------------------------------------------------------------


def on_split(folder: Path, seed: int, shares: dict[str, float]) -> Path:
    """A finished run on one split of the data, with methods of these accuracies."""
    rows = pd.concat([evaluations(share, start=seed, method=method) for method, share in shares.items()])
    config = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    dataset = {**config["dataset"], "holdout": {"fraction": 0.25, "seed": seed}}
    return run_of(folder, rows, pixel=seed, redundancy=40.0 + seed, dataset=dataset)


def test_runs_on_other_splits_are_one_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shares = {"lgd": 0.9, "random": 0.5, "dit": 0.2}
    folders = [on_split(tmp_path / f"split-{seed}", seed, shares) for seed in (1, 2, 3)]
    text = printed(capsys, *folders)
    assert "dataset.holdout.seed alone and are one result over 3 splits" in text
    assert "different data sets" not in text
    lgd = cells(text, "lgd")
    accuracies = [
        [np.mean([100 * answers(share, seed + student).mean() for student in range(3)]) for seed in (1, 2, 3)]
        for share in (0.9, 0.5)
    ]
    change = np.subtract(*accuracies)
    half = 4.3027 * change.std(ddof=1) / 3**0.5
    assert lgd[3] == "3"
    assert lgd[5] == f"{change.mean():+.1f}"
    assert lgd[6] == interval(change.mean() - half, change.mean() + half)
    random = cells(text, "random")
    assert random[5:7] == [ABSENT, ABSENT]
    assert lgd[-2] == "42.5"  # 41, 42 and 43, and half a point of the students


def test_runs_that_differ_in_more_than_the_split_are_not_pooled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = on_split(tmp_path / "one", 1, {"lgd": 0.9})
    config = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    dataset = {**config["dataset"], "holdout": {"fraction": 0.5, "seed": 2}}
    other = run_of(tmp_path / "other", evaluations(0.9), dataset=dataset)
    text = printed(capsys, one, other)
    assert "Pooled" not in text and "different data sets" in text


def test_a_unit_of_which_a_network_has_diverged_is_left_out() -> None:
    rows = evaluations(0.9)
    broken = rows.assign(accuracy=np.nan)
    assert units([rows, broken])["split"].tolist() == [0]
    assert t_interval([2.0]) == (2.0, pytest.approx(np.nan, nan_ok=True), pytest.approx(np.nan, nan_ok=True), 1)
