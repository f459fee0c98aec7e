"""What the tables of statistics and of published numbers promise, on evaluations that are known by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from about import ABOUT
from tiny import MADE_BY, job

from distillery.analysis.statistics import holm
from distillery.proportions import wilson_interval
from distillery.report.statistics import bits, statistics_markdown, statistics_table
from distillery.report.tables import EVALUATION, accuracy_table, csv_bytes, read_rows
from distillery.report.words import diverged_markdown
from distillery.stages import compare_published, tabulate_accuracy, tabulate_statistics
from distillery.storage.tables import read_table, write_table

IMAGES = 200


def answers(percent: float, seed: int = 0) -> np.ndarray:
    correct = np.zeros(IMAGES, dtype=bool)
    correct[np.random.default_rng(seed).permutation(IMAGES)[: round(percent * IMAGES / 100)]] = True
    return correct


def rows(method: str, percents: list[list[float]], *, ipc: int = 10, **about: Any) -> list[dict[str, Any]]:
    """An evaluation with one list of student accuracies per experiment seed; a NaN has diverged."""
    common = {"network": "convnet3", "protocol": "small", "images": 10 * ipc, "test_images": IMAGES}
    common |= {"method": method, "ipc": ipc, "parameters": 1000, "label_bytes": 0, **about}
    statistics = []
    for seed, students in enumerate(percents):
        for student, percent in enumerate(students):
            place = {"seed": seed, "student": student}
            statistics.append({**common, **place, "epoch": 1, "accuracy": 10.0, "correct": None})
            correct = np.packbits(answers(0 if np.isnan(percent) else percent, student)).tobytes()
            statistics.append({**common, **place, "epoch": 2, "accuracy": percent, "correct": correct})
    return statistics


def table(*parts: list[dict[str, Any]], **options: Any) -> pd.DataFrame:
    frame = pd.DataFrame([row for part in parts for row in part])
    defaults: dict[str, Any] = {"baseline": "random", "random": "random", "full": "full", "soft": [], "order": []}
    return statistics_table(frame, **{**defaults, **options}).set_index(["method", "ipc", "network"])


YARDSTICKS = (rows("random", [[80, 82]]), rows("full", [[98, 99]], ipc=100))


def test_a_row_has_its_recovery_scores_against_random_and_full_data() -> None:
    row = table(rows("lgd", [[90, 92]]), *YARDSTICKS).loc[("lgd", 10, "convnet3")]
    assert row["accuracy_mean"] == 91
    assert row["hlr"] == pytest.approx(98.5 - 91)
    assert row["ior"] == pytest.approx(91 - 81)
    assert row["hlr_std"] == pytest.approx(math.sqrt(2 + 0.5)) and row["ior_std"] == pytest.approx(2)
    alpha = 0.5 * 0.10 - 0.5 * 0.075
    assert row["lrs"] == pytest.approx(100 * (np.exp(alpha) - np.exp(-1)) / (np.e - np.exp(-1)))
    low, high = wilson_interval(0.91, IMAGES)
    assert (row["test_low"], row["test_high"]) == pytest.approx((100 * low, 100 * high))


def test_yardsticks_are_not_measured_against_themselves() -> None:
    statistics = table(rows("lgd", [[90, 92]]), *YARDSTICKS)
    assert np.isnan(statistics.loc[("random", 10, "convnet3"), "ior"])
    assert np.isnan(statistics.loc[("full", 100, "convnet3"), "hlr"])
    assert np.isnan(statistics.loc[("random", 10, "convnet3"), "difference"])
    assert statistics.loc[("random", 10, "convnet3"), "hlr"] == pytest.approx(17.5)


def test_hard_label_recovery_is_left_out_under_soft_labels() -> None:
    row = table(rows("lgd", [[90, 92]]), *YARDSTICKS, soft=["small"]).loc[("lgd", 10, "convnet3")]
    assert np.isnan(row["hlr"])
    assert np.isnan(row["lrs"])
    assert row["ior"] == pytest.approx(10)


def test_differences_are_paired_by_student_and_image() -> None:
    """Both methods answer nested sets of images rightly, so the pairing leaves no doubt."""
    row = table(rows("lgd", [[90, 92]]), *YARDSTICKS).loc[("lgd", 10, "convnet3")]
    assert row["difference"] == pytest.approx(10)
    assert 0 < row["difference_low"] < 10 < row["difference_high"]
    assert row["p"] < 0.001
    assert row["baseline"] == "random"


def test_a_second_baseline_has_a_paired_difference_and_an_interval() -> None:
    parts = (rows("lgd", [[90, 92]]), rows("dit", [[84, 86]]), *YARDSTICKS)
    statistics = table(*parts, second="dit")
    row = statistics.loc[("lgd", 10, "convnet3")]
    assert (row["difference"], row["second_difference"]) == pytest.approx((10, 6))
    assert row["second_low"] < 6 < row["second_high"] and row["second_baseline"] == "dit"
    alone = table(*parts, baseline="dit").loc[("lgd", 10, "convnet3")]
    assert (row["second_low"], row["second_high"]) == (alone["difference_low"], alone["difference_high"])
    assert np.isnan(statistics.loc[("dit", 10, "convnet3"), "second_difference"])
    assert "to dit" in statistics_markdown(statistics.reset_index())
    assert "to dit" not in statistics_markdown(table(*parts).reset_index())


PLAIN = {"protocol": "small+augment=False"}


def test_a_protocol_with_its_twin_without_augmentation_has_the_robust_score() -> None:
    """beta = (10 + 4) / 2 points: 91 - 81 with augmentation, 64 - 60 without it."""
    plain = (rows("lgd", [[63, 65]], **PLAIN), rows("random", [[60, 60]], **PLAIN))
    twin = {"small": "small+augment=False"}
    statistics = table(rows("lgd", [[90, 92]]), *YARDSTICKS, *plain, plain=twin).reset_index()
    scores = statistics[statistics["method"] == "lgd"].set_index("protocol")["ars"]
    expected = 100 * (np.exp(0.07) - np.exp(-1)) / (np.e - np.exp(-1))
    assert scores["small"] == pytest.approx(expected)
    assert statistics["ars"].notna().sum() == 1
    with_it, without = statistics_markdown(statistics).split("protocol `small+augment=False`")
    assert "ARS" in with_it and f"{expected:.1f}" in with_it and "ARS" not in without


def test_there_is_no_robust_score_without_random_images_or_without_the_twin() -> None:
    plain, twin = rows("lgd", [[63, 65]], **PLAIN), {"small": "small+augment=False"}
    assert table(rows("lgd", [[90, 92]]), *YARDSTICKS, plain, plain=twin)["ars"].isna().all()
    statistics = table(rows("lgd", [[90, 92]]), *YARDSTICKS)
    assert statistics["ars"].isna().all() and "ARS" not in statistics_markdown(statistics.reset_index())


def test_p_values_are_adjusted_for_the_number_of_comparisons() -> None:
    statistics = table(rows("lgd", [[82, 84]]), rows("dit", [[81, 83]]), *YARDSTICKS)
    compared = statistics[statistics["p"].notna()]
    assert len(compared) == 2  # the full data has another size: no baseline at its size
    assert (compared["p_holm"] >= compared["p"]).all()


def test_p_values_are_compared_at_the_same_size_alone() -> None:
    statistics = table(rows("lgd", [[82, 84]]), rows("lgd", [[70, 72]], ipc=2), *YARDSTICKS)
    assert np.isnan(statistics.loc[("lgd", 2, "convnet3"), "difference"])
    assert not np.isnan(statistics.loc[("lgd", 10, "convnet3"), "difference"])


def test_spread_between_sets_and_within_a_set_are_told_apart() -> None:
    apart = table(rows("lgd", [[80, 82], [90, 92], [85, 87]]), *YARDSTICKS).loc[("lgd", 10, "convnet3")]
    assert apart["std_within_set"] == pytest.approx(np.sqrt(2))
    assert apart["std_between_sets"] == pytest.approx(np.sqrt(25 - 2 / 2))
    assert apart["n"] == 6


def test_several_networks_have_a_row_of_their_mean() -> None:
    both = [*rows("lgd", [[90, 92]]), *rows("lgd", [[80, 82]], network="resnet")]
    statistics = table(both, *YARDSTICKS)
    assert statistics.loc[("lgd", 10, "mean"), "accuracy_mean"] == 86
    assert statistics.loc[("lgd", 10, "mean"), "n"] == 2
    assert ("random", 10, "mean") not in statistics.index


def test_the_mean_row_is_that_of_the_table_of_accuracies_where_a_network_has_diverged() -> None:
    parts = [*rows("lgd", [[90, 92], [94, 97]]), *rows("lgd", [[80, float("nan")], [82, 84]], network="resnet")]
    row = table(parts, *YARDSTICKS).loc[("lgd", 10, "mean")]
    theirs = accuracy_table(pd.DataFrame(parts), ["lgd"], ["convnet3", "resnet"])
    (wanted,) = theirs[theirs["network"] == "mean"].to_dict("records")
    assert row["accuracy_mean"] == wanted["accuracy_mean"] == pytest.approx((93.25 + 82) / 2)
    assert row["n"] == 3 and row["diverged"] == "0/1"
    assert row["std_within_set"] == pytest.approx(np.std([88, 90.5], ddof=1))  # the replicates that are whole


def test_there_is_no_mean_row_where_one_network_has_always_diverged() -> None:
    lost = [*rows("lgd", [[90, 92]]), *rows("lgd", [[float("nan")] * 2], network="resnet")]
    random = [*rows("random", [[80, 82]]), *rows("random", [[60, 62]], network="resnet")]
    statistics = table(lost, random)
    assert ("lgd", 10, "mean") not in statistics.index and ("random", 10, "mean") in statistics.index
    assert accuracy_table(pd.DataFrame(lost), ["lgd"], ["convnet3", "resnet"])["network"].tolist() == [
        "convnet3",
        "resnet",
    ]


def test_a_replicate_that_is_not_whole_is_in_no_difference() -> None:
    ours = [*rows("lgd", [[90, 94]]), *rows("lgd", [[80, 84]], network="resnet")]
    random = [*rows("random", [[80, 90]]), *rows("random", [[70, float("nan")]], network="resnet")]
    statistics = table(ours, random)
    assert statistics.loc[("lgd", 10, "mean"), "difference"] == pytest.approx(10)
    assert statistics.loc[("lgd", 10, "resnet"), "difference"] == pytest.approx(10)
    assert statistics.loc[("lgd", 10, "convnet3"), "difference"] == pytest.approx(7)


def test_a_student_is_paired_with_the_same_student_of_the_same_set() -> None:
    statistics = table(rows("lgd", [[90, 70], [50, 30]]), rows("random", [[86, 66], [46, 26]]))
    row = statistics.loc[("lgd", 10, "convnet3")]
    assert row["difference"] == pytest.approx(4) and row["difference_low"] > 0


def test_sets_that_disagree_widen_the_interval() -> None:
    """Half of the networks are better by 8 points: those of one set, or in every set half."""
    random = rows("random", [[80] * 8] * 2)
    apart = table(rows("lgd", [[88] * 8, [80] * 8]), random).loc[("lgd", 10, "convnet3")]
    row = table(rows("lgd", [[88, 80] * 4] * 2), random).loc[("lgd", 10, "convnet3")]
    assert apart["difference"] == row["difference"] == pytest.approx(4)
    assert apart["difference_low"] <= 0 < row["difference_low"]


def test_scores_are_of_the_same_network_and_size() -> None:
    parts = []
    for network, better in (("convnet3", 0.0), ("resnet", 5.0)):
        parts.append(rows("lgd", [[80 + better]], network=network))
        parts += [rows("random", [[chance + better]], ipc=ipc, network=network) for ipc, chance in ((2, 50), (10, 70))]
        parts.append(rows("full", [[90 + 2 * better]], ipc=100, network=network))
    statistics = table(*parts)
    assert statistics.loc[("lgd", 10, "convnet3"), ["hlr", "ior"]].tolist() == pytest.approx([10, 10])
    assert statistics.loc[("lgd", 10, "resnet"), ["hlr", "ior"]].tolist() == pytest.approx([15, 10])
    assert statistics.loc[("lgd", 10, "mean"), ["hlr", "ior"]].tolist() == pytest.approx([12.5, 10])


def test_an_accuracy_is_a_mean_and_no_median() -> None:
    assert table(rows("lgd", [[90, 91, 98]]), *YARDSTICKS).loc[("lgd", 10, "convnet3"), "accuracy_mean"] == 93


def test_p_values_of_one_protocol_are_one_family_by_holms_rule() -> None:
    parts = [rows(name, [[percent]]) for name, percent in (("a", 84), ("b", 88), ("c", 81))]
    other = [rows("a", [[83]], protocol="igd"), rows("random", [[80]], protocol="igd")]
    statistics = table(*parts, rows("random", [[80]]), *other).reset_index()
    for protocol, count in (("small", 3), ("igd", 1)):
        part = statistics[(statistics["protocol"] == protocol) & statistics["p"].notna()]
        assert len(part) == count and part["p_holm"].tolist() == pytest.approx(holm(part["p"].tolist()))
    assert (statistics["p_holm"] > statistics["p"] + 1e-6).sum() == 2


def test_a_p_value_that_is_small_is_not_printed_as_zero() -> None:
    statistics = table(rows("lgd", [[99, 99]]), rows("random", [[50, 50]])).reset_index()
    assert 0 < statistics["p"].min() < 1e-6
    assert "< 0.001" in statistics_markdown(statistics) and "p over test images alone" in statistics_markdown(
        statistics
    )
    line = csv_bytes(statistics).decode().splitlines()[1].split(",")
    assert 0 < float(line[statistics.columns.get_loc("p")]) < 1e-6


def test_a_diverged_network_is_named_and_enters_no_mean() -> None:
    parts = [rows("lgd", [[90, float("nan")], [92, 94]]), *YARDSTICKS]
    statistics = table(*parts)
    row = statistics.loc[("lgd", 10, "convnet3")]
    assert (row["n"], row["accuracy_mean"], row["diverged"]) == (3, 92, "0/1")
    assert "- lgd, IPC 10, convnet3, `small`: 0/1\n" in diverged_markdown(pd.DataFrame(parts[0]))
    assert diverged_markdown(pd.DataFrame(parts[1])) == ""
    (accuracy,) = accuracy_table(pd.DataFrame(parts[0]), ["lgd"], ["convnet3", "other"]).to_dict("records")
    assert (accuracy["n"], accuracy["accuracy_mean"]) == (3, 92)


def test_where_all_networks_diverged_there_is_no_mean() -> None:
    row = table(rows("lgd", [[float("nan")] * 2]), *YARDSTICKS).loc[("lgd", 10, "convnet3")]
    assert row["n"] == 0
    assert np.isnan(row["accuracy_mean"])
    assert row["diverged"] == "0/0 0/1"


def test_packed_answers_come_back() -> None:
    correct = answers(37.0)
    assert np.array_equal(bits(np.packbits(correct).tobytes(), IMAGES), correct)


# ---- the stages ------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = {
        "lgd": rows("DiT", [[60, 62]], protocol="minimax", network="convnet6"),
        "random": rows("random", [[50, 52]], protocol="minimax", network="convnet6"),
        "full": rows("full", [[88, 86]], ipc=1245, protocol="minimax", network="convnet6"),
    }
    paths = []
    for name, part in made.items():
        paths.append(tmp_path / f"{name}.parquet")
        write_table(paths[-1], pa.Table.from_pylist(part), MADE_BY)
    return paths


def outputs(folder: Path, name: str) -> dict[str, Path]:
    return {kind: folder / f"{name}.{end}" for kind, end in (("csv", "csv"), ("parquet", "pq"), ("markdown", "md"))}


def test_statistics_are_written_whatever_the_order_of_the_files(files: list[Path], tmp_path: Path) -> None:
    settings = tabulate_statistics.Settings(
        baseline="random",
        second=None,
        random="random",
        full="full",
        soft=[],
        methods=["DiT", "full", "random"],
        networks=["convnet6"],
        about=ABOUT,
    )
    for name, paths in (("one", files), ("two", files[::-1])):
        made = outputs(tmp_path, name)
        tabulate_statistics.run(settings, evaluations=paths, **made, job=job("tabulate_statistics", settings, []))
    assert (tmp_path / "one.pq").read_bytes() == (tmp_path / "two.pq").read_bytes()
    assert (tmp_path / "one.md").read_bytes() == (tmp_path / "two.md").read_bytes()
    statistics = read_table(tmp_path / "one.pq", "tabulate_statistics").to_pandas()
    assert statistics["method"].drop_duplicates().tolist() == ["DiT", "full", "random"]
    assert sorted(read_rows(files, EVALUATION, "evaluate").columns) == sorted(EVALUATION)


def test_published_numbers_stand_beside_ours_of_the_same_cell(files: list[Path], tmp_path: Path) -> None:
    order = tabulate_accuracy.Settings(methods=["DiT"], networks=["convnet6"], about=ABOUT)
    made = outputs(tmp_path, "accuracy")
    tabulate_accuracy.run(order, evaluations=files, **made, job=job("tabulate_accuracy", order, []))
    names = {"DiT": "DiT", "random": "Random"}
    settings = compare_published.Settings(
        dataset="imagewoof", methods=names, full="full", resolution=256, numbers="0", about=ABOUT
    )
    beside = outputs(tmp_path, "published")
    compare_published.run(settings, accuracy=made["parquet"], **beside, job=job("compare_published", settings, []))
    statistics = read_table(beside["parquet"], "compare_published").to_pandas()
    cell = statistics[(statistics["method"] == "DiT") & (statistics["network"] == "convnet6")].iloc[0]
    assert (cell["published"], cell["ours_best_mean"]) == (34.2, 61)
    assert cell["difference"] == pytest.approx(61 - 34.2)
    assert "Ours beside published" in beside["markdown"].read_text("utf-8")
