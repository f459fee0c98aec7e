"""n is what a standard deviation is over, in every table; how many networks a mean is over stands beside it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from about import ABOUT

from distillery.report import tables
from distillery.report.figures import accuracy_figure
from distillery.report.gradients import gradient_table
from distillery.report.published import beside_published
from distillery.report.statistics import statistics_markdown, statistics_table
from distillery.report.tables import MEAN
from distillery.report.words import accuracy_markdown, front_markdown, redundancy_markdown

NETWORKS = ["convnet3", "resnet10_in", "vgg11_in"]
SEEDS, STUDENTS = 2, 2


def evaluations(diverged: tuple[str, int, int] | None = None) -> pd.DataFrame:
    """Accuracies of three networks in 2 x 2 replicates, one of which may have diverged."""
    draws = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for network, seed, student in itertools.product(NETWORKS, range(SEEDS), range(STUDENTS)):
        correct = draws.random(200) < 0.6
        accuracy = 100 * correct.mean() if (network, seed, student) != diverged else np.nan
        about = {"method": "dit", "ipc": 10, "network": network, "protocol": "small", "seed": seed, "student": student}
        sizes = {"images": 100, "test_images": 200, "parameters": 10, "label_bytes": 0}
        rows.append({**about, "epoch": 5, "accuracy": accuracy, "correct": np.packbits(correct).tobytes(), **sizes})
    return pd.DataFrame(rows)


def by_network(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {str(row["network"]): {str(name): value for name, value in row.items()} for row in table.to_dict("records")}


def test_the_mean_over_networks_spreads_over_its_replicates() -> None:
    rows = evaluations()
    table = tables.accuracy_table(rows, ["dit"], NETWORKS)
    cells = by_network(table)
    replicates = rows.groupby(["seed", "student"])["accuracy"].mean()
    assert cells[MEAN]["accuracy_std"] == pytest.approx(replicates.std())
    assert (cells[MEAN]["n"], cells[MEAN]["trained"]) == (len(replicates), 12) == (4, 12)
    assert all((cells[name]["n"], cells[name]["trained"]) == (4, 4) for name in NETWORKS)
    words = accuracy_markdown(table, {})
    assert "over trained networks, n = 4 per network; of `mean` over replicates (seed and student), n = 4." in words


def test_a_replicate_that_lacks_a_network_is_in_no_spread_of_the_mean() -> None:
    rows = evaluations(diverged=("vgg11_in", 1, 0))
    table = tables.accuracy_table(rows, ["dit"], NETWORKS)
    cells = by_network(table)
    whole = rows[(rows["seed"] != 1) | (rows["student"] != 0)].groupby(["seed", "student"])["accuracy"].mean()
    assert cells[MEAN]["accuracy_std"] == pytest.approx(whole.std())
    assert (cells[MEAN]["n"], cells[MEAN]["trained"], cells["vgg11_in"]["n"], cells["convnet3"]["n"]) == (3, 11, 3, 4)
    assert "n = 3 to 4 per network; of `mean` over replicates (seed and student), n = 3." in accuracy_markdown(
        table, {}
    )
    about = {"baseline": None, "random": None, "full": None, "soft": [], "order": []}
    statistics = statistics_table(rows, **about)  # type: ignore[arg-type]
    found = by_network(statistics)
    assert [(found[name]["n"], found[name]["trained"], found[name]["sets"]) for name in (MEAN, "vgg11_in")] == [
        (3, 11, 2),
        (3, 3, 2),
    ]
    assert "| n | sets |" in " ".join(statistics_markdown(statistics).split())


def test_figures_tell_over_how_many_values_their_bars_are() -> None:
    table = tables.accuracy_table(evaluations(diverged=("vgg11_in", 1, 0)), ["dit"], NETWORKS)
    figure = accuracy_figure(table, ["dit"], NETWORKS, ABOUT)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["convnet3, n = 4", "resnet10_in, n = 4", "vgg11_in, n = 3", "mean over networks, n = 3"]


def test_redundancy_tells_over_how_many_replicates_it_spreads() -> None:
    draws = np.random.default_rng(1)
    rows = pd.DataFrame(
        [
            {"method": "dit", "seed": seed, "network": "convnet3", "student": student, "trained_on": r, "tested_on": s}
            | {"accuracy": draws.uniform(0, 100)}
            for seed, student, r, s in itertools.product(range(2), range(3), (1, 2), (1, 2))
        ]
    )
    table = tables.redundancy_table(rows, ["dit"], None)
    away = rows[rows["trained_on"] != rows["tested_on"]].groupby(["seed", "student"])["accuracy"].mean()
    assert table["n"].tolist() == [len(away)] == [6]
    assert table["off_diagonal_std"].tolist() == pytest.approx([away.std()])
    assert "over n replicates" in redundancy_markdown(table, None)
    accuracy = tables.accuracy_table(evaluations(), ["dit"], NETWORKS)
    front = tables.front_table(accuracy, table, 10, {"dit": {}})
    assert front[["n", "trained"]].to_numpy().tolist() == [[4, 12]]
    assert "over n replicates" in front_markdown(front, 10, None)


def test_coverage_and_gradients_spread_over_what_n_counts() -> None:
    coverage = pd.DataFrame(
        [
            {
                "method": "dit",
                "seed": seed,
                "ipc": 10,
                "real": 9,
                "distilled": 9,
                **dict.fromkeys(tables.SHARES, seed / 10),
            }
            for seed in range(3)
        ]
    )
    (row,) = tables.coverage_table(coverage, ["dit"]).to_dict("records")
    assert row["n"] == 3 and row["coverage_std"] == pytest.approx(coverage["coverage"].std() * 100)
    measured = {"steps": 10, "residual": "x0", "condition": np.nan, "loss": 0.0}
    gradients = pd.DataFrame(
        [{**measured, "seed": s, "repeat": r, "latent": s + 3 * r} for s in (0, 1) for r in (0, 1)]
    )
    (cell,) = gradient_table(gradients).to_dict("records")
    assert cell["n"] == 4 and cell["latent_std"] == pytest.approx(gradients["latent"].std())


def test_beside_published_numbers_n_and_networks_are_two_columns() -> None:
    cross = ["alexnet_small", "vgg11_in", "resnet18_cifar_in", "vit_ld3m"]
    rows = pd.concat(
        [evaluations().query("network == 'convnet3'").assign(network=name, protocol="ld3m") for name in cross]
    )
    ours = tables.accuracy_table(rows, ["dit"], cross).assign(resolution=128, ipc_label="10", ipc=10)
    published = beside_published(ours, dataset="b", names={"dit": "LD3M-DC"})
    cells = by_network(published)
    assert (cells[MEAN]["n"], cells[MEAN]["trained"]) == (4, 16)
