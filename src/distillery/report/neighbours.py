"""Distilled images and their nearest training images: a table, the distribution of distances, the closest pairs.

Distances are divided by the median distance of the held-out real images of the same seed, so that features of
different networks, and features and pixels, are on one scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from distillery.analysis.neighbours import HELD_OUT, SPACES
from distillery.data.reading import ImageTable
from distillery.proportions import wilson_interval
from distillery.report.about import About
from distillery.report.image_grid import ImageBlock, image_grid
from distillery.report.style import describe, legend, method_styles, panels_of, styled
from distillery.report.tables import markdown_table, number

COLUMNS = ["method", "seed", "ipc", "space", "row", "class", "real_row", "real_class", "distance"]
"""Columns of measured neighbours: one row per image and space."""

NEAR = 5
"""Percent of the held-out images that count as near: those below this percentile of their distances."""


def relative(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `relative`, the distance over the median of the held-out images of its seed and space, and `near`.

    Where that median is 0, because most held-out images are copies of training images, `relative` is not a number.
    """
    held = rows[rows["method"] == HELD_OUT].groupby(["seed", "space"])["distance"]
    scale = pd.DataFrame({"median": held.median(), "bound": held.quantile(NEAR / 100)}).reset_index()
    joined = rows.merge(scale, on=["seed", "space"], how="left")
    joined["relative"] = joined["distance"] / joined["median"].where(joined["median"] > 0)
    joined["near"] = joined["distance"] < joined["bound"]
    return joined.drop(columns=["median", "bound"])


def _ordered(names: set[str], order: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def neighbours_table(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Per method and space: median relative distance, and the share of near images with its Wilson interval (95 %).

    Args:
        rows: the columns `COLUMNS`, those of the held-out images among them.
        methods: in the order of the rows; held-out images come last.
    """
    table = []
    scaled = relative(rows)
    for method in _ordered(set(scaled["method"]), [*methods, HELD_OUT]):
        for space in SPACES:
            part = scaled[(scaled["method"] == method) & (scaled["space"] == space)]
            count, images = int(part["near"].sum()), len(part)
            low, high = wilson_interval(count / images, images)
            table.append(
                {
                    "method": method,
                    "ipc": int(part["ipc"].iloc[0]),
                    "space": space,
                    "n": images,
                    "seeds": int(part["seed"].nunique()),
                    "distance_median": float(part["relative"].median()),
                    "distance_least": float(part["relative"].min()),
                    "copies": int((part["distance"] == 0).sum()),
                    "near_percent": 100 * count / images,
                    "near_low": 100 * low,
                    "near_high": 100 * high,
                }
            )
    return pd.DataFrame(table)


def neighbours_markdown(table: pd.DataFrame, features: str) -> str:
    """The table as a paper prints it."""
    body = [
        [
            row["method"],
            "" if row["method"] == HELD_OUT else str(row["ipc"]),
            row["space"],
            str(row["n"]),
            number(row["distance_median"]),
            number(row["distance_least"]),
            str(row["copies"]),
            f"{number(row['near_percent'], 1)} ({number(row['near_low'], 1)} to {number(row['near_high'], 1)})",
        ]
        for row in table.to_dict("records")
    ]
    header = ["method", "IPC", "space", "n", "median", "least", "distance 0", f"near, % (of held-out: {NEAR})"]
    return (
        f"Distance of each image to its nearest training image, by the features of `{features}` and by pixels, over the"
        " median distance of the held-out real images; n images over all seeds. Near: nearer than the"
        f" {NEAR}th percentile of the held-out distances, with a 95 % Wilson interval.\n\n"
        + markdown_table(header, body)
    )


@styled
def neighbours_figure(rows: pd.DataFrame, methods: Sequence[str], features: str, about: About) -> Figure:
    """The cumulative distribution of relative distances, a panel per space, a line per method.

    Args:
        rows: the columns `COLUMNS`, those of the held-out images among them.
        methods: all methods, in their order.
        features: the network behind the features.
        about: of the experiment.
    """
    scaled = relative(rows)
    figure, grid = panels_of(len(SPACES), 3.9, 3.1, share_y=True)
    shown = _ordered(set(scaled["method"]) - {HELD_OUT}, methods)
    styles = method_styles(shown)
    for axes, space in zip(grid, SPACES, strict=True):
        part = scaled[(scaled["space"] == space) & scaled["relative"].notna()]
        held = np.sort(part.loc[part["method"] == HELD_OUT, "relative"].to_numpy())
        reach = max(1.0, 1.05 * part["relative"].max()) if len(part) else 1.0
        steps = np.concatenate([100 * np.arange(1, len(held) + 1) / max(1, len(held)), [100]])
        area: dict[str, Any] = {"color": "#cccccc", "step": "post", "label": "held-out real images"}
        axes.fill_between(np.append(held, reach), steps, **area)
        for method, look in styles.items():
            values = np.sort(part.loc[part["method"] == method, "relative"].to_numpy())
            if not len(values):
                continue
            steps = np.concatenate([[0], 100 * np.arange(1, len(values) + 1) / len(values)])
            axes.step(
                np.concatenate([[values[0]], values]), steps, where="post", color=look.color, linestyle=look.line,
                linewidth=1.5, label=method, marker=look.marker, markevery=(0.1, 0.2), markersize=4.5,
            )  # fmt: skip
        axes.set_title(f"features of {features}" if space == "features" else "pixels")
        axes.set_xlabel("distance to the nearest training image\n(1: median of held-out images)")
        axes.set_xlim(-0.03 * reach, reach)
        axes.set_ylim(0, 100)
    grid[0].set_ylabel("images within that distance (%)")
    legend(figure, grid)
    counts = rows[rows["space"] == SPACES[0]].groupby("method").size()
    n = ", ".join(f"{name} {counts[name]}" for name in [*shown, HELD_OUT] if name in counts)
    ipc = ", ".join(map(str, sorted({*rows.loc[rows["method"] != HELD_OUT, "ipc"]})))
    notes = [f"{ipc} images per class", "test images are measured, nothing is chosen by them", *missing(scaled)]
    copied = scaled.groupby("method")["distance"].max() == 0
    notes += [f"{name}: all are training images" for name in shown if copied[name]]
    describe(figure, about, n=f"n images: {n}", notes=notes)
    return figure


def missing(scaled: pd.DataFrame) -> list[str]:
    """What a figure of relative distances cannot show, and why."""
    lost = [space for space in SPACES if scaled.loc[scaled["space"] == space, "relative"].isna().all()]
    return [f"no scale by {space}: half of the held-out images are copies of training images" for space in lost]


def pairs_figure(
    rows: pd.DataFrame,
    images: ImageTable,
    real: ImageTable,
    *,
    title: str,
    pairs: int,
    features: str,
    about: About,
) -> Figure:
    """The closest pairs of one method by each space: a column is a distilled image above its nearest training image.

    Args:
        rows: the columns `COLUMNS` of one seed and method, and those of the held-out images.
        images: the distilled images.
        real: the training images.
        pairs: how many of each space, at most.
        features: the network behind the features.
    """
    scaled = relative(rows)
    scaled = scaled[scaled["method"] != HELD_OUT]
    blocks = []
    for space in SPACES:
        part = scaled[scaled["space"] == space].sort_values(["distance", "row"]).head(pairs)
        distilled = images.take(part["row"].to_numpy())
        nearest = real.take(part["real_row"].to_numpy())
        blocks.append(
            ImageBlock(
                f"by the features of {features}" if space == "features" else "by pixels",
                [list(distilled.images), list(nearest.images)],
                [number(value, 2, "?") for value in part["relative"]],
            )
        )
    sheet = image_grid(blocks, ["distilled", "nearest real"], min(pairs, len(images)), [title], stacked=True)
    notes = [
        "below each pair: its distance over the median distance of held-out real images to theirs",
        *missing(scaled),
    ]
    describe(sheet, about, n=f"closest {min(pairs, len(images))} of {len(images)} images", notes=notes)
    return sheet
