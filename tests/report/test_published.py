"""Claims about published numbers, and about what may stand beside them."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from tiny import job

from distillery.errors import BadInput
from distillery.report import published
from distillery.report.about import About
from distillery.report.published import (
    BESIDE,
    CONFIDENCES,
    NETWORKS,
    PUBLISHED,
    RUNS,
    beside_published,
    published_markdown,
    read_published,
)
from distillery.report.tables import arrow_table, csv_bytes
from distillery.settings import canonical
from distillery.stages import compare_published
from distillery.storage.tables import read_table, write_table
from distillery.students.settings import Protocol

NAMES = {"dit": "DiT", "lgd": "LGD", "random": "Random", "full": "Full data", "d4m": "D4M", "ld3m": "LD3M-DC"}
CROSS = ["alexnet_small", "vgg11_in", "resnet18_cifar_in", "vit_ld3m"]


def our(method: str, network: str, protocol: str, ipc: int = 10, resolution: int = 256, **about: Any) -> dict[str, Any]:
    """One row of ours: best 40 ± 2, last 38 ± 1."""
    return {
        "method": method,
        "ipc": ipc,
        "ipc_label": str(ipc),
        "network": network,
        "protocol": protocol,
        "n": 3,
        "trained": 3,
        "accuracy_mean": 38.0,
        "accuracy_std": 1.0,
        "best_mean": 40.0,
        "best_std": 2.0,
        "resolution": resolution,
        **about,
    }


def beside(*rows: dict[str, Any], dataset: str = "imagewoof") -> list[dict[str, Any]]:
    """Ours beside theirs, as rows."""
    table = beside_published(pd.DataFrame(rows), dataset=dataset, names=NAMES)
    assert list(table.columns) == BESIDE
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def numbers(*rows: dict[str, Any], dataset: str = "imagewoof") -> list[float]:
    """The published numbers that stand beside ours."""
    return [row["published"] for row in beside(*rows, dataset=dataset)]


def replaced(tmp_path: Path, old: str, new: str) -> Path:
    """The published numbers with one change."""
    text = PUBLISHED.read_text("utf-8")
    assert old in text
    path = tmp_path / "published.csv"
    path.write_text(text.replace(old, new, 1), "utf-8")
    return path


def test_published_numbers_have_types_and_sources() -> None:
    table = read_published()
    assert len(table) == 611
    assert table[["accuracy", "std", "std_sample"]].dtypes.eq("float64").all()
    assert {*table["confidence"]} == {*CONFIDENCES}
    assert {*table["protocol"]} == {*RUNS, "unknown"}
    assert table["resolution"].dtype == "Int64"
    assert table["ipc"].map(type).eq(str).all()


def test_the_package_ships_its_numbers() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["distillery"]
    package = Path(published.__file__).parents[1]
    assert PUBLISHED in [file for pattern in patterns for file in package.glob(pattern)]


def test_published_numbers_cite_and_do_not_quote() -> None:
    text = PUBLISHED.read_text("ascii")
    assert not re.search(r"https?:|file:|[A-Z]:\\|(^|[\s,\"])[/~]|\.(pt|npy|safetensors)\b", text, re.MULTILINE)
    table = read_published()
    assert table["source"].str.len().max() < 100
    assert table["method"].str.len().max() < 60


def test_a_printed_deviation_becomes_that_of_a_sample() -> None:
    table = read_published()
    row = table[(table["method"] == "DiT") & (table["dataset"] == "imagenet1k") & (table["protocol"] == "rded")].iloc[0]
    assert (row["std"], row["std_sample"]) == (0.4, pytest.approx(0.4899, abs=1e-4))
    factors = (table["std_sample"] / table["std"]).groupby(table["protocol"]).mean()
    assert factors["minimax"] == pytest.approx(math.sqrt(3 / 2))
    assert factors["ld3m"] == factors["igd"] == pytest.approx(math.sqrt(5 / 4))
    without = table[table["std"].isna() | (table["protocol"] == "unknown")]
    assert without["std_sample"].isna().all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10,ConvNet-6,minimax,24.3", "10,ConvNet-6,minimax,243", "row 1 below the header: accuracy cannot be '243'"),
        ("10,ConvNet-6,minimax,19.4,0.9", "10,ConvNet-6,minimax,19.4,-0.9", "row 2 below the header: std"),
        ("10,ConvNet-6,minimax,24.3", "10,ConvNet-6,minimax,", "row 1 below the header: accuracy cannot be ''"),
        ("24.3,1.1", "24.3,one", "row 1 below the header: std cannot be 'one'"),
        ("imagewoof,256,10", "imagewoof,256,ten", "ipc cannot be 'ten'"),
        ("imagewoof,256,10", "imagewoof,25.6,10", "resolution cannot be '25.6'"),
        ("ConvNet-6,minimax", "ConvNet-6,minimal", "protocol cannot be 'minimal'"),
        ("code-repo figure", "hearsay", "confidence cannot be 'hearsay'"),
        ("Random,", ",", "method cannot be ''"),
        ("method,dataset", "dataset,method", "has the columns dataset, method"),
    ],
)
def test_a_value_that_does_not_belong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_published(replaced(tmp_path, old, new))


def test_ours_stands_beside_theirs() -> None:
    (row,) = beside(our("dit", "convnet6", "minimax"))
    assert row == {
        "method": "dit",
        "published_method": "DiT",
        "dataset": "imagewoof",
        "ipc": "10",
        "network": "convnet6",
        "protocol": "minimax",
        "n": 3,
        "trained": 3,
        "ours_best_mean": 40.0,
        "ours_best_std": 2.0,
        "ours_last_mean": 38.0,
        "ours_last_std": 1.0,
        "published": 34.2,
        "published_std_sample": pytest.approx(1.1 * math.sqrt(3 / 2)),
        "difference": pytest.approx(5.8),
        "source": "Minimax (arXiv 2311.15529) Table 1; vimar-gu/MinimaxDiffusion figs/results-imagewoof.png",
        "confidence": "code-repo figure",
        "resolution_ours": 256,
        "resolution_published": "256",
        "note": "",
    }


def test_protocols_never_cross() -> None:
    # The same method, size and network under two protocols.
    assert numbers(our("dit", "resnet18_in", "minimax", 100)) == [58.9]
    assert numbers(our("dit", "resnet18_in", "igd", 100)) == [62.3]
    assert numbers(our("dit", "resnet18_in", "rded", 100)) == []


@pytest.mark.parametrize("label", ["minimax+epochs=30", "minimax@128", "minimax ", "Minimax", "small", "unknown", ""])
def test_a_modified_protocol_matches_nothing(label: str) -> None:
    assert numbers(our("dit", "convnet6", "minimax"), our("dit", "convnet6", label)) == [34.2]


def test_what_is_unknown_matches_nothing() -> None:
    table = read_published()
    d4m = table[(table["method"] == "D4M") & (table["dataset"] == "imagenet1k")]
    assert {*d4m["protocol"]} == {"unknown"}
    networks = sorted({name for names in NETWORKS.values() for name in names})
    everywhere = [
        our("d4m", network, protocol) for network in [*networks, "unknown"] for protocol in [*RUNS, "unknown"]
    ]
    assert numbers(*everywhere, dataset="imagenet1k") == []
    in_no_data_set = [our("ld3m", network, "ld3m", ipc=1) for network in [*CROSS, "mean"]]
    assert numbers(*in_no_data_set, dataset="unknown") == []


def test_resnet_18_is_another_network_in_each_protocol() -> None:
    names = ("resnet18", "resnet18_in", "resnet18_cifar_in")
    for protocol, its_own in (("minimax", "resnet18_in"), ("igd", "resnet18_in"), ("ld3m", "resnet18_cifar_in")):
        assert [name for name in names if name in NETWORKS[protocol]] == [its_own]
    for dataset, ipc, wanted in (
        ("imagewoof", 100, {("resnet18_in", "minimax"), ("resnet18_in", "igd")}),
        ("imagenet1k", 10, {("resnet18", "rded")}),
    ):
        rows = [our("dit", name, protocol, ipc) for name in names for protocol in RUNS]
        assert {(row["network"], row["protocol"]) for row in beside(*rows, dataset=dataset)} == wanted


def test_every_published_network_has_a_name_of_ours() -> None:
    table = read_published()
    for protocol, names in NETWORKS.items():
        occurring = {*table.loc[table["protocol"] == protocol, "network"]} - {"unknown", "cross"}
        assert occurring <= {*names.values()}
        assert len({*names.values()}) == len(names)


def test_recalled_numbers_are_never_quoted() -> None:
    table = read_published()
    recalled = table[(table["method"] == "LD3M-DC") & (table["ipc"] == "1") & (table["dataset"] == "imagewoof")]
    assert [*recalled["confidence"]] == ["recalled"]
    rows = [our("ld3m", network, "ld3m", 1, 128) for network in [*CROSS, "convnet5", "mean"]]
    assert numbers(*rows) == []
    assert numbers(*[our("ld3m", network, "ld3m", 1, 128) for network in [*CROSS, "mean"]]) == []


def test_a_mean_is_a_cross_mean_only_over_its_four_networks() -> None:
    four = [our("ld3m", network, "ld3m", 10, 128) for network in CROSS]
    mean = our("ld3m", "mean", "ld3m", 10, 128)
    (row,) = beside(*four, mean, dataset="b")
    assert (row["network"], row["published"], row["difference"]) == ("mean", 51.8, pytest.approx(-11.8))
    assert numbers(*four[:3], mean, dataset="b") == []
    assert numbers(*four, our("ld3m", "convnet5", "ld3m", 10, 128), mean, dataset="b") == []
    assert numbers(*four[:3], our("ld3m", CROSS[3], "ld3m", 50, 128), mean, dataset="b") == []


def test_the_deviation_of_a_cross_mean_is_the_mean_of_those_of_its_networks() -> None:
    four = [{**our("ld3m", name, "ld3m", 10, 128), "best_std": std} for std, name in enumerate(sorted(CROSS))]
    mean = {**our("ld3m", "mean", "ld3m", 10, 128), "best_std": 0.1}
    (row,) = beside(*four, mean, dataset="b")
    assert row["ours_best_std"] == pytest.approx((0 + 1 + 2 + 3) / 4)


def test_full_data_stands_beside_full_data_whatever_the_size_of_the_class() -> None:
    full = our("full", "convnet6", "minimax", 1300, ipc_label="full")
    assert [(row["ipc"], row["published"]) for row in beside(full)] == [("full", 86.4)]
    assert numbers({**full, "ipc_label": "1300"}) == []
    assert numbers(our("full", "convnet6", "minimax", 10)) == []


def test_several_published_values_give_several_rows() -> None:
    full = our("full", "resnet_ap10", "minimax", 1300, ipc_label="full")
    assert numbers(full, dataset="imagenette") == [93.3, 94.6]


def test_rows_keep_the_order_of_ours_and_other_methods_match_nothing() -> None:
    rows = [our(m, n, "minimax", i) for m in ("random", "dit") for i in (50, 10) for n in ("resnet_ap10", "convnet6")]
    table = [(row["method"], row["ipc"], row["network"]) for row in beside(our("other", "convnet6", "minimax"), *rows)]
    assert table == [(row["method"], row["ipc_label"], row["network"]) for row in rows]
    assert numbers(our("dit", "convnet6_w32", "minimax"), our("dit", "mean", "minimax")) == []


def test_another_resolution_is_noted() -> None:
    (row,) = beside(our("dit", "convnet6", "minimax", resolution=128))
    assert row["note"] == "ours at 128 px, published at 256 px"
    assert row["difference"] == pytest.approx(5.8)
    (row,) = beside(our("full", "resnet18_in", "igd", 1300, ipc_label="full"))
    assert (row["resolution_published"], row["note"]) == ("", "published resolution unknown")


def test_there_is_no_difference_between_other_test_images_or_other_teachers() -> None:
    rows = [our("ld3m", network, "ld3m", 10, 256) for network in [*CROSS, "mean"]]
    (row,) = beside(*rows, dataset="b")
    assert math.isnan(row["difference"])
    assert row["note"] == "ours at 256 px, published at 128 px"
    (row,) = beside(our("d4m", "resnet18", "rded"), dataset="imagenette")
    assert math.isnan(row["difference"])
    assert row["note"].startswith("another teacher")
    (row,) = beside(our("dit", "resnet18", "rded"), dataset="imagenet1k")
    assert (row["difference"], row["note"]) == (pytest.approx(0.4), "")


def test_a_misspelt_published_name_is_refused() -> None:
    ours = pd.DataFrame([our("dit", "convnet6", "minimax")])
    with pytest.raises(BadInput, match="method 'dit' goes by the published name 'DIT'"):
        beside_published(ours, dataset="imagewoof", names={"dit": "DIT"})
    with pytest.raises(ValueError, match="lack the columns ipc_label, resolution"):
        beside_published(ours.drop(columns=["ipc_label", "resolution"]), dataset="imagewoof", names=NAMES)


def test_markdown_reads_as_a_paper_prints_it() -> None:
    rows = [our("dit", "convnet6", "minimax"), our("dit", "resnet18_in", "igd", 100)]
    table = beside_published(pd.DataFrame(rows), dataset="imagewoof", names=NAMES)
    igd, minimax = published_markdown(table).split("\n\nOurs")
    assert "protocol `igd`; mean ± sample standard deviation over n replicates, published over 5." in igd
    assert "| 40.0 ± 2.0 | 38.0 ± 1.0 | 34.2 ± 1.3 |       +5.8 |" in minimax


def test_nothing_to_compare_is_a_table_too() -> None:
    none = beside_published(pd.DataFrame([our("dit", "convnet6", "small")]), dataset="imagewoof", names=NAMES)
    assert published_markdown(none).startswith("No published number")
    assert csv_bytes(none).decode().splitlines() == [",".join(BESIDE)]
    assert arrow_table(none).num_rows == 0


def test_the_table_can_be_written() -> None:
    rows = [our("dit", "convnet6", "minimax", best_std=math.nan), our("full", "resnet18_in", "igd", ipc_label="full")]
    table = beside_published(pd.DataFrame(rows), dataset="imagewoof", names=NAMES)
    first, second = csv_bytes(table).decode().splitlines()[1:]
    assert first.startswith("dit,DiT,imagewoof,10,convnet6,minimax,3,3,40.00,,38.00,1.00,34.20,1.35,5.80,")
    assert second.endswith(",note,256,,published resolution unknown")
    assert arrow_table(table).column("resolution_ours").to_pylist() == [256, 256]


@pytest.mark.parametrize(
    ("constants", "same"),
    [
        ({}, True),
        ({"soft_labels": "online", "size": 224}, True),
        ({"soft_labels": "stored"}, False),
        ({"strip_shuffle": 1}, False),
        ({"epochs_fraction": 0.5}, False),
    ],
)
def test_a_protocol_is_a_published_one_whatever_its_teacher_is_called(constants: dict[str, object], same: bool) -> None:
    protocol = Protocol.model_validate({"preset": "rded", "teacher": "mine", **constants})
    assert protocol.label != "rded"
    assert protocol.unmodified(1000) == same


def test_numbers_under_a_teacher_and_of_some_networks_stand_beside_published_ones(tmp_path: Path) -> None:
    label = Protocol.model_validate({"preset": "rded", "teacher": "mine"}).label
    rows = [our(method, network, label, ipc=50) for method in ("dit", "mgd3") for network in ("resnet18", "resnet50")]
    write_table(tmp_path / "accuracy.parquet", pa.Table.from_pylist(rows), {"stage": "tabulate_accuracy"})
    common = {"dataset": "imagenet1k", "methods": {"dit": "DiT", "mgd3": "MGD3"}, "full": None, "resolution": 256}
    settings = compare_published.Settings(**common, numbers="", about=About(experiment="e", dataset="d"))
    assert {"networks", "protocols"}.isdisjoint(json.loads(canonical(settings)))
    out = {name: tmp_path / f"table.{name}" for name in ("csv", "parquet", "markdown")}

    def compared(**options: Any) -> list[tuple[str, str]]:
        own = settings.model_copy(update=options)
        run = job("compare_published", own, [])
        compare_published.run(own, accuracy=tmp_path / "accuracy.parquet", **out, job=run)
        table = read_table(out["parquet"], "compare_published").to_pandas()
        assert set(table["protocol"]) <= {label}  # as in the table of accuracies, whose figure shows these numbers
        assert label in out["markdown"].read_text("utf-8") or table.empty
        return list(zip(table["method"], table["network"], strict=True))

    assert compared() == []
    known = {"protocols": {label: "rded"}}
    assert compared(**known) == [("dit", "resnet18"), ("mgd3", "resnet18"), ("mgd3", "resnet50")]
    assert compared(**known, networks={"mgd3": ["resnet50"]}) == [("dit", "resnet18"), ("mgd3", "resnet50")]
