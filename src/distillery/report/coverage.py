"""How much of the real set distilled sets reach, as a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from distillery.report.about import About
from distillery.report.style import describe, legend, method_styles, panels_of, styled
from distillery.report.tables import SHARES, words_of_n


@styled
def coverage_figure(table: pd.DataFrame, k: int, features: str, about: About) -> Figure:
    """A panel per measure: its mean over seeds against the images per class, a line per method.

    Bars are the standard deviation over seeds; of one seed they are Wilson intervals, which density has not.

    Args:
        table: what `tables.coverage_table` returned.
        k: the neighbour that balls reach to.
        features: the network behind the features.
        about: of the experiment.
    """
    figure, grid = panels_of(len(SHARES), 2.5, 2.8)
    spread = bool(table["coverage_std"].notna().any())
    sizes = sorted({*table["ipc"]})
    places = {ipc: place for place, ipc in enumerate(sizes)}
    styles = method_styles(dict.fromkeys(table["method"]))
    for axes, measure in zip(grid, SHARES, strict=True):
        for number, (method, look) in enumerate(styles.items()):
            line = table[table["method"] == method].sort_values("ipc")
            # Side by side, so that the bars of equal methods can be told apart.
            aside = (number - (len(styles) - 1) / 2) * 0.5 / max(1, len(styles))
            axes.errorbar(
                line["ipc"].map(places) + aside,
                line[f"{measure}_mean"],
                yerr=_reach(line, measure, spread),
                color=look.color,
                marker=look.marker,
                linestyle=look.line,
                markersize=5,
                linewidth=1.2,
                elinewidth=1,
                capsize=2,
                label=method,
            )
        axes.set_title(measure if measure == "density" else f"{measure} (%)")
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlim(-0.5, len(sizes) - 0.5)
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.set_xlabel("images per class")
    legend(figure, grid)
    lost = sorted({method for method, recall in zip(table["method"], table["recall_mean"], strict=True)
                   if pd.isna(recall)})  # fmt: skip
    notes = [f"features of {features}, k = {k}"]
    notes += [f"no recall of {', '.join(lost)}: a set of at most k images has none"] if lost else []
    bars = "one sample standard deviation over n" if spread else "95 % Wilson intervals over the images of one set"
    describe(figure, about, n=words_of_n(table["n"], "seed"), bars=bars, notes=notes)
    return figure


def _reach(line: pd.DataFrame, measure: str, spread: bool) -> np.ndarray:
    """Lengths of the bars below and above each mean: (2, N)."""
    if spread or f"{measure}_low" not in line:
        std = line[f"{measure}_std"].fillna(0).to_numpy()
        return np.stack([std, std])
    mean = line[f"{measure}_mean"]
    below, above = mean - line[f"{measure}_low"], line[f"{measure}_high"] - mean
    return np.stack([below.fillna(0).to_numpy(), above.fillna(0).to_numpy()])
