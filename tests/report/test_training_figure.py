"""The sheet of training losses."""

from __future__ import annotations

import pandas as pd
from about import ABOUT

from distillery.report.training import training_figure


def history(unit: str, networks: int = 1, **terms: float) -> pd.DataFrame:
    rows = [
        {unit: done, **({"network": network} if networks > 1 else {}), "loss": 1 / done, **terms, "learning_rate": 0.1}
        for done in range(1, 101)
        for network in range(networks)
    ]
    return pd.DataFrame(rows)


def test_a_panel_shows_every_training_of_its_name() -> None:
    panels = {
        "generator dit": [("", history("step", squared_error=0.5))],
        "students of lgd": [(f"increment {k}", history("epoch")) for k in (1, 2, 3)],
        "convnet3, IPC 10": [(name, history("epoch", networks=4)) for name in ("dit", "lgd")],
    }
    figure = training_figure(panels, ABOUT, 0, 4)
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    assert [len(axes.lines) for axes in figure.axes] == [2, 3, 2]
    assert [axes.get_xlabel() for axes in figure.axes] == ["step", "epoch", "epoch"]


def test_a_training_that_did_not_take_place_is_said_so() -> None:
    figure = training_figure({"references": [("real", pd.DataFrame({"loss": []}))]}, ABOUT, 0, 1)
    assert figure.axes[0].texts[0].get_text() == "no training"
