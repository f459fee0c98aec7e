"""Published accuracies, and ours beside them where protocol, data set, size and network are the same.

`published.csv` holds one published number per row, top-1 in percent, with the source that states it:

- `ipc` is images per class, `full` for all real images; `resolution` is the side of the distilled images in pixels.
- `std` is as printed: a population standard deviation over the student seeds of one distilled set.
- `network` is the published name. `ResNet-18` is three networks, one per protocol; `cross` is the mean over AlexNet,
  VGG-11, ResNet-18 and ViT, and its `std` the mean of their four.
- `confidence` says where a number was read: `paper` in the paper, `code-repo figure` in a figure or README of its
  repository, `note` second-hand; `recalled` is not verified, and never quoted.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from distillery.errors import BadInput
from distillery.report import PUBLISHED
from distillery.report.tables import ABSENT, CELL, MEAN, markdown_table, mean_and_std

COLUMNS = ["method", "dataset", "resolution", "ipc", "network", "protocol", "accuracy", "std", "source", "confidence"]

CONFIDENCES = ["paper", "code-repo figure", "note", "recalled"]

FULL = "full"
UNKNOWN = "unknown"

RUNS = {"minimax": 3, "igd": 5, "rded": 3, "ld3m": 5}
"""Networks behind a published mean, by protocol."""

_HARD_LABELS = {"convnet6": "ConvNet-6", "resnet_ap10": "ResNetAP-10", "resnet18_in": "ResNet-18"}

NETWORKS: dict[str, dict[str, str]] = {
    "minimax": _HARD_LABELS,
    "igd": _HARD_LABELS,
    "rded": {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "resnet101": "ResNet-101"},
    "ld3m": {
        "convnet5": "ConvNet-5",
        "alexnet_small": "AlexNet",
        "vgg11_in": "VGG-11",
        "resnet18_cifar_in": "ResNet-18",
        "vit_ld3m": "ViT",
    },
}
"""The published name of a network: protocol -> our name -> theirs."""

CROSS = frozenset({"alexnet_small", "vgg11_in", "resnet18_cifar_in", "vit_ld3m"})
"""The networks whose mean `ld3m` publishes as `cross`."""

SAME_TEACHER = frozenset({"imagenet1k"})
"""Data sets that `rded` labels with one public teacher; on all others the published teacher is another one."""

BESIDE = [
    *("method", "published_method", "dataset", "ipc", "network", "protocol", "n", "trained"),
    *("ours_best_mean", "ours_best_std", "ours_last_mean", "ours_last_std", "published", "published_std_sample"),
    *("difference", "source", "confidence", "resolution_ours", "resolution_published", "note"),
]
"""Columns of ours beside theirs."""

_OURS = [*CELL, "ipc_label", "n", "trained", "accuracy_mean", "accuracy_std", "best_mean", "best_std", "resolution"]


def read_published(path: Path = PUBLISHED) -> pd.DataFrame:
    """The published numbers, one per row, as the module describes them.

    `std_sample` is added: `std` times sqrt(n / (n - 1)), a sample standard deviation, which is what our tables show; n
    is that of the protocol, and `std_sample` is not a number where the protocol or `std` is not known.

    Raises:
        ValueError: a column or a value that does not belong there; the message names the row.
    """
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(text.columns) != COLUMNS:
        raise ValueError(f"{path}: has the columns {', '.join(text.columns)}; they have to be {', '.join(COLUMNS)}")
    accuracy, std, resolution = (_numbers(path, text, name) for name in ("accuracy", "std", "resolution"))
    _refuse(path, text, "accuracy", ~accuracy.between(0, 100))
    _refuse(path, text, "std", std < 0)
    _refuse(path, text, "resolution", (resolution < 1) | (resolution % 1 > 0))
    _refuse(path, text, "ipc", ~(text["ipc"].str.fullmatch(r"[1-9]\d*") | text["ipc"].isin([FULL, UNKNOWN])))
    _refuse(path, text, "protocol", ~text["protocol"].isin([*RUNS, UNKNOWN]))
    _refuse(path, text, "confidence", ~text["confidence"].isin(CONFIDENCES))
    for name in ("method", "dataset", "network", "source"):
        _refuse(path, text, name, text[name] == "")
    rescale = {protocol: math.sqrt(runs / (runs - 1)) for protocol, runs in RUNS.items()}
    return text.assign(
        accuracy=accuracy,
        std=std,
        resolution=resolution.astype("Int64"),
        std_sample=std * text["protocol"].map(rescale).astype(float),
    )


def _numbers(path: Path, text: pd.DataFrame, name: str) -> pd.Series[float]:
    numbers: pd.Series[float] = pd.to_numeric(text[name].replace("", "nan"), errors="coerce").astype(float)
    _refuse(path, text, name, numbers.isna() & (text[name] != ""))
    return numbers


def _refuse(path: Path, text: pd.DataFrame, name: str, bad: pd.Series[bool]) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{path}: row {row + 1} below the header: {name} cannot be {text[name].iloc[row]!r}")


def beside_published(
    ours: pd.DataFrame, *, dataset: str, names: Mapping[str, str], presets: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Our accuracies beside each published number of the same method, data set, IPC, network and protocol.

    A protocol that was modified in anything has another label, and matches nothing. What is published as `unknown`
    matches nothing, `recalled` numbers are left out, and several numbers for one cell give several rows. Under `ld3m`
    our mean over networks stands for `cross` only if it is over those four networks and no other; its deviation is then
    the mean of theirs, as papers print it, and not that of the mean.

    `difference` is our best epoch minus the published number, because published numbers are those of the best epoch,
    or of the best iteration. It is left out where the protocol alone does not make numbers comparable: with `rded` on
    a data set that was published with another teacher, and with `ld3m` at another resolution, which is that of the test
    images too. `note` says so.

    Args:
        ours: the columns of `accuracy_table`, `resolution` in pixels, and `ipc_label`, which is `full` for a method
            that uses all real images.
        dataset: its key, as in `published.csv`.
        names: our method -> its published name; other methods match nothing.
        presets: label of a protocol -> the preset that it differs from by its teacher alone.

    Returns:
        The columns `BESIDE`, rows in the order of `ours`. Standard deviations are sample ones. `ipc` is text, because
        of `full`, and `resolution_published` too, because it may be unknown: then it is empty.

    Raises:
        BadInput: a published name that nothing was published under.
        ValueError: `ours` lacks a column.
    """
    if missing := [name for name in _OURS if name not in ours]:
        raise ValueError(f"accuracies to set beside published ones lack the columns {', '.join(missing)}")
    ours = ours.assign(label=ours["protocol"], protocol=ours["protocol"].replace(dict(presets or {})))
    published = read_published()
    for method, name in names.items():
        if name not in set(published["method"]):
            raise BadInput(
                f"method {method!r} goes by the published name {name!r}, which {PUBLISHED.name} does not have"
            )
    keys = ["dataset", "ipc", "protocol", "published_method", "published_network"]
    renamed = {"method": "published_method", "network": "published_network"}
    quoted = published[published["confidence"] != "recalled"].rename(columns=renamed)
    quoted = quoted[(quoted[keys] != UNKNOWN).all(axis=1)]
    theirs = pd.DataFrame(
        {
            **{name: quoted[name] for name in (*keys, "source", "confidence")},
            "published": quoted["accuracy"],
            "published_std_sample": quoted["std_sample"],
            "resolution_published": ["" if pd.isna(side) else str(side) for side in quoted["resolution"]],
        }
    )
    mine = pd.DataFrame(
        {
            **{name: ours[name] for name in ("method", "network", "protocol", "label", "n", "trained")},
            **{f"ours_best_{what}": ours[f"best_{what}"] for what in ("mean", "std")},
            **{f"ours_last_{what}": ours[f"accuracy_{what}"] for what in ("mean", "std")},
            "resolution_ours": ours["resolution"],
            "dataset": dataset,
            "ipc": ours["ipc"].astype(str).where(ours["ipc_label"] != FULL, FULL),
            "published_method": ours["method"].map(dict(names)),
            "published_network": _published_networks(ours),
        }
    )
    crossed = mine["published_network"] == "cross"
    for what in ("best", "last"):  # as it was published: the mean of the networks' own deviations
        column = f"ours_{what}_std"
        of_networks = mine[mine["network"] != MEAN].groupby(["method", "ipc", "protocol"])[column].mean()
        rows = pd.MultiIndex.from_frame(mine.loc[crossed, ["method", "ipc", "protocol"]])
        mine.loc[crossed, column] = of_networks.reindex(rows).to_numpy()
    beside = mine.merge(theirs, on=keys)
    notes = [_note(row) for row in beside.to_dict("records")]
    beside["note"] = [", ".join(words) for words, _ in notes]
    comparable = np.array([agrees for _, agrees in notes], dtype=bool)
    beside["difference"] = (beside["ours_best_mean"] - beside["published"]).where(comparable)
    return beside.assign(protocol=beside["label"])[BESIDE]


def _published_networks(ours: pd.DataFrame) -> list[str]:
    """The published name of the network of each row; empty where it was not published."""
    cell = ["method", "ipc", "protocol"]
    trained = {keys: {*part["network"]} - {MEAN} for keys, part in ours.groupby(cell)}

    def published(row: Mapping[str, Any]) -> str:
        protocol = row["protocol"]
        if row["network"] == MEAN:
            return "cross" if protocol == "ld3m" and trained[tuple(row[name] for name in cell)] == CROSS else ""
        return NETWORKS.get(protocol, {}).get(row["network"], "")

    return [published({str(name): value for name, value in row.items()}) for row in ours.to_dict("records")]


def _note(row: Mapping[Hashable, Any]) -> tuple[list[str], bool]:
    notes, agrees = [], True
    if row["protocol"] == "rded" and row["dataset"] not in SAME_TEACHER:
        notes, agrees = ["another teacher"], False
    if row["resolution_published"] != str(row["resolution_ours"]):
        agrees = agrees and row["protocol"] != "ld3m"
        ours, theirs = row["resolution_ours"], row["resolution_published"]
        notes.append(f"ours at {ours} px, published at {theirs} px" if theirs else "published resolution unknown")
    return notes, agrees


def published_markdown(table: pd.DataFrame) -> str:
    """What `beside_published` returned as a paper prints it, one part per data set and protocol."""
    if table.empty:
        return "No published number has the method, size, network and protocol of one of ours.\n"
    header = ["method", "published as", "IPC", "network", "n", "best", "last", "published", "difference"]
    parts = []
    for (dataset, protocol), part in table.groupby(["dataset", "protocol"]):
        body = [
            [
                row["method"],
                row["published_method"],
                row["ipc"],
                row["network"],
                str(row["n"]),
                mean_and_std(row["ours_best_mean"], row["ours_best_std"]),
                mean_and_std(row["ours_last_mean"], row["ours_last_std"]),
                mean_and_std(row["published"], row["published_std_sample"]),
                ABSENT if np.isnan(row["difference"]) else f"{row['difference']:+z.1f}",
                row["source"],
                row["confidence"],
                row["note"],
            ]
            for row in part.to_dict("records")
        ]
        runs = RUNS[str(protocol).partition("+")[0]]
        of_means = "; of a mean over networks the mean of theirs" if protocol == "ld3m" else ""
        parts.append(
            f"Ours beside published accuracies in percent, `{dataset}`, protocol `{protocol}`; mean ± sample standard"
            f" deviation over n replicates, published over {runs}{of_means}. Published numbers are of"
            " the best epoch on the test set, and the difference is our best minus them.\n\n"
            + markdown_table([*header, "source", "confidence", "note"], body)
        )
    return "\n".join(parts)
