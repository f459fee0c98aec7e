"""Claims about the tables and figures of a report, on tables small enough to be reckoned by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from about import ABOUT, SETTING
from clone import PROJECT, SMOKE
from PIL import Image

from distillery.__main__ import main
from distillery.plan.load import load
from distillery.provenance import commit
from distillery.stages import plot_front, tabulate_accuracy
from distillery.storage.images import ImageSet, encode_png, write_images
from distillery.storage.tables import write_table

ORDER: dict[str, Any] = {"methods": ["lgd", "dit"], "networks": ["resnet", "convnet"], **SETTING}
AGAINST_DIT: dict[str, Any] = {"methods": ["lgd", "dit"], "baseline": "dit", **SETTING}
ORIGIN = f",tiny,digits (4 classes of 16 px),{commit()}"
TABLE_FILES = {"csv": "t.csv", "parquet": "t.parquet", "markdown": "t.md"}
FIGURE_FILES = {"png": "f.png", "svg": "f.svg"}


def run(stage: str, settings: dict[str, Any], into: Path, outputs: dict[str, str], **inputs: Path | list[Path]) -> int:
    """Run a stage through the command_line; its outputs lie in `into`."""
    arguments = [stage, "--settings", json.dumps(settings)]
    for name, value in inputs.items():
        arguments += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    for name, file in outputs.items():
        arguments += [f"--{name}", str(into / file)]
    return main(arguments)


def table(path: Path, rows: list[dict[str, Any]], metadata: dict[str, str] | None = None) -> Path:
    """Write rows as Parquet."""
    write_table(path, pa.Table.from_pylist(rows).replace_schema_metadata(metadata), {})
    return path


def evaluation(method: str, accuracies: list[list[float]], **about: object) -> list[dict[str, Any]]:
    """Rows of an evaluation: a list of accuracies over epochs for each student."""
    common = {"method": method, "ipc": 10, "network": "convnet", "protocol": "p", "seed": 0, **about}
    return [
        {**common, "student": student, "epoch": 5 * (index + 1), "accuracy": accuracy}
        for student, over_epochs in enumerate(accuracies)
        for index, accuracy in enumerate(over_epochs)
    ]


def matrix(method: str, cells: Sequence[Sequence[float]], seed: int = 0, student: int = 0) -> list[dict[str, Any]]:
    """Rows of one redundancy matrix."""
    common = {"method": method, "seed": seed, "network": "convnet", "student": student}
    return [
        {**common, "trained_on": r + 1, "tested_on": s + 1, "accuracy": accuracy}
        for r, row in enumerate(cells)
        for s, accuracy in enumerate(row)
    ]


def accuracies(tmp_path: Path, rows: list[dict[str, Any]], **settings: object) -> list[dict[str, Any]]:
    """The rows that `tabulate_accuracy` makes of one file."""
    file = table(tmp_path / "evaluation.parquet", rows)
    assert run("tabulate_accuracy", {**ORDER, **settings}, tmp_path, TABLE_FILES, evaluations=file) == 0
    cells: list[dict[str, Any]] = pq.read_table(tmp_path / "t.parquet").to_pylist()
    return cells


def redundancies(tmp_path: Path, rows: list[dict[str, Any]], baseline: str | None = "dit") -> dict[str, dict[str, Any]]:
    """What `tabulate_redundancy` makes of one file, by method."""
    file = table(tmp_path / "matrix.parquet", rows)
    settings = {**AGAINST_DIT, "baseline": baseline}
    assert run("tabulate_redundancy", settings, tmp_path, TABLE_FILES, matrices=file) == 0
    return {row["method"]: row for row in pq.read_table(tmp_path / "t.parquet").to_pylist()}


def read_csv(path: Path) -> list[dict[str, str]]:
    """A CSV file as texts."""
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))


def test_accuracy_is_the_last_epoch_and_best_the_best_of_each_network(tmp_path: Path) -> None:
    (row, _) = accuracies(tmp_path, evaluation("dit", [[80, 90, 70], [60, 50, 74]]), networks=["convnet"])
    assert (row["n"], row["accuracy_mean"], row["best_mean"]) == (2, 72.0, 82.0)


def test_the_deviation_is_that_of_a_sample_over_seeds_and_students(tmp_path: Path) -> None:
    rows = evaluation("dit", [[70], [72]]) + evaluation("dit", [[74]], seed=1)
    (row, _) = accuracies(tmp_path, rows, networks=["convnet"])
    assert (row["n"], row["accuracy_mean"], row["accuracy_std"]) == (3, 72.0, 2.0)


def test_one_network_has_no_deviation(tmp_path: Path) -> None:
    (row, _) = accuracies(tmp_path, evaluation("dit", [[70]]), networks=["convnet"])
    assert row["accuracy_std"] is None
    assert read_csv(tmp_path / "t.csv")[0]["accuracy_std"] == ""
    assert " 70.0 |" in (tmp_path / "t.md").read_text("utf-8")


def test_the_mean_row_spreads_over_replicates_not_over_networks(tmp_path: Path) -> None:
    rows = evaluation("dit", [[70], [74]]) + evaluation("dit", [[92], [90]], network="resnet")
    mean = accuracies(tmp_path, rows)[-1]
    assert (mean["network"], mean["n"], mean["trained"], mean["accuracy_mean"]) == ("mean", 2, 4, 81.5)
    assert mean["accuracy_std"] == pytest.approx(math.sqrt(0.5))  # of 81 and 82


def test_there_is_no_mean_where_a_network_was_not_evaluated(tmp_path: Path) -> None:
    assert [row["network"] for row in accuracies(tmp_path, evaluation("dit", [[70]]))] == ["convnet"]


def test_a_single_network_is_its_own_mean_and_stands_once_in_the_markdown(tmp_path: Path) -> None:
    row, mean = accuracies(tmp_path, evaluation("dit", [[70], [74]]), networks=["convnet"])
    assert {**row, "network": "mean"} == mean
    assert "mean |" not in (tmp_path / "t.md").read_text("utf-8")


def test_rows_stand_in_the_order_of_the_settings(tmp_path: Path) -> None:
    rows = [
        row
        for method in ("dit", "other", "lgd")
        for ipc in (50, 10)
        for network in ("convnet", "resnet")
        for row in evaluation(method, [[70]], ipc=ipc, network=network)
    ]
    cells = [(row["method"], row["ipc"], row["network"]) for row in accuracies(tmp_path, rows)]
    networks = ("resnet", "convnet", "mean")
    assert cells == [(m, ipc, n) for m in ("lgd", "dit", "other") for ipc in (10, 50) for n in networks]


def test_protocols_never_mix(tmp_path: Path) -> None:
    rows = evaluation("dit", [[70]], protocol="hard") + evaluation("dit", [[90]], protocol="soft")
    cells = accuracies(tmp_path, rows, networks=["convnet"])
    assert [(row["protocol"], row["accuracy_mean"]) for row in cells] == [("hard", 70)] * 2 + [("soft", 90)] * 2


def test_csv_has_exactly_these_columns_and_two_decimals(tmp_path: Path) -> None:
    accuracies(tmp_path, evaluation("dit", [[200 / 3]]), networks=["convnet"])
    first, second, *_ = (tmp_path / "t.csv").read_text("utf-8").splitlines()
    names = "method,ipc,network,protocol,n,trained,accuracy_mean,accuracy_std,best_mean,best_std"
    assert first == f"{names},experiment,dataset,commit"
    assert second == f"dit,10,convnet,p,1,1,66.67,,66.67,{ORIGIN}"


def test_markdown_reads_as_a_paper_prints_it(tmp_path: Path) -> None:
    accuracies(tmp_path, evaluation("dit", [[97.0], [97.6]]), networks=["convnet"])
    assert "| dit    |  10 | 97.3 ± 0.4 |" in (tmp_path / "t.md").read_text("utf-8")


def test_the_order_of_the_files_changes_no_byte(tmp_path: Path) -> None:
    rows = [evaluation("dit", [[70.1], [73.3]]), evaluation("lgd", [[71.7]]), evaluation("dit", [[70.7]], seed=1)]
    files = [table(tmp_path / f"{index}.parquet", part) for index, part in enumerate(rows)]
    made = []
    for name, paths in (("a", files), ("b", files[::-1])):
        assert run("tabulate_accuracy", ORDER, tmp_path / name, TABLE_FILES, evaluations=paths) == 0
        made.append([(tmp_path / name / file).read_bytes() for file in TABLE_FILES.values()])
    assert made[0] == made[1]


def test_two_different_accuracies_for_one_network_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(tmp_path / "e.parquet", evaluation("dit", [[70]]) + evaluation("dit", [[71]]))
    assert run("tabulate_accuracy", ORDER, tmp_path, TABLE_FILES, evaluations=file) == 1
    assert "two different accuracies for method dit" in capsys.readouterr().err


def test_a_file_without_a_column_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = table(tmp_path / "e.parquet", [{"method": "dit"}])
    assert run("tabulate_accuracy", ORDER, tmp_path, TABLE_FILES, evaluations=file) == 1
    assert f"{file}: cannot be read (no column ipc, network" in capsys.readouterr().err


def test_redundancy_is_the_mean_off_the_diagonal(tmp_path: Path) -> None:
    cells = [[100.0, 10.0, 20.0], [30.0, 100.0, 40.0], [50.0, 60.0, 100.0]]
    row = redundancies(tmp_path, matrix("dit", cells))["dit"]
    assert (row["increments"], row["off_diagonal_mean"], row["off_diagonal_std"]) == (3, 35.0, None)


def test_redundancy_spreads_over_seeds_and_students(tmp_path: Path) -> None:
    rows = [
        row
        for seed, student, value in ((0, 0, 40.0), (0, 1, 42.0), (1, 0, 44.0))
        for row in matrix("dit", [[100.0, value], [value, 100.0]], seed, student)
    ]
    row = redundancies(tmp_path, rows)["dit"]
    assert (row["off_diagonal_mean"], row["off_diagonal_std"]) == (42.0, 2.0)


def test_the_published_pair_gives_a_reduction_of_39_1_percent(tmp_path: Path) -> None:
    rows = matrix("dit", [[100, 94.7], [94.7, 100]]) + matrix("lgd", [[100, 57.65], [57.65, 100]])
    cells = redundancies(tmp_path, rows)
    assert list(cells) == ["lgd", "dit"]
    assert round(cells["lgd"]["reduction_percent"], 1) == 39.1
    assert cells["dit"]["reduction_percent"] == 0
    assert "39.1 |" in (tmp_path / "t.md").read_text("utf-8")
    assert (tmp_path / "t.csv").read_text("utf-8").splitlines() == [
        "method,increments,n,off_diagonal_mean,off_diagonal_std,baseline,reduction_percent,experiment,dataset,commit",
        f"lgd,2,1,57.65,,dit,39.12{ORIGIN}",
        f"dit,2,1,94.70,,dit,0.00{ORIGIN}",
    ]


@pytest.mark.parametrize("baseline", ["dit", None])
def test_without_a_baseline_there_is_no_reduction(tmp_path: Path, baseline: str | None) -> None:
    cells = redundancies(tmp_path, matrix("lgd", [[100, 50], [50, 100]]), baseline)
    assert cells["lgd"]["reduction_percent"] is None
    assert read_csv(tmp_path / "t.csv")[0]["reduction_percent"] == ""


def test_an_incomplete_matrix_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = table(tmp_path / "m.parquet", matrix("dit", [[100, 90], [90, 100]])[:-1])
    assert run("tabulate_redundancy", AGAINST_DIT, tmp_path, TABLE_FILES, matrices=file) == 1
    assert "dit: the redundancy matrix of seed 0, student 0 lacks 1 of 4 cells" in capsys.readouterr().err


FRONT: dict[str, Any] = {
    "methods": [
        {"name": "dit"},
        {"name": "random"},
        {"name": "gentle", "strength": 0.5, "reference_weight": 2, "deviation": 0},
        {"name": "strong", "strength": 5, "reference_weight": 2, "deviation": 0},
        {"name": "worse", "strength": "auto", "reference_weight": 2, "deviation": 0},
    ],
    "ipc": 10,
    "baseline": "dit",
    **SETTING,
}


def front(tmp_path: Path, into: Path, without: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The table of `plot_front` for five methods, of which `random` has no redundancy."""
    names = [method["name"] for method in FRONT["methods"]]
    made = {"dit": (95, 80), "random": (97, None), "gentle": (97, 60), "strong": (90, 20), "worse": (96, 64)}
    rows = [row for name in names for row in evaluation(name, [[made[name][0] - 1.0], [made[name][0] + 1.0]])]
    matrices = [
        row
        for name, (_, cell) in made.items()
        if cell is not None and name not in without
        for row in matrix(name, [[100.0, cell], [cell, 100.0]])
    ]
    accuracies(tmp_path / "a", rows, methods=names, networks=["convnet"])
    redundancies(tmp_path / "r", matrices)
    files = {"accuracy": tmp_path / "a/t.parquet", "redundancy": tmp_path / "r/t.parquet"}
    outputs = {"csv": "t.csv", "markdown": "t.md", **FIGURE_FILES}
    assert run("plot_front", FRONT, into, outputs, **files) == 0
    return read_csv(into / "t.csv")


def test_the_front_holds_what_no_other_method_beats(tmp_path: Path) -> None:
    rows = {row["method"]: row for row in front(tmp_path, tmp_path)}
    assert list(rows) == ["dit", "random", "gentle", "strong", "worse"]
    assert [name for name, row in rows.items() if row["pareto"] == "True"] == ["gentle", "strong"]
    assert rows["random"]["redundancy"] == rows["random"]["strength"] == ""
    assert rows["worse"]["strength"] == "auto"
    assert (tmp_path / "t.csv").read_text("utf-8").splitlines()[
        3
    ] == f"gentle,0.5,2,0,97.00,1.41,2,2,60.00,dit,25.00,True{ORIGIN}"


def test_without_the_baseline_there_is_no_front(tmp_path: Path) -> None:
    rows = front(tmp_path, tmp_path, without=("dit",))
    assert {row["pareto"] for row in rows} == {"False"}
    assert {row["reduction_percent"] for row in rows} == {""}


def test_an_ipc_that_was_not_evaluated_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front(tmp_path, tmp_path)
    files = {"accuracy": tmp_path / "a/t.parquet", "redundancy": tmp_path / "r/t.parquet"}
    outputs = {"csv": "t.csv", "markdown": "t.md", **FIGURE_FILES}
    assert run("plot_front", {**FRONT, "ipc": 20}, tmp_path, outputs, **files) == 1
    assert "no method has a mean over networks at IPC 20: all networks of one kind" in capsys.readouterr().err


def test_a_strength_by_increment_labels_a_point_in_words() -> None:
    config = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))
    config["methods"]["lgd"]["guidance"]["learnability"]["strength"] = {4: 2.5, 2: 4}
    settings = plot_front.Settings.of(load(config), seed="0")
    assert {variant.name: variant.strength for variant in settings.methods}["lgd"] == "4 from 2, 2.5 from 4"


def test_settings_name_methods_in_alphabetical_order_whatever_that_of_the_file() -> None:
    config = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))
    config["methods"]["lgd"]["guidance"]["deviation"] = None
    config["methods"] = dict(sorted(config["methods"].items(), reverse=True))
    experiment = load(config)
    assert [*experiment.methods] != sorted(experiment.methods)
    assert tabulate_accuracy.Settings.of(experiment).methods == sorted(experiment.methods)
    settings = plot_front.Settings.of(experiment, seed="0")
    assert settings.ipc == max(experiment.ipc)
    variants = {variant.name: variant for variant in settings.methods}
    assert [*variants] == sorted(experiment.methods)
    assert variants["lgd"].model_dump() == {
        "name": "lgd",
        "strength": "auto",
        "reference_weight": 2.0,
        "deviation": 0.0,
    }
    assert variants["random"].strength is None


def calibration(path: Path) -> Path:
    """A calibration of two reference weights; strength 4 leaves the class."""
    columns = ["relative_strength", "strength", "reference_weight", "validity", "student_accuracy", "valid", "chosen"]
    cells: list[tuple[float | bool, ...]] = [
        (0.0, 0.0, 0.0, 0.99, 0.8, True, False),
        (0.125, 2.0, 1.0, 0.92, 0.6, True, False),
        (0.25, 4.0, 1.0, 0.70, 0.3, False, False),
        (0.125, 2.0, 2.0, 0.97, 0.5, True, True),
    ]
    rest = {"reference_probability": 0.9, "learnability": 0.1, "pilot_accuracy": None}
    rest |= dict.fromkeys(["pilot_error", "mode_strength", "mode_stop"])
    rows = [{**dict(zip(columns, row, strict=True)), **rest} for row in cells]
    return table(path, rows, {"distillery_calibration": json.dumps({"threshold": 0.9, "judge": "j", "aim": "overlap"})})


def increments(folder: Path, count: int = 3, size: int = 16) -> list[Path]:
    """Image sets of two classes with two images each; all but the first know their learnability."""
    noise = np.random.default_rng(0)
    files = []
    for number in range(1, count + 1):
        columns = {"slot": np.array([0, 1, 0, 1]), "increment": np.full(4, number)}
        if number > 1:
            columns["learnability"] = np.full(4, 0.5)
        pixels = noise.integers(0, 256, (4, 1, size, size), dtype=np.uint8)
        labels = np.array([0, 0, 1, 1])
        images = ImageSet([encode_png(image) for image in pixels], labels, ["zero", "one"], list("abcd"), columns)
        files.append(folder / f"increment-{number}.parquet")
        write_images(files[-1], images, {})
    return files


def draw_all(tmp_path: Path, into: Path) -> dict[str, bytes]:
    """Every figure, as the bytes of its files."""
    rows = [
        r
        for m, a in (("dit", 70.0), ("lgd", 75.0))
        for ipc in (1, 10)
        for r in evaluation(m, [[a], [a + ipc]], ipc=ipc)
    ]
    accuracies(tmp_path / "accuracy", rows, networks=["convnet"])
    matrices = table(
        tmp_path / "m.parquet", matrix("dit", [[100, 80], [70, 100]]) + matrix("lgd", [[100, 9], [8, 100]])
    )
    drawn: list[tuple[str, dict[str, Any], dict[str, Path | list[Path]]]] = [
        ("plot_accuracy", {**ORDER, "full": None}, {"table": tmp_path / "accuracy/t.parquet"}),
        ("plot_redundancy", {**AGAINST_DIT, "ipc": 10, "drawn": ["dit"]}, {"matrices": matrices}),
        ("plot_calibration", {"method": "lgd", **SETTING}, {"table": calibration(tmp_path / "c.parquet")}),
        ("plot_increments", {"method": "lgd", **SETTING}, {"increments": increments(tmp_path)}),
    ]
    for stage, settings, inputs in drawn:
        assert run(stage, settings, into / stage, FIGURE_FILES, **inputs) == 0
    front(tmp_path, into / "plot_front")
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in sorted(into.glob("*/f.*"))}


@pytest.mark.filterwarnings("error")
def test_equal_data_give_figures_of_equal_bytes_without_a_date(tmp_path: Path) -> None:
    first, second = draw_all(tmp_path, tmp_path / "first"), draw_all(tmp_path, tmp_path / "second")
    assert len(first) == 10
    assert first == second
    for name, content in first.items():
        if name.endswith("svg"):
            assert content.startswith(b"<?xml")
            assert not re.search(rb"<dc:date>|Matplotlib v", content)
        else:
            with Image.open(io.BytesIO(content)) as image:
                assert "Software" not in image.info


def test_full_data_is_a_level_and_not_a_far_point() -> None:
    from distillery.report.figures import accuracy_figure
    from distillery.report.tables import accuracy_table

    rows = evaluation("dit", [[70], [72]]) + evaluation("full", [[98], [99]], ipc=5000)
    table = accuracy_table(pd.DataFrame(rows), ["dit", "full"], ["convnet"])
    axes = accuracy_figure(table, ["dit", "full"], ["convnet"], ABOUT, "full").axes[0]
    assert axes.get_xlim()[1] < 50
    assert [list(line.get_ydata()) for line in axes.lines if line.get_label() == "full"] == [[98.5, 98.5]]


def test_small_images_stay_crisp_on_the_contact_sheet(tmp_path: Path) -> None:
    size = 16
    files = increments(tmp_path, count=1, size=size)
    assert run("plot_increments", {"method": "lgd", **SETTING}, tmp_path, FIGURE_FILES, increments=files) == 0
    with Image.open(tmp_path / "f.png") as sheet:
        drawn = np.asarray(sheet.convert("L"))
    encoded = pq.read_table(files[0])["image"][0]["bytes"].as_py()
    with Image.open(io.BytesIO(encoded)) as image:
        wanted = np.asarray(image).repeat(4, axis=0).repeat(4, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(drawn, wanted.shape)
    corners = np.argwhere((windows[..., 0, 0] == wanted[0, 0]) & (windows[..., -1, -1] == wanted[-1, -1]))
    assert any(np.array_equal(windows[row, column], wanted) for row, column in corners)


def test_a_contact_sheet_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run("plot_increments", {"method": "lgd", **SETTING}, tmp_path, FIGURE_FILES, increments=[])
    assert stopped.value.code == 2
    assert "--increments: expected at least one argument" in capsys.readouterr().err


def test_the_contact_sheet_says_what_it_leaves_out() -> None:
    from distillery.report.contact_sheet import contact_sheet

    pixel = encode_png(np.zeros((1, 4, 4), np.uint8))
    names = [f"class {index}" for index in range(25)]
    labels = np.arange(25).repeat(12)
    images = ImageSet([pixel] * len(labels), labels, names, [""] * len(labels))
    figure = contact_sheet([images], "lgd", ABOUT)
    texts = [text.get_text() for text in figure.texts]
    assert texts[:-1] == ["lgd", "first 20 of 25 classes, first 10 of up to 12 images per class and increment"]


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    files = increments(tmp_path, count=1)
    arguments = [
        "plot_increments",
        "--settings",
        json.dumps({"method": "lgd", **SETTING}),
        "--increments",
        str(files[0]),
    ]
    arguments += ["--png", str(tmp_path / "f.png"), "--svg", str(tmp_path / "f.svg")]
    program = f"import sys, distillery.__main__ as main; sys.exit(main.main({arguments!r}) or 'torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
