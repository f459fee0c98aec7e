"""The folder of a finished run in miniature: a distilled set and final tables, made without Snakemake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from edits import STARTER
from tiny import MADE_BY, digits, job

from distillery.plan import layout
from distillery.plan.load import load
from distillery.report.tables import arrow_table
from distillery.stages import collect
from distillery.storage.atomic import write_json
from distillery.storage.images import ImageSet, encode_png, write_images
from distillery.storage.tables import write_table

CLASSES = ["zero", "one", "two", "three"]
SLOTS = 3


def place(results: Path, pattern: str, **wildcards: object) -> Path:
    """A path of the layout below the folder of a run."""
    return results / layout.fill(pattern, **wildcards).removeprefix(layout.RESULTS)


def accuracy(*rows: tuple[str, int, str, int, float, float]) -> pd.DataFrame:
    """A table of accuracies of one protocol; of each row: method, ipc, network, n, mean, standard deviation."""
    names = ["method", "ipc", "network", "n", "accuracy_mean", "accuracy_std"]
    return pd.DataFrame(rows, columns=names).assign(protocol="small+epochs=10", trained=3)


ACCURACY = accuracy(
    ("dit", SLOTS, "mean", 4, 71.24, 0.5),
    ("full", 70, "mean", 4, 98.0, 0.1),
    ("lgd", SLOTS, "convnet2_w8", 4, 81.26, 0.31),
    ("lgd", SLOTS, "resnet_ap10_w8", 4, 70.04, 0.1),
    ("lgd", SLOTS, "mean", 4, 82.26, float("nan")),
    ("lgd", 1, "mean", 4, 12.5, 0.1),
)
REDUNDANCY = pd.DataFrame(
    [["dit", 3, 2, 90.04, 1.5], ["lgd", 3, 2, 71.06, 2.5]],
    columns=["method", "increments", "n", "off_diagonal_mean", "off_diagonal_std"],
)


def write_set(
    results: Path,
    method: str = "lgd",
    classes: list[str] = CLASSES,
    run: str = "",
    seed: int = 0,
    origin: str = "",
    rate: float | None = None,
    **changes: Any,
) -> Path:
    """Write a set of `SLOTS` real digits per class as the collected set of a method of the smoke experiment.

    Args:
        origin: of the source data, as its user has written it.
        rate: the step size that was learned with the set.
        changes: top blocks of the experiment that are others.
    """
    pixels, labels = digits()
    rows = np.stack([np.flatnonzero(labels.numpy() == label)[:SLOTS] for label in range(4)], 1).reshape(-1)
    slots = np.repeat(np.arange(SLOTS), 4)
    names = [f"{row}.png" for row in rows]
    encoded = [encode_png(pixels[row].numpy()) for row in rows]
    learned = {} if rate is None else {"learning_rate": np.full(len(rows), rate)}
    part = ImageSet(encoded, labels.numpy()[rows], classes, names, {"slot": slots, **learned})
    write_images(results / "part.parquet", part, MADE_BY)
    config = {**STARTER, "ipc": [SLOTS], "seeds": [0, seed] if seed else [0], **changes}
    lineage = load(config).lineage(run, method, SLOTS)
    if origin:
        lineage["settings"]["ingest"]["dataset"]["source"]["origin"] = origin
    settings = collect.Settings(ipc=SLOTS, lineage=lineage)
    path = place(results, layout.DISTILLED, run=run, method=method, ipc=SLOTS)
    collect.run(settings, parts=[results / "part.parquet"], images=path, job=job("collect", settings))
    return path


def write_final_table(results: Path, name: str, table: pd.DataFrame, commit: str = "c0ffee1", **about: str) -> Path:
    """Write a final table."""
    path = place(results, layout.table(name)["parquet"])
    write_table(path, arrow_table(table), {"stage": f"tabulate_{name}", "commit": commit, **about})
    return path


def finished_run(folder: Path) -> Path:
    """Write a run of the smoke experiment that has ended."""
    results = folder / "smoke"
    write_set(results)
    chosen = {"strength": 0.75, "reference_weight": 2.0}
    write_json(place(results, layout.CALIBRATED, run="", method="lgd"), chosen)
    write_final_table(results, "accuracy", ACCURACY)
    write_final_table(results, "redundancy", REDUNDANCY)
    return results
