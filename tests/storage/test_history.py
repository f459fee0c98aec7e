"""Histories of trainings: thinned, resumed exactly, and readable beside the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from distillery.storage.history import MOST_ROWS, History, history_tensors, restore_history, write_history
from distillery.storage.tables import read_table

if TYPE_CHECKING:
    from pathlib import Path


def recorded(total: int, stop: int | None = None, networks: list[int] | None = None) -> History:
    history = History(total, networks=networks)
    for step in range(total):
        if step == stop:
            saved = {name: value.clone() for name, value in sorted(history_tensors(history).items())}
            history = History(total, networks=networks)
            restore_history(history, saved)
        loss = torch.tensor([1 / (step + 1), 2.0][: len(networks or [0])])
        history.add(step + 1, loss=loss, learning_rate=0.1 * step)
    return history


@pytest.mark.parametrize("total", [1, 7, MOST_ROWS, MOST_ROWS + 1, 5 * MOST_ROWS + 3])
def test_a_history_has_at_most_so_many_rows_and_ends_with_the_last_step(total: int) -> None:
    table = recorded(total).table().to_pandas()
    assert len(table) <= MOST_ROWS
    assert table["step"].iloc[-1] == total
    assert table["step"].is_monotonic_increasing


def test_a_row_is_the_mean_over_its_steps() -> None:
    history = recorded(2 * MOST_ROWS)
    assert history.stride == 2
    assert history.table().to_pandas()["learning_rate"].tolist()[:2] == pytest.approx([0.05, 0.25])


@pytest.mark.parametrize("networks", [None, [3, 4]])
@pytest.mark.parametrize("stop", [1, 2, 150, 2000, 2001])
def test_a_history_that_was_stopped_and_resumed_is_the_same(stop: int, networks: list[int] | None) -> None:
    total = 2 * MOST_ROWS + 3
    assert recorded(total, stop, networks).table().equals(recorded(total, None, networks).table())


def test_networks_of_one_training_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    write_history(path, [recorded(5, networks=[0, 1]), recorded(5, networks=[2])], {})
    table = read_table(path, "evaluate").to_pandas()
    assert sorted(set(table["network"])) == [0, 1, 2]
    assert (table[table["network"] == 1]["loss"] == 2).all()
    assert table[table["network"] == 2]["loss"].tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])


def test_a_training_that_did_not_take_place_has_a_history_without_rows(tmp_path: Path) -> None:
    write_history(tmp_path / "history.parquet", [History(5)], {})
    assert len(read_table(tmp_path / "history.parquet", "train_reference")) == 0


def test_the_summary_is_of_the_last_part() -> None:
    history = History(1000)
    assert history.summary() == ""
    for step in range(500):
        history.add(step + 1, loss=torch.tensor(float(step)))
    assert history.summary() == "loss 494.5"
