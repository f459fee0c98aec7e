"""What the path of a sample promises: the image of the set again, and what the denoiser predicted on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from about import ABOUT
from increments import SAMPLING, SIZE, settings_of
from tiny import CLASSES, MADE_BY, SIDE, Watcher, World, job, keys

from distillery.diffusion.step import Step
from distillery.errors import BadInput
from distillery.guidance.deviation import Deviation
from distillery.guidance.path import Recorder, Weighed, recorded_indices, sample_path, shifts_of
from distillery.guidance.registry import Guidances
from distillery.report.path import path_figure, shifts_figure
from distillery.stages import generate_increment, select_increment, trace_sample
from distillery.stages import sample as sample_stage
from distillery.storage.images import ImageSet, read_images, write_images
from distillery.storage.tables import read_table
from distillery.students.networks import Classifier, Domain, save_networks

STAY = Deviation(strength=0.0, range=[2, 8])


def test_recorded_steps_run_from_noise_to_image() -> None:
    assert recorded_indices(50, 4) == [49, 33, 16, 0]
    assert recorded_indices(3, 10) == [2, 1, 0]


def test_a_recorder_changes_no_sample_and_keeps_the_predictions(world: World) -> None:
    renderer, (key,) = world.renderer(steps=10), keys(1, "path")
    condition = world.conditions[2]
    clean, pixels = sample_path(renderer, key, 2, condition, 0, [], [9, 4, 0])
    watcher = Watcher()
    label = torch.tensor([2])
    _, plain = renderer.render([key], label, torch.tensor([condition]))
    renderer.render([key], label, torch.tensor([condition]), [watcher])
    assert torch.equal(pixels, plain)
    assert torch.equal(clean, torch.cat([watcher.clean[index] for index in (9, 4, 0)]))
    assert not Recorder({3}).active(4)


@pytest.fixture(scope="module")
def loop(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two increments of an LGD method, the second one guided."""
    folder, made = tmp_path_factory.mktemp("path"), list[Path]()
    for k in (1, 2):
        settings = settings_of(k, deviation=STAY) if k > 1 else settings_of(k, candidates=1)
        inputs = {"previous": [*made], **world.networks} if k > 1 else {}
        candidates, images = folder / f"candidates-{k}.parquet", folder / f"increment-{k}.parquet"
        run = job("generate_increment", settings)
        generate_increment.run(settings, data=world.data, **world.models, **inputs, candidates=candidates, job=run)
        chosen = select_increment.Settings()
        select_increment.run(chosen, candidates=[candidates], images=images, job=job("select_increment", chosen))
        made.append(images)
    return made


def traced(world: World, loop: list[Path], out: Path, slot: int = SIZE, **networks: Path) -> ImageSet:
    settings = trace_sample.Settings(
        seed=0,
        stream="study",
        slot=slot,
        classes=["one", "three"],
        recorded=4,
        resolution=SIDE,
        sampling=SAMPLING,
        guidance=settings_of(2, deviation=STAY).guidance,
        guidance_files={},
    )
    files: dict[str, Any] = {"data": world.data, **world.models, **world.networks, **networks}
    files |= {"previous": loop[:1], "images": loop[1]}
    trace_sample.run(settings, **files, path=out, shifts=out.with_suffix(".shifts"), job=job("trace_sample", settings))
    return read_images(out, "trace_sample")


def test_the_guided_path_ends_in_the_image_of_the_set(world: World, loop: list[Path], tmp_path: Path) -> None:
    path = traced(world, loop, tmp_path / "path.parquet")
    guided, index = path.columns["guided"], path.columns["index"]
    assert path.columns["repeats_set"][guided].all()
    increment = read_images(loop[1], "select_increment")
    for label in (1, 3):
        (row,) = np.flatnonzero((increment.labels == label) & (increment.columns["slot"] == SIZE))
        (last,) = np.flatnonzero((path.labels == label) & guided & (index < 0))
        away = path.take([last]).pixels().astype(float) - increment.take([row]).pixels().astype(float)
        assert np.abs(away).max() <= 2


def test_both_paths_begin_alike_and_part_where_guidance_acts(world: World, loop: list[Path], tmp_path: Path) -> None:
    path = traced(world, loop, tmp_path / "path.parquet")
    guided, index, steered = (path.columns[name] for name in ("guided", "index", "steered"))
    of_class = path.labels == 1
    plain, with_guidance = (path.take(np.flatnonzero(of_class & (guided == which))) for which in (False, True))
    assert index[of_class & guided].tolist() == [9, 6, 3, 0, -1]
    assert steered[of_class & guided].tolist() == [False, True, True, False, False]
    assert not steered[~guided].any()
    assert plain.images[0] == with_guidance.images[0]
    assert plain.images[-1] != with_guidance.images[-1]


def test_the_sheet_marks_guided_steps_and_says_if_the_image_is_another_one(
    world: World, loop: list[Path], tmp_path: Path
) -> None:
    path = traced(world, loop, tmp_path / "path.parquet")
    figure = path_figure(path, "lgd", ["learnability"], ABOUT)
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"9", "6*", "3*", "0", "image"} <= words
    assert "drawn on another device" not in figure.texts[-1].get_text()
    path.columns["repeats_set"][:] = False
    assert "drawn on another device" in path_figure(path, "lgd", ["learnability"], ABOUT).texts[-1].get_text()


def test_a_set_without_that_slot_is_refused(world: World, loop: list[Path], tmp_path: Path) -> None:
    images = read_images(loop[1], "select_increment")
    write_images(tmp_path / "less.parquet", images.take(np.flatnonzero(images.labels != CLASSES.index("one"))), {})
    with pytest.raises(BadInput, match="no image of class 'one' in slot 2"):
        traced(world, [loop[0], tmp_path / "less.parquet"], tmp_path / "path.parquet")


def test_the_path_is_steered_by_all_students(world: World, loop: list[Path], tmp_path: Path) -> None:
    """The set was steered by one of them: with another beside it the path ends elsewhere."""
    others = tmp_path / "other-students.safetensors"
    save_networks(others, [Classifier("resnet_ap10_w4", CLASSES, Domain(SIDE, 1), ("other",))], MADE_BY)
    steered = traced(world, loop, tmp_path / "path.parquet", other_students=others)
    assert not steered.columns["repeats_set"].any()


def test_the_path_of_a_sampled_method_reads_the_smaller_sizes(world: World, tmp_path: Path) -> None:
    """Deviation pushes the second image away from the first: without that one the path would end elsewhere."""
    away = Guidances().replaced(deviation=Deviation(strength=20.0, range=[2, 8]))
    common: dict[str, Any] = {"seed": 0, "stream": "igd", "resolution": SIDE, "sampling": SAMPLING, "guidance": away}
    made: list[Path] = []
    for first in (0, 1):
        settings = sample_stage.Settings(first=first, ipc=first + 1, guidance_files={}, shard=0, shards=1, **common)
        made.append(tmp_path / f"sampled-{first + 1}.parquet")
        files = {"data": world.data, **world.models, "previous": made[:first], "images": made[first]}
        sample_stage.run(settings, **files, job=job("sample", settings))

    def repeats(previous: list[Path]) -> bool:
        traced = trace_sample.Settings(slot=1, classes=["two"], recorded=3, guidance_files={}, **common)
        files = {"data": world.data, **world.models, "previous": previous, "images": made[1]}
        out = {"path": tmp_path / "path.parquet", "shifts": tmp_path / "shifts.parquet"}
        trace_sample.run(traced, **files, **out, job=job("trace_sample", traced))
        path = read_images(tmp_path / "path.parquet", "trace_sample")
        return bool(path.columns["repeats_set"][-1])

    assert repeats(made[:1]) and not repeats([])


# ---- shifts of guidances ---------------------------------------------------------------------------------------------


def test_shifts_have_the_length_and_the_angle_of_what_guidances_did(world: World) -> None:
    both = [Push(torch.tensor([3.0, 4.0])), Pull(torch.tensor([-3.0, 4.0]))]
    weighed = [Weighed(guidance) for guidance in both]
    renderer, (key,) = world.renderer(steps=10), keys(1, "shifts")
    condition = world.conditions[1]
    _, pixels = sample_path(renderer, key, 1, condition, 0, weighed, [9, 0])
    assert torch.equal(pixels, sample_path(renderer, key, 1, condition, 0, both, [9, 0])[1])
    rows = shifts_of(weighed)
    assert [(row.index, row.guidance, row.other) for row in rows] == [
        *[(5, "push", None), (5, "push", "pull"), (5, "pull", None)],
        *[(4, "push", None), (4, "push", "pull"), (4, "pull", None)],
    ]
    values = renderer.latent_numbers
    assert [row.length for row in rows if row.other is None] == pytest.approx([5 / values**0.5] * 4)
    assert [row.cosine for row in rows if row.other] == pytest.approx([7 / 25] * 2)


def test_a_guidance_that_does_not_move_has_no_angle() -> None:
    still, moving = Weighed(Push(torch.zeros(2))), Weighed(Pull(torch.ones(2)))
    for each in (still, moving):
        each.shifts[3], each.sigmas[3] = torch.zeros(1, 1, 1, 2) + each.guidance.values, 0.5
    assert [row.cosine for row in shifts_of([still, moving])] == [None, None, None]


def test_the_stage_writes_the_shifts_of_every_class_and_the_figure_shows_them(
    world: World, loop: list[Path], tmp_path: Path
) -> None:
    traced(world, loop, tmp_path / "path.parquet")
    rows = read_table(tmp_path / "path.shifts", "trace_sample").to_pandas()
    assert set(rows["class"]) == {"one", "three"} and set(rows["guidance"]) == {"learnability"}
    assert (rows["length"] > 0).all() and rows["other"].isna().all()
    figure = shifts_figure(rows, "lgd", ABOUT)
    figure.savefig(tmp_path / "shifts.svg")
    labels = [
        text.get_text() for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for text in axis.get_ticklabels()
    ]
    assert any(labels) and not any("$" in label for label in labels)  # no figure parses mathematics
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    assert lines["learnability"] == pytest.approx(rows.groupby("index")["length"].mean().to_numpy())


class Push:
    """Moves the first two numbers of a latent, at two indices."""

    rank = 1

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def active(self, index: int) -> bool:
        return index in (4, 5)

    def needs_graph(self) -> bool:
        return False

    def shift(self, step: Step) -> torch.Tensor:
        shift = torch.zeros_like(step.noisy)
        shift.flatten(1)[:, :2] = self.values
        return shift


class Pull(Push):
    """Another one, after it."""

    rank = 2
