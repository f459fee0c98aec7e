"""Validity: what is said of candidates, which of them the loss alone would choose, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from about import ABOUT
from tiny import CLASSES, World, digits, image_set_of, job

from distillery.guidance.score import Scorer
from distillery.report.tables import read_rows
from distillery.report.validity import COLUMNS, missing, validity_figure, validity_markdown, validity_table
from distillery.stages import measure_validity
from distillery.storage.images import write_images

C = len(CLASSES)


@pytest.fixture
def candidates(world: World, tmp_path: Path) -> Path:
    """Three real candidates in each of two slots, scored by the world's networks: half chosen by S, half by loss."""
    pixels, labels = digits()
    rows = torch.cat(
        [torch.nonzero(labels == label)[slot * 3 : slot * 3 + 3, 0] for slot in (0, 1) for label in range(C)]
    )
    score = Scorer([world.student], world.reference, 5.0).score_stored(pixels[rows], labels[rows])
    chosen = np.zeros((2 * C, 3), dtype=bool)
    chosen[np.arange(2 * C), score.learnability.view(-1, 3).argmax(1).numpy()] = True
    columns = {name: values.numpy() for name, values in vars(score).items()}
    slots, numbers = np.arange(2).repeat(3 * C) + 2, np.tile(np.arange(3), 2 * C)
    drawn = image_set_of(
        pixels[rows],
        labels[rows],
        slot=slots,
        candidate=numbers,
        increment=np.full(len(rows), 2),
        chosen=chosen.ravel(),
        **columns,
    )
    write_images(tmp_path / "candidates.parquet", drawn, {})
    return tmp_path / "candidates.parquet"


def measured(candidates: list[Path], out: Path, judge: Path | None = None, **options: Any) -> Path:
    settings = measure_validity.Settings(**{"seed": 0, "method": "lgd", "candidates": 3, **options})
    measure_validity.run(
        settings, candidates=candidates, judge=judge, validity=out, job=job("measure_validity", settings, candidates)
    )
    return out


def test_the_loss_alone_chooses_the_largest_loss_of_each_slot(candidates: Path, tmp_path: Path) -> None:
    rows = read_rows([measured([candidates], tmp_path / "out")], COLUMNS, "measure_validity")
    assert len(rows) == 6 * C
    for _, slot in rows.groupby(["label", "slot"]):
        assert slot["chosen"].sum() == slot["chosen_by_loss"].sum() == 1
        assert slot.loc[slot["chosen_by_loss"], "student_loss"].item() == slot["student_loss"].max()


def test_the_reference_term_chooses_what_the_reference_knows(candidates: Path, tmp_path: Path) -> None:
    rows = read_rows([measured([candidates], tmp_path / "out")], COLUMNS, "measure_validity")
    table = validity_table(rows, ["lgd"], None).set_index("part")
    with_term, without = table.loc["chosen"], table.loc["chosen by loss alone"]
    assert with_term["reference_probability_mean"] >= without["reference_probability_mean"]
    assert with_term["student_loss_mean"] <= without["student_loss_mean"]
    assert table["images"].to_dict() == {"candidates": 6 * C, "chosen": 2 * C, "chosen by loss alone": 2 * C}


def test_the_reference_as_its_own_judge_says_the_same(candidates: Path, world: World, tmp_path: Path) -> None:
    judge = world.networks["reference"]
    rows = read_rows([measured([candidates], tmp_path / "out", judge)], COLUMNS, "measure_validity")
    assert rows["judge_probability"].to_numpy() == pytest.approx(rows["reference_probability"].to_numpy(), abs=1e-5)


def test_one_increment_gives_no_rows_and_the_words_say_why(tmp_path: Path) -> None:
    pixels, labels = (values[:C] for values in digits())
    first = image_set_of(pixels, labels, slot=np.zeros(C, int), candidate=np.zeros(C, int), increment=np.ones(C, int))
    write_images(tmp_path / "first.parquet", first, {})
    rows = read_rows([measured([tmp_path / "first.parquet"], tmp_path / "out")], COLUMNS, "measure_validity")
    notes = missing(rows, ["lgd"], None, {"lgd": 0.5}, None)
    assert notes == [
        "lgd: one increment, so no student scored candidates",
        "no method that is guided without reference term (ω = 0) is among them",
        "no judge: the reference that guidance rewards is the only one asked",
    ]
    table = validity_table(rows, ["lgd"], None)
    assert table.empty
    assert notes[0] in validity_markdown(table, None, None, notes)
    assert "one increment" in validity_figure(rows, ["lgd"], {"lgd": 0.5}, notes, ABOUT).texts[-1].get_text()


def test_a_single_candidate_is_no_choice(candidates: Path, tmp_path: Path) -> None:
    rows = read_rows([measured([candidates], tmp_path / "out")], COLUMNS, "measure_validity")
    alone = rows[rows["candidate"] == 0]
    assert "lgd: one candidate per slot, so there is no choice" in missing(alone, ["lgd"], None, {"lgd": 0.0}, "j")
