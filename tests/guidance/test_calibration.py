"""What the calibration promises: the most effective setting that is still valid, none where none is, and a budget."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from about import ABOUT
from steering import modes_file
from tiny import (
    CLASSES,
    CPU,
    MADE_BY,
    NUMBERS,
    StoppedAt,
    World,
    digits,
    image_set_of,
    job,
    keys,
    no_resume,
    stopped_at,
)
from torch import Tensor

import distillery.guidance.pilot
import distillery.storage.resume
from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable
from distillery.diffusion.renderer import Renderer
from distillery.diffusion.settings import Sampling
from distillery.diffusion.step import Step
from distillery.guidance.base import Scene
from distillery.guidance.calibration import (
    Line,
    Setting,
    affordable_images,
    affordable_settings,
    confirm,
    falls,
    rank,
    validity_threshold,
    walk,
)
from distillery.guidance.class_memory import ClassMemory
from distillery.guidance.deviation import Deviation
from distillery.guidance.learnability import Learnability
from distillery.guidance.lgd import LoopGuidance
from distillery.guidance.mode import Mode, ModeGuidance
from distillery.guidance.mode_discovery import read_modes
from distillery.guidance.pilot import Calibrated, Pilot, calibrate, curve_table, spread, student_accuracy
from distillery.guidance.registry import Guidances
from distillery.guidance.settings import Calibration
from distillery.proportions import wilson_interval
from distillery.report.figures import calibration_figure
from distillery.stages import calibrate_guidance
from distillery.storage.atomic import read_json
from distillery.storage.images import write_images
from distillery.storage.resume import Resume
from distillery.storage.tables import read_table
from distillery.students.networks import save_networks
from distillery.students.settings import Recipe

Point = tuple[float, float]
"""A relative strength and a weight of the reference."""

STRENGTHS, WEIGHTS = [1 / 16, 1 / 8, 1 / 4], [0.5, 2.0]


def setting(strength: float, weight: float = 0.5, **measured: Any) -> Setting:
    defaults = {"validity": 1.0, "reference_probability": 0.9, "student_accuracy": 0.5, "learnability": 0.1}
    return Setting(strength, 16 * strength, weight, **{**defaults, **measured})


class MadeUp:
    """A pilot whose measurements stand in a table: validity and student accuracy by strength and weight.

    What the table does not have is not valid. Without learnability, 97 % are valid and the student knows 80 %.
    """

    images = 10

    def __init__(
        self,
        table: Mapping[Point, tuple[float, float]],
        in_loop: Mapping[Point, float] | None = None,
        taught: Mapping[float, float] | None = None,
    ) -> None:
        self.table, self.in_loop, self.taught = table, in_loop or {}, taught or {}
        self.measured: list[Point] = []
        self.asked: list[tuple[Point, int, float]] = []

    def measure(self, relative_strength: float, line: Line) -> Setting:
        self.measured.append((relative_strength, line.reference_weight))
        validity, accuracy = self.table.get(self.measured[-1], (0.1, 0.0)) if relative_strength else (0.97, 0.8)
        return setting(
            relative_strength,
            line.reference_weight,
            validity=validity,
            student_accuracy=accuracy,
            pilot_accuracy=self.taught.get(relative_strength),
            pilot_error=0.01,
            mode_strength=line.mode_strength,
            mode_stop=line.mode_stop,
        )

    def validity_in_loop(self, chosen: Setting, candidates: int, min_reference_probability: float) -> float:
        at = (chosen.relative_strength, chosen.reference_weight)
        self.asked.append((at, candidates, min_reference_probability))
        return self.in_loop.get(at, 1.0)


def calibrated(
    pilot: MadeUp,
    folder: Path,
    resume: Resume | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    weights: Sequence[float] = WEIGHTS,
    extend: bool = True,
    settings: int = 50,
    **calibration: Any,
) -> Calibrated:
    """What a pilot of at most so many settings calibrates to."""
    options = Calibration(most_settings=settings, **calibration)
    return calibrate(
        pilot,  # type: ignore[arg-type]
        relative_strengths=strengths,
        lines=[Line(weight, *mode) for weight in weights for mode in options.modes],
        extend=extend,
        calibration=options,
        candidates=3,
        min_reference_probability=0.2,
        resume=resume or no_resume(folder),
    )


def at(chosen: Setting) -> Point:
    return chosen.relative_strength, chosen.reference_weight


TABLE = {
    (1 / 16, 0.5): (0.96, 0.60),
    (1 / 8, 0.5): (0.91, 0.40),
    (1 / 4, 0.5): (0.50, 0.05),
    (1 / 16, 2.0): (0.97, 0.70),
    (1 / 8, 2.0): (0.96, 0.45),
    (1 / 4, 2.0): (0.92, 0.20),
}
"""Without learnability, 97 % are valid, so that 90 % are enough. Strengths above these are not valid."""


# ---- the choice ------------------------------------------------------------------------------------------------------


def test_the_most_effective_valid_setting_is_chosen(tmp_path: Path) -> None:
    pilot = MadeUp(TABLE)
    found = calibrated(pilot, tmp_path)
    assert at(found.chosen) == (1 / 4, 2.0)
    assert found.threshold == 0.9
    assert pilot.asked == [((1 / 4, 2.0), 3, 0.2)]  # confirmed as the loop will use it


def test_an_invalid_setting_is_not_chosen_however_effective(tmp_path: Path) -> None:
    found = calibrated(MadeUp({**TABLE, (1 / 4, 2.0): (0.89, 0.0)}), tmp_path)
    assert at(found.chosen) == (1 / 8, 0.5)


def test_exactly_at_the_threshold_is_valid() -> None:
    assert rank([setting(0.1, validity=0.9)], 0.9, "overlap")
    assert not rank([setting(0.1, validity=0.8999)], 0.9, "overlap")


def test_ties_go_to_the_smaller_strength_then_to_the_smaller_weight() -> None:
    tied = [setting(strength, weight) for strength in (0.2, 0.1, 0.3) for weight in (2.0, 0.5)]
    for aim in ("overlap", "accuracy"):
        assert [at(one) for one in rank(tied, 0.9, aim)][:3] == [(0.1, 0.5), (0.1, 2.0), (0.2, 0.5)]


def test_the_aim_of_accuracy_takes_what_teaches_most() -> None:
    taught = [
        setting(0.1, student_accuracy=0.9, pilot_accuracy=0.80),
        setting(0.2, student_accuracy=0.5, pilot_accuracy=0.85),
        setting(0.3, student_accuracy=0.1, pilot_accuracy=0.70),
        setting(0.4, student_accuracy=0.0, pilot_accuracy=0.99, validity=0.5),
    ]
    assert [one.relative_strength for one in rank(taught, 0.9, "accuracy")] == [0.2, 0.1, 0.3]
    assert [one.relative_strength for one in rank(taught, 0.9, "overlap")] == [0.3, 0.2, 0.1]


def test_accuracies_within_one_standard_error_of_the_highest_count_as_equal() -> None:
    taught = [
        setting(0.1, student_accuracy=0.3, pilot_accuracy=0.85, pilot_error=0.03),
        setting(0.2, student_accuracy=0.2, pilot_accuracy=0.83, pilot_error=0.03),
        setting(0.3, student_accuracy=0.1, pilot_accuracy=0.81, pilot_error=0.03),
        setting(0.4, student_accuracy=0.0, pilot_accuracy=0.82, pilot_error=0.03, validity=0.5),
    ]
    assert [one.relative_strength for one in rank(taught, 0.9, "accuracy")] == [0.2, 0.1, 0.3]
    surer = [replace(one, pilot_error=0.01) for one in taught]
    assert [one.relative_strength for one in rank(surer, 0.9, "accuracy")] == [0.1, 0.2, 0.3]


def test_images_without_learnability_may_teach_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pilot = MadeUp(TABLE, taught={0: 0.90, 1 / 16: 0.85, 1 / 8: 0.80})
    found = calibrated(pilot, tmp_path, aim="accuracy")
    assert found.chosen == found.measured[0] and found.chosen.strength == 0
    assert pilot.asked == [] and "WARNING" not in capsys.readouterr().err
    worse = calibrated(MadeUp(TABLE, taught={0: 0.80, 1 / 16: 0.85, 1 / 8: 0.80}), tmp_path, aim="accuracy")
    assert worse.chosen.relative_strength == 1 / 16


@pytest.mark.parametrize(("plain", "threshold"), [(1.0, 0.90), (0.95, 0.90), (0.9, 0.85), (0.3, 0.25)])
def test_where_plain_sampling_is_poor_less_validity_is_asked(plain: float, threshold: float) -> None:
    assert validity_threshold(0.90, 0.05, plain) == pytest.approx(threshold)


def test_where_nothing_is_valid_learnability_is_off_and_a_warning_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = calibrated(MadeUp(dict.fromkeys(TABLE, (0.3, 0.0))), tmp_path)
    assert found.chosen.strength == 0
    assert found.chosen == found.measured[0]
    warning = capsys.readouterr().err
    assert "WARNING: no strength keeps the validity at 0.900 (without learnability it is 0.970)" in warning
    assert "sampled without it" in warning


def test_a_choice_that_holds_warns_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrated(MadeUp(TABLE), tmp_path)
    assert "WARNING" not in capsys.readouterr().err


# ---- the walk --------------------------------------------------------------------------------------------------------


def test_the_walk_stops_at_the_first_strength_that_is_not_valid(tmp_path: Path) -> None:
    pilot = MadeUp({**TABLE, (1 / 16, 0.5): (0.5, 0.0)})
    found = calibrated(pilot, tmp_path)
    assert pilot.measured == [(0, 0.5), (1 / 16, 0.5), (1 / 16, 2.0), (1 / 8, 2.0), (1 / 4, 2.0), (1 / 2, 2.0)]
    assert [at(one) for one in found.measured] == pilot.measured


def walked(strengths: list[float], most: int = 100, extend: bool = False, valid_below: float = 9.0) -> list[Setting]:
    def measure(strength: float, line: Line) -> Setting:
        return setting(strength, line.reference_weight, validity=float(strength < valid_below))

    return walk(measure, strengths, [Line(1.0)], lambda one, _: one.validity < 0.9, most, extend)


def test_the_walk_goes_up_whatever_the_order_of_the_grid() -> None:
    assert [one.relative_strength for one in walked([0.3, 0.1, 0.2])] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("grid", "strengths"),
    [
        ([1.0, 2.0], [1, 2, 4, 8, 16]),
        ([9.0, 3.0, 1.0], [1, 3, 9]),
        ([1.0, 3.0], [1, 3, 9]),
        ([4.0], [4, 8, 16]),
        ([2.0, 2.0], [2, 4, 8, 16]),
    ],
)
def test_the_walk_goes_beyond_the_grid_by_its_last_factor_until_images_are_not_valid(
    grid: list[float], strengths: list[float]
) -> None:
    assert [one.relative_strength for one in walked(grid, extend=True)] == strengths
    within = [strength for strength in strengths if strength <= max(grid)]
    assert [one.relative_strength for one in walked(grid, extend=False)] == within


def test_a_choice_may_lie_beyond_the_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beyond = {**TABLE, (1 / 2, 2.0): (0.91, 0.1), (1, 2.0): (0.90, 0.05)}
    found = calibrated(MadeUp(beyond), tmp_path)
    assert at(found.chosen) == (1, 2.0)
    assert [at(one) for one in found.measured][-1] == (2, 2.0)
    assert not found.largest and "WARNING" not in capsys.readouterr().err


def test_lines_take_turns_so_that_few_settings_leave_none_of_them_out(tmp_path: Path) -> None:
    pilot = MadeUp(TABLE)
    calibrated(pilot, tmp_path, settings=5)
    assert pilot.measured == [(0, 0.5), (1 / 16, 0.5), (1 / 16, 2.0), (1 / 8, 0.5)]
    assert len(pilot.asked) == 1


@pytest.mark.parametrize("settings", range(4, 20))
def test_a_pilot_never_measures_more_settings_than_it_may(settings: int, tmp_path: Path) -> None:
    always = {(strength * 2**power, weight): (1.0, 0.5) for strength, weight in TABLE for power in range(40)}
    pilot = MadeUp(always, in_loop=dict.fromkeys(always, 0.5))
    found = calibrated(pilot, tmp_path, settings=settings)
    assert len(pilot.measured) + len(pilot.asked) == settings
    assert found.drawn == settings * pilot.images


def test_a_budget_is_a_share_of_the_images_of_the_loop() -> None:
    assert affordable_settings(0.25, 4000, 100) == 10
    assert affordable_settings(0.25, 3999, 100) == 9
    assert affordable_settings(0.1, 300, 10) == 3  # 0.1 * 300 / 10 is less than 3 in floating-point numbers, or equal


def test_a_setting_has_as_many_images_as_the_budget_allows_within_bounds() -> None:
    assert affordable_images(0.25, 1440, 8) == 45
    assert affordable_images(0.25, 240, 8) == 20
    assert affordable_images(0.25, 100_000, 8) == 100


def test_accuracy_falls_where_it_is_more_than_a_standard_error_below_the_best_before() -> None:
    before = [setting(0.1, pilot_accuracy=0.80), setting(0.2, pilot_accuracy=0.70)]
    assert falls(setting(0.3, pilot_accuracy=0.77, pilot_error=0.02), before)
    assert not falls(setting(0.3, pilot_accuracy=0.79, pilot_error=0.02), before)
    assert not falls(setting(0.3, pilot_accuracy=0.10, pilot_error=0.02), [])
    assert not falls(setting(0.3), before) and not falls(setting(0.3, pilot_accuracy=0.1), [setting(0.2)])


def test_accuracy_that_falls_ends_a_line_though_images_are_valid(tmp_path: Path) -> None:
    always = {(2.0**power, 1.0): (1.0, 0.5) for power in range(10)}
    taught = {0.0: 0.7, 1.0: 0.75, 2.0: 0.80, 4.0: 0.795, 8.0: 0.75, 16.0: 0.9}
    options: dict[str, Any] = {"strengths": [1.0, 2.0], "weights": [1.0], "settings": 9}
    pilot = MadeUp(always, taught=taught)
    found = calibrated(pilot, tmp_path, aim="accuracy", **options)
    assert [strength for strength, _ in pilot.measured] == [0, 1, 2, 4, 8]
    assert found.chosen.relative_strength == 2 and not found.largest
    pilot = MadeUp(always, taught=taught)
    calibrated(pilot, tmp_path, aim="overlap", **options)
    assert len(pilot.measured) == 8


# ---- modes -----------------------------------------------------------------------------------------------------------


def test_strengths_and_stops_of_modes_are_compared_in_every_pair() -> None:
    assert Calibration().modes == [(None, None)]
    assert Calibration(mode_strengths=[0.1, 0.2]).modes == [(0.1, None), (0.2, None)]
    assert Calibration(mode_strengths=[0.1, 0.2], mode_stops=[3, 5]).modes == [(0.1, 3), (0.1, 5), (0.2, 3), (0.2, 5)]


class WithModes(MadeUp):
    """Modes of strength 0.3 spoil the images; those of strength 0.2 are the ones that the student knows least."""

    def measure(self, relative_strength: float, line: Line) -> Setting:
        one = super().measure(relative_strength, line)
        validity = 0.5 if line.mode_strength == 0.3 else one.validity
        return replace(one, validity=validity, student_accuracy=one.student_accuracy - (line.mode_strength or 0))


def test_each_mode_is_measured_without_learnability_once_and_then_in_all_weights(tmp_path: Path) -> None:
    found = calibrated(WithModes(TABLE), tmp_path, mode_strengths=[0.3, 0.1, 0.2])
    zero = [one for one in found.measured if not one.strength]
    assert [(one.mode_strength, one.reference_weight) for one in zero] == [(0.3, 0.5), (0.1, 0.5), (0.2, 0.5)]
    lines = {one.line for one in found.measured if one.strength}
    assert lines == {Line(weight, mode) for weight in WEIGHTS for mode in (0.1, 0.2, 0.3)}
    assert found.chosen.line == Line(2.0, 0.2)


@pytest.mark.parametrize("order", list(itertools.permutations([0.1, 0.2, 0.3])))
def test_modes_that_spoil_the_images_lower_no_threshold(order: tuple[float, ...], tmp_path: Path) -> None:
    assert calibrated(WithModes(TABLE), tmp_path, mode_strengths=[*order]).threshold == 0.9


def test_modes_are_compared_where_learnability_is_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pilot = WithModes(TABLE)
    found = calibrated(pilot, tmp_path, strengths=[], weights=[0.5], extend=False, mode_strengths=[0.3, 0.1, 0.2])
    assert [one.mode_strength for one in found.measured] == [0.3, 0.1, 0.2]
    assert (found.chosen.strength, found.chosen.mode_strength) == (0, 0.2)
    assert "WARNING" not in capsys.readouterr().err


# ---- the confirmation, and a choice at the end of what was measured --------------------------------------------------


def test_a_choice_that_fails_in_the_loop_steps_down_the_grid(tmp_path: Path) -> None:
    pilot = MadeUp(TABLE, {(1 / 4, 2.0): 0.7, (1 / 8, 2.0): 0.8})
    found = calibrated(pilot, tmp_path)
    assert [point for point, *_ in pilot.asked] == [(1 / 4, 2.0), (1 / 8, 2.0), (1 / 16, 2.0)]
    assert at(found.chosen) == (1 / 16, 2.0)
    assert found.confirmed == [0.7, 0.8, 1.0]


@pytest.mark.parametrize("aim", ["overlap", "accuracy"])
def test_a_choice_that_fails_at_every_step_leaves_learnability_off(
    aim: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taught = {0.0: 0.5, 1 / 16: 0.6, 1 / 8: 0.7, 1 / 4: 0.8}
    found = calibrated(MadeUp(TABLE, dict.fromkeys(TABLE, 0.1), taught), tmp_path, aim=aim, weights=[2.0])
    assert found.chosen.strength == 0
    assert len(found.confirmed) == 3
    assert "WARNING: no strength keeps the validity" in capsys.readouterr().err


def test_the_number_of_settings_limits_the_tries_and_what_follows_the_last_one_is_taken_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always = {(2.0**power, 2.0): (1.0, 1 - power / 10) for power in range(10)}
    pilot = MadeUp(always, dict.fromkeys(always, 0.3))
    found = calibrated(pilot, tmp_path, strengths=[1.0, 2.0], weights=[2.0], settings=6)
    assert pilot.measured == [(0, 2.0), (1.0, 2.0), (2.0, 2.0), (4.0, 2.0), (8.0, 2.0)]
    assert [point for point, *_ in pilot.asked] == [(8.0, 2.0)]
    assert at(found.chosen) == (4.0, 2.0)
    warning = capsys.readouterr().err
    assert "WARNING: the pilot ended before the images of a strength were valid with 3 candidates" in warning
    assert "lambda = 64 is taken without this test; raise calibration.most_settings" in warning


def test_nothing_is_confirmed_where_nothing_is_valid() -> None:
    assert confirm([], lambda _: 1.0, 0.9, tries=3) == (None, [])


@pytest.mark.parametrize(
    ("extend", "way_out"),
    [(True, "raise calibration.most_settings"), (False, "set calibration.extend, or lengthen relative_strengths")],
)
def test_a_choice_at_the_largest_measured_strength_warns_and_says_so_in_the_curve(
    extend: bool, way_out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always = {(strength, weight): (1.0, 1 - strength) for strength in (1 / 16, 1 / 8, 1 / 4) for weight in WEIGHTS}
    found = calibrated(MadeUp(always), tmp_path, extend=extend, settings=8)
    assert at(found.chosen) == (1 / 4, 0.5) and found.largest
    warning = capsys.readouterr().err
    assert "WARNING: the chosen strength, lambda = 4, is the largest that was measured, and a larger one" in warning
    assert way_out in warning
    facts = curve_table(found, "judge", Calibration(), 10).schema.metadata[b"distillery_calibration"]
    assert json.loads(facts)["largest"] is True


def test_a_strength_by_hand_is_not_called_the_largest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = calibrated(MadeUp(TABLE), tmp_path, strengths=[1 / 8], extend=False)
    assert at(found.chosen) == (1 / 8, 0.5)
    assert not found.largest and "WARNING" not in capsys.readouterr().err


# ---- the curve -------------------------------------------------------------------------------------------------------


COLUMNS = {
    **dict.fromkeys(("relative_strength", "strength", "reference_weight", "validity"), pa.float64()),
    **dict.fromkeys(("reference_probability", "student_accuracy", "learnability", "pilot_accuracy"), pa.float64()),
    **dict.fromkeys(("pilot_error", "mode_strength", "mode_stop"), pa.float64()),
    **dict.fromkeys(("validity_low", "validity_high"), pa.float64()),
    **{"images": pa.int64(), "valid": pa.bool_(), "chosen": pa.bool_()},
}


@pytest.mark.parametrize("valid", [True, False], ids=["a choice", "no choice"])
def test_the_curve_has_one_row_per_setting_of_which_one_is_chosen(valid: bool, tmp_path: Path) -> None:
    pilot = MadeUp(TABLE if valid else dict.fromkeys(TABLE, (0.3, 0.0)))
    found = calibrated(pilot, tmp_path)
    table = curve_table(found, "judge", Calibration(relative_strengths=[0.5, 0.25]), 40)
    assert {field.name: field.type for field in table.schema} == COLUMNS
    rows = table.to_pylist()
    assert [(row["relative_strength"], row["reference_weight"]) for row in rows] == [at(one) for one in found.measured]
    assert sorted(pilot.measured) == sorted(at(one) for one in found.measured)
    assert [(row["strength"], row["reference_weight"]) for row in rows if row["chosen"]] == [
        (found.chosen.strength, found.chosen.reference_weight)
    ]
    assert [row["valid"] for row in rows] == [row["validity"] >= 0.9 for row in rows]
    facts = json.loads(table.schema.metadata[b"distillery_calibration"])
    criteria = {"threshold": 0.9, "judge": "judge", "aim": "overlap", "confirmed": found.confirmed}
    assert facts == {**criteria, "images": 40, "largest": False, "drawn": found.drawn}
    assert [(row["validity_low"], row["validity_high"]) for row in rows] == [
        wilson_interval(row["validity"], 40) for row in rows
    ]


def test_the_figure_has_a_line_for_each_weight_and_mode_that_begins_without_learnability(tmp_path: Path) -> None:
    options = Calibration(mode_strengths=[0.1, 0.2])
    found = calibrated(WithModes(TABLE), tmp_path, mode_strengths=[0.1, 0.2])
    table = curve_table(found, "judge", options, 40)
    setting = json.loads(table.schema.metadata[b"distillery_calibration"])
    figure = calibration_figure(table.to_pandas(), setting, "lgd", ABOUT)
    names = [f"ω = {weight:g}, mode strength = {mode}" for weight in WEIGHTS for mode in (0.1, 0.2)]
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels[:5] == [*names, "without learnability"]
    assert "chosen: λ = 4, ω = 2, mode strength = 0.2" in figure.get_suptitle()
    student = figure.axes[1]
    begins = [
        float(line.get_ydata()[0])
        for line in student.lines
        if len(line.get_xdata()) > 2 and line.get_marker() == "None"
    ]
    assert begins == pytest.approx([70, 60, 70, 60])


# ---- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_an_interrupted_pilot_measures_nothing_twice(stop: int, tmp_path: Path, no_request: None) -> None:
    whole = MadeUp(TABLE)
    expected = calibrated(whole, tmp_path)
    first, second = MadeUp(TABLE), MadeUp(TABLE)
    with pytest.raises(SystemExit):
        calibrated(first, tmp_path, StoppedAt(tmp_path / "curve", "a", stop))
    assert len(first.measured) == stop
    distillery.storage.resume.clear_stop()
    assert calibrated(second, tmp_path, Resume(tmp_path / "curve", "a")) == expected
    assert first.measured + second.measured == whole.measured


# ---- the real pilot --------------------------------------------------------------------------------------------------


def pilot_of(world: World, mode: Path | None = None, **options: Any) -> Pilot:
    """A pilot after an increment of one image per class; `mode`: a file of modes that the method is guided by."""
    renderer = world.renderer(steps=10)
    seed = image_set_of(*(values[:4] for values in digits()))
    with torch.no_grad():
        latents, _ = world.codec.encode(to_unit(digits()[0][:4]))
    seed.columns["latent"] = latents.flatten(1).numpy()
    learnability = Learnability(strength="auto", reference_weight="auto", range=[2, 8])
    guidance = Guidances().replaced(learnability=learnability, deviation=Deviation(strength=5.0, range=[2, 8]))
    if mode:
        guidance = guidance.replaced(mode=Mode(strength=0.05, stop=4))
    files = {"mode": [mode]} if mode else {}
    loop = LoopGuidance(guidance, files, Scene(renderer, CLASSES, images=[seed]))
    parts: dict[str, Any] = {"students": [world.student], "reference": world.reference, "judge": world.reference}
    return Pilot(
        renderer,
        loop=loop,
        conditions=world.conditions,
        key=lambda label, slot, number: ("pilot", label, slot, number),
        **{**parts, "labels": range(4), "slots": range(1, 7), **options},
    )


def test_the_pilot_samples_the_same_noise_at_every_setting(world: World) -> None:
    pilot = pilot_of(world)
    plain, heavier = pilot.measure(0.0, Line(0.5)), pilot.measure(0.0, Line(3.0))
    assert heavier == replace(plain, reference_weight=3.0, learnability=heavier.learnability)
    assert heavier.learnability < plain.learnability
    assert pilot.measure(0.0, Line(0.5)) == plain


def test_a_stronger_pilot_is_less_known_to_the_student(world: World) -> None:
    """At the printed weight: more of it makes images clearer, which this student, that knows little, gains by too."""
    pilot = pilot_of(world)
    found = [pilot.measure(strength, Line(0.5)) for strength in (0.0, 1 / 16, 1 / 4)]
    assert [one.strength for one in found] == [0.0, NUMBERS**0.5 / 16, NUMBERS**0.5 / 4]
    assert found[0].student_accuracy > found[1].student_accuracy > found[2].student_accuracy
    assert found[0].learnability < found[1].learnability < found[2].learnability
    assert all(0 <= one.validity <= 1 and 0 < one.reference_probability < 1 for one in found)
    assert all(one.pilot_accuracy is None for one in found)


def test_the_judge_says_what_is_valid_and_the_reference_steers(world: World) -> None:
    own, other = (pilot_of(world, judge=judge).measure(1 / 8, Line(1.0)) for judge in (world.reference, world.student))
    assert other.validity == other.student_accuracy  # here the judge is the student
    assert own.validity != other.validity
    assert own.student_accuracy == other.student_accuracy  # the same images
    assert own.learnability == other.learnability


def test_a_pilot_asks_all_students(world: World) -> None:
    """Two that are alike say what one says; with the reference beside it S is half as large at omega = 1."""
    alone, twice, mixed = (
        pilot_of(world, students=students).measure(0.0, Line(1.0))
        for students in ([world.student], [world.student] * 2, [world.student, world.reference])
    )
    assert twice == alone
    assert mixed.learnability == pytest.approx(alone.learnability / 2)
    assert mixed.validity == alone.validity and mixed.student_accuracy != alone.student_accuracy


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many latents looked for their nearest one, at every step that asked."""
    sizes: list[int] = []
    nearest = ClassMemory.nearest

    def watched(self: ClassMemory, latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(latents))
        return nearest(self, latents, labels)

    monkeypatch.setattr(ClassMemory, "nearest", watched)
    return sizes


def test_the_pilot_and_its_confirmation_use_the_memory_of_the_run(world: World, asked: list[int]) -> None:
    pilot = pilot_of(world)
    one = pilot.measure(1 / 16, Line(2.0))
    assert set(asked) == {len(CLASSES)}
    asked.clear()
    assert 0 <= pilot.validity_in_loop(one, 3, 0.0) <= 1
    assert set(asked) == {3 * len(CLASSES)}


Drawn = list[tuple[list[int], list[int], Tensor]]


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Labels, slots and latents of everything that was rendered."""
    batches: Drawn = []
    render = Renderer.render

    def watched(self: Renderer, names: Any, labels: Tensor, conditions: Tensor, *others: Any) -> Any:
        latents, pixels = render(self, names, labels, conditions, *others)
        batches.append((labels.tolist(), others[1].tolist() if others else [], latents))
        return latents, pixels

    monkeypatch.setattr(Renderer, "render", watched)
    return batches


def images_in(batches: Drawn) -> int:
    return sum(len(labels) for labels, *_ in batches)


@pytest.mark.parametrize(("slots", "candidates"), [(1, 2), (1, 3), (1, 4), (2, 3), (6, 2), (6, 5), (6, 24)])
def test_a_confirmation_draws_no_more_images_than_a_setting(
    slots: int, candidates: int, world: World, rendered: Drawn
) -> None:
    pilot = pilot_of(world, slots=range(1, 1 + slots))
    one = pilot.measure(0.0, Line(2.0))
    assert images_in(rendered) == pilot.images == 4 * slots
    rendered.clear()
    pilot.validity_in_loop(one, candidates, 0.0)
    assert candidates <= images_in(rendered) <= pilot.images
    assert images_in(rendered) > pilot.images / 2
    assert {slot for _, of, _ in rendered for slot in of} <= set(pilot.slots)


@pytest.mark.parametrize("settings", [3, 5])
def test_a_real_pilot_draws_no_more_images_than_its_settings_have(
    settings: int, world: World, tmp_path: Path, rendered: Drawn
) -> None:
    pilot = pilot_of(world, slots=range(1, 3))
    calibration = Calibration(most_settings=settings, validity=0.0)  # all is valid: the walk has no other end
    found = calibrate(
        pilot,
        relative_strengths=[1 / 16, 1 / 8],
        lines=[Line(1.0)],
        extend=True,
        calibration=calibration,
        candidates=3,
        min_reference_probability=0.0,
        resume=no_resume(tmp_path),
    )
    assert len(found.measured) == settings - 1 and len(found.confirmed) == 1
    assert images_in(rendered) <= found.drawn == settings * 8


def modes_of(world: World, folder: Path) -> Path:
    """Seven modes of each class, of a method with seven images per class."""
    return modes_file(world, folder, count=7)


def to_modes(batches: Drawn, modes: Tensor) -> float:
    """The mean distance of the images to the modes of their class and slot."""
    far = [
        (latents - modes[torch.tensor(labels), torch.tensor(slots) % modes.shape[1]]).flatten(1).norm(dim=1)
        for labels, slots, latents in batches
    ]
    return float(torch.cat(far).mean())


def test_a_pilot_draws_with_the_modes_of_the_slots_after_the_first_increment(
    world: World, tmp_path: Path, rendered: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = modes_of(world, tmp_path)
    modes = read_modes(path, CLASSES)
    slots: set[int] = set()
    shift = ModeGuidance.shift

    def watched(self: ModeGuidance, step: Step) -> Tensor:
        assert step.slots is not None
        slots.update(step.slots.tolist())
        return shift(self, step)

    monkeypatch.setattr(ModeGuidance, "shift", watched)
    pilot_of(world).measure(1 / 16, Line(0.5))
    plain = to_modes(rendered, modes)
    assert slots == set()
    rendered.clear()
    pilot_of(world, path).measure(1 / 16, Line(0.5))
    assert slots == set(range(1, 7)) == {slot for _, of, _ in rendered for slot in of}
    assert to_modes(rendered, modes) < 0.98 * plain


def test_modes_of_another_strength_or_stop_are_drawn_where_they_are_compared(
    world: World, tmp_path: Path, rendered: Drawn
) -> None:
    pilot, images = pilot_of(world, modes_of(world, tmp_path)), {}
    for line in (Line(0.5), Line(0.5, 0.05, 4), Line(0.5, 0.1), Line(0.5, None, 7), Line(0.5, 0.0)):
        rendered.clear()
        one = pilot.measure(1 / 16, line)
        assert one.line == line
        images[line] = torch.cat([latents for *_, latents in rendered])
    own, same, *others = images.values()
    assert torch.equal(own, same)
    assert all(not torch.equal(one, other) for one, other in itertools.combinations([own, *others], 2))


def teaching(world: World, students: int) -> Pilot:
    pixels, labels = digits()
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=2e-3)
    seed = image_set_of(pixels[:40], labels[:40])
    validation = ImageTable(world.data)
    return pilot_of(world, teach=student_accuracy("convnet2_w8", seed, validation, recipe, students, ("teach",), CPU))


def test_a_teacher_gives_the_accuracy_of_students_of_seed_and_pilot(world: World) -> None:
    pilot = teaching(world, 1)
    found = pilot.measure(0.0, Line(0.5))
    assert found.pilot_accuracy is not None
    assert 0.25 < found.pilot_accuracy <= 1
    variance = found.pilot_accuracy * (1 - found.pilot_accuracy)
    assert found.pilot_error == pytest.approx((variance / len(digits()[1])) ** 0.5)
    assert pilot.measure(0.0, Line(0.5)) == found


def test_the_accuracy_of_several_students_is_their_mean(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies: list[float] = []
    measure = distillery.guidance.pilot.accuracy_of_table

    def watched(*arguments: Any) -> float:
        accuracies.append(measure(*arguments))
        return accuracies[-1]

    monkeypatch.setattr(distillery.guidance.pilot, "accuracy_of_table", watched)
    found = teaching(world, 3).measure(0.0, Line(0.5))
    assert len(set(accuracies)) > 1 and len(accuracies) == 3
    assert found.pilot_accuracy == pytest.approx(sum(accuracies) / 300)


@pytest.mark.parametrize(
    ("count", "most", "labels"), [(4, 100, [0, 1, 2, 3]), (10, 4, [0, 3, 6, 9]), (5, 1, [0]), (3, 3, [0, 1, 2])]
)
def test_the_pilot_spreads_over_the_classes(count: int, most: int, labels: list[int]) -> None:
    assert spread(count, most) == labels


def test_a_pilot_of_a_thousand_classes_takes_a_hundred_of_them() -> None:
    labels = spread(1000, 100)
    assert len(labels) == 100
    assert labels[0] == 0 and labels[-1] == 999
    assert {second - first for first, second in itertools.pairwise(labels)} == {10, 11}


# ---- the stage -------------------------------------------------------------------------------------------------------


class Stage:
    """The stage on the tiny world."""

    def __init__(self, world: World, folder: Path, **options: Any) -> None:
        self.world = world
        self.increment, self.guidance, self.curve, self.csv = (
            folder / name for name in ("increment.parquet", "guidance.json", "curve.parquet", "curve.csv")
        )
        labels = torch.arange(4).repeat(2)
        latents, pixels = world.renderer(steps=10).render(keys(8), labels, world.condition(labels))
        drawn = image_set_of(pixels, labels)
        drawn.columns["latent"] = latents.flatten(1).numpy()
        write_images(self.increment, drawn, {})
        defaults: dict[str, Any] = {
            "seed": 0,
            "method": "lgd",
            "resolution": 16,
            "sampling": Sampling(steps=8, guidance_scale=3.0),
            "guidance": Guidances().replaced(
                learnability=Learnability(strength="auto", reference_weight="auto", range=[2, 6]),
                deviation=Deviation(strength=1.0, range=[2, 6]),
            ),
            "guidance_files": {},
            "increment_size": 2,
            "candidates": 2,
            "min_reference_probability": 0.0,
            "calibration": Calibration(
                relative_strengths=[1 / 16, 1 / 4],
                extend=False,
                reference_weights=[1.0, 3.0],
                validity=0.2,
            ),
            "images": 16,
            "judge": "real",
            "about": ABOUT,
            "student_recipe": None,
        }
        blocks = {name: options.pop(name) for name in ("learnability", "mode") if name in options}
        defaults["guidance"] = defaults["guidance"].replaced(**blocks)
        self.inputs: dict[str, Any] = options.pop("inputs", {})
        self.settings = calibrate_guidance.Settings(**{**defaults, **options})

    def run(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        world = self.world
        calibrate_guidance.run(
            self.settings,
            **world.models,
            **self.inputs,
            increment=self.increment,
            **world.networks,
            judge=world.networks["reference"],
            guidance=self.guidance,
            curve=self.curve,
            csv=self.csv,
            job=job("calibrate_guidance", self.settings, [self.increment]),
        )
        table = read_table(self.curve, "calibrate_guidance")
        return read_json(self.guidance, "calibrate_guidance"), table.to_pylist()


def test_the_stage_writes_its_choice_and_the_curve_behind_it(world: World, tmp_path: Path) -> None:
    choice, rows = Stage(world, tmp_path).run()
    chosen = [row for row in rows if row["chosen"]]
    assert len(chosen) == 1
    assert choice == {name: chosen[0][name] for name in ("strength", "reference_weight")}
    assert (rows[0]["relative_strength"], rows[0]["reference_weight"]) == (0, 1.0)
    assert {row["strength"] for row in rows} <= {0.0, 1.0, 4.0}
    with (tmp_path / "curve.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [*COLUMNS, "experiment", "dataset", "commit"]
    assert [line["chosen"] for line in lines] == [str(row["chosen"]).lower() for row in rows]


def test_the_stage_reads_all_students(world: World, tmp_path: Path) -> None:
    others = tmp_path / "other-students.safetensors"
    save_networks(others, [world.reference], MADE_BY)
    _, alone = Stage(world, tmp_path).run()
    _, mixed = Stage(world, tmp_path, inputs={"other_students": others}).run()
    assert mixed[0]["learnability"] == pytest.approx(alone[0]["learnability"] / 2)


def test_a_given_strength_is_kept_while_the_weight_is_calibrated(world: World, tmp_path: Path) -> None:
    given = Learnability(strength=2.5, reference_weight="auto", range=[2, 6])
    _, rows = Stage(world, tmp_path, learnability=given).run()
    assert [row["strength"] for row in rows] == pytest.approx([0.0, 2.5, 2.5])
    assert [row["reference_weight"] for row in rows] == [1.0, 1.0, 3.0]


def test_a_given_weight_is_kept_while_the_strength_is_calibrated(world: World, tmp_path: Path) -> None:
    given = Learnability(strength="auto", reference_weight=1.5, range=[2, 6])
    _, rows = Stage(world, tmp_path, learnability=given).run()
    assert {row["reference_weight"] for row in rows} == {1.5}


def test_strengths_beyond_the_grid_are_measured_up_to_the_number_of_settings(world: World, tmp_path: Path) -> None:
    given = Learnability(strength="auto", reference_weight=1.0, range=[2, 6])
    for most, strengths in ((6, [0, 1 / 4, 1 / 2, 1, 2]), (4, [0, 1 / 4, 1 / 2])):  # and one confirmation
        calibration = Calibration(images=4, relative_strengths=[1 / 64, 1 / 32], validity=0.0, most_settings=most)
        _, rows = Stage(world, tmp_path, learnability=given, calibration=calibration).run()
        assert [row["strength"] for row in rows] == strengths


def test_a_given_strength_is_not_raised_though_more_settings_are_allowed(world: World, tmp_path: Path) -> None:
    given = Learnability(strength=2.5, reference_weight="auto", range=[2, 6])
    calibration = Calibration(images=4, reference_weights=[1.0, 3.0], validity=0.0, extend=True)
    _, rows = Stage(world, tmp_path, learnability=given, calibration=calibration).run()
    assert [row["strength"] for row in rows] == pytest.approx([0.0, 2.5, 2.5])


def test_the_aim_of_accuracy_teaches_students_at_every_setting(world: World, tmp_path: Path) -> None:
    aim = Calibration(
        images=4, relative_strengths=[1 / 16], reference_weights=[1.0], validity=0.0, aim="accuracy", most_settings=4
    )
    recipe, inputs = Recipe(epochs=2, batch_size=8, learning_rate=2e-3), {"validation": world.data}
    _, rows = Stage(world, tmp_path, calibration=aim, student_recipe=recipe, inputs=inputs).run()
    assert len(rows) == 3 and all(0 <= row["pilot_accuracy"] <= 1 < 1 + row["pilot_error"] for row in rows)


def test_the_stage_draws_at_the_slots_after_the_first_increment(world: World, tmp_path: Path, rendered: Drawn) -> None:
    stage = Stage(world, tmp_path, increment_size=5)
    rendered.clear()
    stage.run()
    assert {slot for _, of, _ in rendered for slot in of} == {5, 6, 7, 8}


def test_the_choice_among_modes_is_written_beside_the_strength(world: World, tmp_path: Path) -> None:
    calibration = Calibration(
        images=4,
        relative_strengths=[1 / 16],
        extend=False,
        reference_weights=[1.0],
        validity=0.0,
        mode_strengths=[0.1, 0.3],
        mode_stops=[2, 5],
    )
    modes = {"mode": Mode(strength=0.1, stop=4), "guidance_files": {"mode": 1}}
    inputs = {"guidance_files": [modes_of(world, tmp_path)]}
    choice, rows = Stage(world, tmp_path, calibration=calibration, inputs=inputs, **modes).run()
    assert {(row["mode_strength"], row["mode_stop"]) for row in rows} == {(0.1, 2), (0.1, 5), (0.3, 2), (0.3, 5)}
    [chosen] = [row for row in rows if row["chosen"]]
    names = ("strength", "reference_weight", "mode_strength", "mode_stop")
    assert choice == {name: chosen[name] for name in names}


def test_modes_alone_may_be_compared(world: World, tmp_path: Path) -> None:
    off = Learnability(strength=0, reference_weight=1.0, range=[2, 6])
    calibration = Calibration(images=4, validity=0.0, mode_strengths=[0.1, 0.3])
    modes = {"mode": Mode(strength=0.1, stop=4), "guidance_files": {"mode": 1}}
    inputs = {"guidance_files": [modes_of(world, tmp_path)]}
    choice, rows = Stage(world, tmp_path, learnability=off, calibration=calibration, inputs=inputs, **modes).run()
    assert [(row["strength"], row["mode_strength"]) for row in rows] == [(0, 0.1), (0, 0.3)]
    assert choice["strength"] == 0 and sum(row["chosen"] for row in rows) == 1
    assert choice["mode_strength"] == next(row["mode_strength"] for row in rows if row["chosen"])


def test_a_stage_stopped_by_a_signal_and_resumed_gives_the_same_bytes(
    world: World, tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(world, tmp_path)
    stage.run()
    whole = [path.read_bytes() for path in (stage.guidance, stage.curve, stage.csv)]
    stage.guidance.unlink()
    with stopped_at(2, monkeypatch), pytest.raises(SystemExit):
        stage.run()
    assert not stage.guidance.exists()
    stage.run()
    assert [path.read_bytes() for path in (stage.guidance, stage.curve, stage.csv)] == whole
