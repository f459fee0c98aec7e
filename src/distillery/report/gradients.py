"""The gradients that reach the latents of LD3M, beside the published ones: a table and a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from distillery.report.about import About
from distillery.report.style import PALETTE, PRINT_DPI, describe, styled
from distillery.report.tables import ABSENT, markdown_table, words_of_n
from distillery.spreadsheets import csv_text

COLUMNS = ("seed", "steps", "residual", "repeat", "loss", "latent", "condition")

PUBLISHED = {10: 58.1, 20: 33.5, 30: 19.8, 40: 15.4, 50: 13.9, 60: 12.1, 70: 10.4, 80: 8.7, 90: 6.5}
"""Norm of dL/dZ times 1e4 without a residual, by steps: table 1 of arXiv 2403.03881, for its generator and its loss."""

_LOOKS = {"x0": (PALETTE[0], "o", "-"), "eq7": (PALETTE[1], "s", "--"), "none": (PALETTE[2], "^", "-.")}


def gradient_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `measure_gradients` of all seeds as one row per number of steps and residual.

    Returns:
        `steps`, `residual`, `n`, `latent_mean`, `latent_std`, `condition_mean`, `condition_std`, and `to_none`:
        `latent_mean` over that without a residual at the same steps.
    """
    cells = []
    for (steps, residual), part in rows.groupby(["steps", "residual"], sort=True):
        cell: dict[str, object] = {"steps": steps, "residual": residual, "n": len(part)}
        for name in ("latent", "condition"):
            values = part[name].to_numpy(dtype=float)
            cell[f"{name}_mean"] = float(values.mean())
            cell[f"{name}_std"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        cells.append(cell)
    table = pd.DataFrame(cells)
    plain = table[table["residual"] == "none"].set_index("steps")["latent_mean"]
    table["to_none"] = table["latent_mean"] / table["steps"].map(plain)
    return table


def csv_bytes(table: pd.DataFrame) -> bytes:
    """The table as CSV, six significant digits."""
    texts = table.select_dtypes(exclude="number").columns
    shown = table.assign(**{str(name): table[name].map(csv_text) for name in texts})
    return shown.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


def gradient_markdown(table: pd.DataFrame) -> str:
    """Steps downwards, residuals across, the published norm without a residual at the right; latents, then vectors."""
    text = (
        f"Mean over images of the norm of dL/dZ, ± sample deviation, {words_of_n(table['n'])} gradients per cell; "
        "residuals across. The published column is of another generator and loss: its decay compares, not its size.\n\n"
        + _part(table, "latent", published=True)
    )
    if table["condition_mean"].notna().any():
        text += "\nThe same of dL/dc.\n\n" + _part(table, "condition", published=False)
    return text


def _part(table: pd.DataFrame, name: str, published: bool) -> str:
    shown = [residual for residual in _LOOKS if residual in set(table["residual"])]
    cells = {(row["steps"], row["residual"]): row for row in table.to_dict("records")}
    rows = []
    for steps in sorted(set(table["steps"])):
        of_steps = {residual: cells[steps, residual] for residual in shown}
        texts = [f"{_short(cell[f'{name}_mean'])} ± {_short(cell[f'{name}_std'])}" for cell in of_steps.values()]
        rows.append([str(steps), *texts])
        if published:
            rows[-1] += [_short(of_steps[residual]["to_none"]) for residual in shown if residual != "none"]
            rows[-1].append(f"{PUBLISHED[steps]:g}e-4" if steps in PUBLISHED else ABSENT)
    ratios = [f"{residual} / none" for residual in shown if residual != "none"]
    return markdown_table(["steps", *shown, *([*ratios, "published, none"] if published else [])], rows)


def _short(value: float) -> str:
    return ABSENT if np.isnan(value) else f"{value:.3g}"


@styled
def gradient_figure(table: pd.DataFrame, about: About) -> Figure:
    """Norm of dL/dZ against the number of steps, a line per residual, and the published decay scaled to its first."""
    figure = Figure(figsize=(4.6, 3.2), dpi=PRINT_DPI, layout="constrained")
    axes = figure.subplots()
    for residual, (color, marker, line) in _LOOKS.items():
        part = table[table["residual"] == residual].sort_values("steps")
        axes.errorbar(
            part["steps"],
            part["latent_mean"],
            yerr=part["latent_std"].fillna(0),
            color=color,
            marker=marker,
            linestyle=line,
            markersize=4.5,
            linewidth=1.4,
            capsize=2,
            label=residual,
        )
    plain = table[table["residual"] == "none"].sort_values("steps")
    common = [place for place, steps in enumerate(plain["steps"].tolist()) if steps in PUBLISHED]
    if common:
        first = common[0]
        scale = plain["latent_mean"].tolist()[first] / PUBLISHED[plain["steps"].tolist()[first]]
        axes.plot(
            list(PUBLISHED),
            [scale * value for value in PUBLISHED.values()],
            color="#777777",
            linestyle=(0, (1, 1.5)),
            linewidth=1.2,
            label="published, none (scaled)",
        )
    axes.set_yscale("log")
    for axis_part in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_part(LogFormatter())  # without mathematics, which figures do not read
    axes.set_xlabel("sampling steps")
    axes.set_ylabel(f"norm of dL/dZ, {words_of_n(table['n'])}")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    bars = "one sample standard deviation over n" if table["latent_std"].notna().any() else None
    describe(figure, about, n=f"{words_of_n(table['n'], 'gradient')} per point, each of another network", bars=bars)
    return figure
