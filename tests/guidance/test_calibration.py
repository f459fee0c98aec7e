"""What the calibration promises: the most effective setting that is still valid, and plain sampling where none is."""

from __future__ import annotations

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
import torch
from about import ABOUT
from tiny import CLASSES, CPU, NUMBERS, StoppedAt, World, digits, image_set_of, job, keys, no_resume, stopped_at
from torch import Tensor

import distillery.storage.resume
from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable
from distillery.diffusion.settings import Sampling
from distillery.guidance.base import Scene
from distillery.guidance.calibration import Setting, confirm, rank, validity_threshold, walk
from distillery.guidance.class_memory import ClassMemory
from distillery.guidance.deviation import Deviation
from distillery.guidance.learnability import Learnability
from distillery.guidance.lgd import LoopGuidance
from distillery.guidance.pilot import Calibrated, Pilot, calibrate, curve_table, spread, teacher
from distillery.guidance.registry import Guidances
from distillery.guidance.settings import Calibration
from distillery.proportions import wilson_interval
from distillery.stages import calibrate_guidance
from distillery.storage.atomic import read_json
from distillery.storage.images import write_images
from distillery.storage.resume import Resume
from distillery.storage.tables import read_table
from distillery.students.settings import Recipe

Point = tuple[float, float]
"""A relative strength and a weight of the reference."""

STRENGTHS, WEIGHTS = [1 / 16, 1 / 8, 1 / 4], [0.5, 2.0]


def setting(strength: float, weight: float = 0.5, **measured: Any) -> Setting:
    defaults = {"validity": 1.0, "reference_probability": 0.9, "student_accuracy": 0.5, "learnability": 0.1}
    return Setting(strength, 16 * strength, weight, **{**defaults, **measured})


class MadeUp:
    """A pilot whose measurements stand in a table: validity and student accuracy by strength and weight."""

    def __init__(self, table: dict[Point, tuple[float, float]], in_loop: dict[Point, float] | None = None) -> None:
        self.table, self.in_loop = table, in_loop or {}
        self.measured: list[Point] = []
        self.asked: list[tuple[Point, int, float]] = []

    def measure(self, relative_strength: float, weight: float) -> Setting:
        self.measured.append((relative_strength, weight))
        validity, accuracy = (0.97, 0.8) if relative_strength == 0 else self.table[relative_strength, weight]
        return setting(relative_strength, weight, validity=validity, student_accuracy=accuracy)

    def validity_in_loop(self, chosen: Setting, candidates: int, min_reference_probability: float) -> float:
        at = (chosen.relative_strength, chosen.reference_weight)
        self.asked.append((at, candidates, min_reference_probability))
        return self.in_loop.get(at, 1.0)


def calibrated(
    pilot: MadeUp, folder: Path, resume: Resume | None = None, aim: Literal["overlap", "accuracy"] = "overlap"
) -> Calibrated:
    return calibrate(
        pilot,  # type: ignore[arg-type]
        relative_strengths=STRENGTHS,
        reference_weights=WEIGHTS,
        calibration=Calibration(aim=aim),
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
"""Plain sampling is valid to 97 %, so that 90 % are enough; the student knows 80 % of its images."""


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


@pytest.mark.parametrize(("plain", "threshold"), [(1.0, 0.90), (0.95, 0.90), (0.9, 0.85), (0.3, 0.25)])
def test_where_plain_sampling_is_poor_less_validity_is_asked(plain: float, threshold: float) -> None:
    assert validity_threshold(0.90, 0.05, plain) == pytest.approx(threshold)


def test_where_nothing_is_valid_sampling_stays_plain_and_a_warning_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = calibrated(MadeUp(dict.fromkeys(TABLE, (0.3, 0.0))), tmp_path)
    assert found.chosen.strength == 0
    assert found.chosen == found.measured[0]
    warning = capsys.readouterr().err
    assert "WARNING: no strength keeps the validity at 0.900 (plain sampling has 0.970)" in warning
    assert "sampled without guidance" in warning


def test_a_choice_that_holds_warns_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calibrated(MadeUp(TABLE), tmp_path)
    assert "WARNING" not in capsys.readouterr().err


# ---- the walk and the confirmation -----------------------------------------------------------------------------------


def test_the_walk_stops_at_the_first_strength_that_is_not_valid(tmp_path: Path) -> None:
    pilot = MadeUp({**TABLE, (1 / 16, 0.5): (0.5, 0.0)})
    found = calibrated(pilot, tmp_path)
    assert pilot.measured == [(0, 0.5), (1 / 16, 0.5), (1 / 16, 2.0), (1 / 8, 2.0), (1 / 4, 2.0)]
    assert [at(one) for one in found.measured] == pilot.measured


def test_the_walk_goes_up_whatever_the_order_of_the_grid() -> None:
    walked = walk(setting, [0.3, 0.1, 0.2], [1.0], 0.9)
    assert [one.relative_strength for one in walked] == [0.1, 0.2, 0.3]


def test_a_choice_that_fails_in_the_loop_steps_down_the_grid(tmp_path: Path) -> None:
    pilot = MadeUp(TABLE, {(1 / 4, 2.0): 0.7, (1 / 8, 2.0): 0.8})
    found = calibrated(pilot, tmp_path)
    assert [point for point, *_ in pilot.asked] == [(1 / 4, 2.0), (1 / 8, 2.0), (1 / 16, 2.0)]
    assert at(found.chosen) == (1 / 16, 2.0)
    assert found.confirmed == [0.7, 0.8, 1.0]


def test_a_choice_that_fails_at_every_step_leaves_sampling_plain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = calibrated(MadeUp(TABLE, dict.fromkeys(TABLE, 0.1)), tmp_path)
    assert found.chosen.strength == 0
    assert len(found.confirmed) == 3
    assert "WARNING" in capsys.readouterr().err


def test_nothing_is_confirmed_where_nothing_is_valid() -> None:
    assert confirm([], lambda _: 1.0, 0.9) == (None, [])


# ---- the curve -------------------------------------------------------------------------------------------------------


COLUMNS = {
    **dict.fromkeys(("relative_strength", "strength", "reference_weight", "validity"), pa.float64()),
    **dict.fromkeys(("reference_probability", "student_accuracy", "learnability", "pilot_accuracy"), pa.float64()),
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
    assert [(row["relative_strength"], row["reference_weight"]) for row in rows] == pilot.measured
    assert [(row["strength"], row["reference_weight"]) for row in rows if row["chosen"]] == [
        (found.chosen.strength, found.chosen.reference_weight)
    ]
    assert [row["valid"] for row in rows] == [row["validity"] >= 0.9 for row in rows]
    facts = json.loads(table.schema.metadata[b"distillery_calibration"])
    criteria = {"threshold": 0.9, "judge": "judge", "aim": "overlap", "confirmed": found.confirmed}
    assert facts == {**criteria, "images": 40, "relative_strengths": [0.25, 0.5]}
    assert [(row["validity_low"], row["validity_high"]) for row in rows] == [
        wilson_interval(row["validity"], 40) for row in rows
    ]


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


def pilot_of(world: World, **options: Any) -> Pilot:
    renderer = world.renderer(steps=10)
    seed = image_set_of(*(values[:4] for values in digits()))
    with torch.no_grad():
        latents, _ = world.codec.encode(to_unit(digits()[0][:4]))
    seed.columns["latent"] = latents.flatten(1).numpy()
    learnability = Learnability(strength="auto", reference_weight="auto", range=[2, 8])
    guidance = Guidances().replaced(learnability=learnability, deviation=Deviation(strength=5.0, range=[2, 8]))
    loop = LoopGuidance(guidance, {}, Scene(renderer, CLASSES, images=[seed]))
    parts: dict[str, Any] = {"student": world.student, "reference": world.reference, "judge": world.reference}
    return Pilot(
        renderer,
        **{**parts, **options},
        loop=loop,
        labels=range(4),
        conditions=world.conditions,
        slots=6,
        key=lambda label, slot, number: ("pilot", label, slot, number),
    )


def test_the_pilot_samples_the_same_noise_at_every_setting(world: World) -> None:
    pilot = pilot_of(world)
    plain, heavier = pilot.measure(0.0, 0.5), pilot.measure(0.0, 3.0)
    assert heavier == replace(plain, reference_weight=3.0, learnability=heavier.learnability)
    assert heavier.learnability < plain.learnability
    assert pilot.measure(0.0, 0.5) == plain


def test_a_stronger_pilot_is_less_known_to_the_student(world: World) -> None:
    """At the printed weight: more of it makes images clearer, which this student, that knows little, gains by too."""
    pilot = pilot_of(world)
    found = [pilot.measure(strength, 0.5) for strength in (0.0, 1 / 16, 1 / 4)]
    assert [one.strength for one in found] == [0.0, NUMBERS**0.5 / 16, NUMBERS**0.5 / 4]
    assert found[0].student_accuracy > found[1].student_accuracy > found[2].student_accuracy
    assert found[0].learnability < found[1].learnability < found[2].learnability
    assert all(0 <= one.validity <= 1 and 0 < one.reference_probability < 1 for one in found)
    assert all(one.pilot_accuracy is None for one in found)


def test_the_judge_says_what_is_valid_and_the_reference_steers(world: World) -> None:
    own, other = (pilot_of(world, judge=judge).measure(1 / 8, 1.0) for judge in (world.reference, world.student))
    assert other.validity == other.student_accuracy  # here the judge is the student
    assert own.validity != other.validity
    assert own.student_accuracy == other.student_accuracy  # the same images
    assert own.learnability == other.learnability


def test_the_confirmation_uses_the_candidates_and_the_memory_of_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    nearest = ClassMemory.nearest

    def watched(self: ClassMemory, latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(latents))
        return nearest(self, latents, labels)

    monkeypatch.setattr(ClassMemory, "nearest", watched)
    pilot = pilot_of(world)
    one = pilot.measure(1 / 16, 2.0)
    assert sizes == []
    assert 0 <= pilot.validity_in_loop(one, 3, 0.0) <= 1
    assert set(sizes) == {3 * len(CLASSES)}


def test_a_teacher_gives_the_accuracy_of_a_student_of_seed_and_pilot(world: World) -> None:
    pixels, labels = digits()
    recipe = Recipe(epochs=3, batch_size=8, learning_rate=2e-3)
    seed = image_set_of(pixels[:40], labels[:40])
    real = ImageTable(world.data)
    pilot = pilot_of(world, teach=teacher("convnet2_w8", seed, real, recipe, ("teach",), CPU))
    found = pilot.measure(0.0, 0.5)
    assert found.pilot_accuracy is not None
    assert 0.25 < found.pilot_accuracy <= 1
    assert pilot.measure(0.0, 0.5) == found


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
            "candidates": 2,
            "min_reference_probability": 0.0,
            "calibration": Calibration(
                images=16, relative_strengths=[1 / 16, 1 / 4], reference_weights=[1.0, 3.0], validity=0.2
            ),
            "judge": "real",
            "about": ABOUT,
            "student_recipe": Recipe(epochs=2, batch_size=8, learning_rate=2e-3),
        }
        if "learnability" in options:
            defaults["guidance"] = defaults["guidance"].replaced(learnability=options.pop("learnability"))
        self.settings = calibrate_guidance.Settings(**{**defaults, **options})

    def run(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        world = self.world
        calibrate_guidance.run(
            self.settings,
            data=world.data,
            **world.models,
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


def test_a_given_strength_is_kept_while_the_weight_is_calibrated(world: World, tmp_path: Path) -> None:
    given = Learnability(strength=2.5, reference_weight="auto", range=[2, 6])
    _, rows = Stage(world, tmp_path, learnability=given).run()
    assert [row["strength"] for row in rows] == pytest.approx([0.0, 2.5, 2.5])
    assert [row["reference_weight"] for row in rows] == [1.0, 1.0, 3.0]


def test_a_given_weight_is_kept_while_the_strength_is_calibrated(world: World, tmp_path: Path) -> None:
    given = Learnability(strength="auto", reference_weight=1.5, range=[2, 6])
    _, rows = Stage(world, tmp_path, learnability=given).run()
    assert {row["reference_weight"] for row in rows} == {1.5}


def test_the_aim_of_accuracy_teaches_a_student_at_every_setting(world: World, tmp_path: Path) -> None:
    aim = Calibration(images=4, relative_strengths=[1 / 16], reference_weights=[1.0], validity=0.0, aim="accuracy")
    _, rows = Stage(world, tmp_path, calibration=aim).run()
    assert all(0 <= row["pilot_accuracy"] <= 1 for row in rows)


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
