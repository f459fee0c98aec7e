"""What nearest neighbours promise: those of loops, in any batches, and distance 0 for a copy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import CLASSES, World, digits, image_set_of, job

from distillery.analysis.neighbours import HELD_OUT, nearest, real_neighbours
from distillery.data.reading import ImageTable
from distillery.report import neighbours as report
from distillery.stages import (
    extract_features,
    measure_held_out_neighbours,
    measure_neighbours,
    plot_neighbour_pairs,
    plot_neighbours,
    tabulate_neighbours,
)
from distillery.storage.images import write_images
from distillery.storage.tables import read_table
from distillery.students.features import features_of

ABOUT: dict[str, Any] = {"experiment": "tiny", "dataset": "digits", "protocols": ["p"]}
REAL, DRAWN, TEST = slice(0, 200), slice(196, 212), slice(212, 300)
"""Rows of the digits; the first four images of the set are training images."""


def test_neighbours_are_those_of_loops_in_any_batches() -> None:
    draws = np.random.default_rng(0)
    queries, points = draws.normal(size=(9, 5)), draws.normal(size=(50, 5))
    found = nearest(queries, (points[start : start + 7] for start in range(0, 50, 7)))
    for row, query in enumerate(queries):
        distances = [math.dist(query, point) for point in points]
        assert found.rows[row] == int(np.argmin(distances))
        assert found.distances[row] == pytest.approx(min(distances))


def test_a_copy_has_distance_zero_and_the_first_of_equal_points() -> None:
    points = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    points[4] = points[2]
    found = nearest(points[2:3], [points[:3], points[3:]])
    assert (found.rows.tolist(), found.distances.tolist()) == ([2], [0.0])


@pytest.fixture(scope="module")
def measured(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the stages make of 16 images, of which four are training images."""
    folder = tmp_path_factory.mktemp("neighbours")
    pixels, labels = digits()
    for name, rows in (("train", REAL), ("set", DRAWN), ("test", TEST)):
        write_images(folder / f"{name}.parquet", image_set_of(pixels[rows], labels[rows]), {})
    reference = world.networks["reference"]
    described = extract_features.Settings(reference="real")
    run = job("extract_features", described)
    features = {"data": folder / "train.parquet", "features": folder / "features.parquet", "reference": reference}
    extract_features.run(
        described, images=features["data"], reference=reference, features=features["features"], job=run
    )
    settings = measure_neighbours.Settings(seed=0, method="lgd", ipc=4)
    run = job("measure_neighbours", settings)
    files = {"images": folder / "set.parquet", "neighbours": folder / "lgd.parquet"}
    measure_neighbours.run(settings, **features, **files, job=run)
    held = measure_held_out_neighbours.Settings(seed=0)
    files = {"test": folder / "test.parquet", "neighbours": folder / "held.parquet"}
    measure_held_out_neighbours.run(held, **features, **files, job=job("measure_held_out_neighbours", held))
    return folder


def test_both_spaces_are_measured_and_copies_are_found(measured: Path, world: World) -> None:
    rows = read_table(measured / "lgd.parquet", "measure_neighbours").to_pandas()
    assert rows.groupby("space").size().to_dict() == {"features": 16, "pixels": 16}
    copies = rows[(rows["space"] == "pixels") & (rows["distance"] == 0)]
    assert copies["row"].tolist() == [0, 1, 2, 3] and copies["real_row"].tolist() == [196, 197, 198, 199]
    assert (copies["class"] == copies["real_class"]).all()
    pixels, _ = digits()
    one = rows[(rows["space"] == "pixels") & (rows["row"] == 9)].iloc[0]
    difference = (pixels[DRAWN][9].double() - pixels[one["real_row"]].double()) / 255
    assert one["distance"] == pytest.approx(float(difference.square().mean().sqrt()))
    real, drawn = (ImageTable(measured / f"{name}.parquet") for name in ("train", "set"))
    real_features = features_of(world.reference, real).numpy()
    found = real_neighbours(drawn, real, real_features, world.reference)["features"]
    distances = np.linalg.norm(features_of(world.reference, drawn).numpy()[:, None] - real_features[None], axis=2)
    assert found.distances == pytest.approx(distances.min(1), abs=1e-4)


def tabulated(measured: Path, tmp_path: Path) -> str:
    settings = tabulate_neighbours.Settings(methods=["lgd"], features="real", about=ABOUT)
    out = {"csv": tmp_path / "t.csv", "parquet": tmp_path / "t.parquet", "markdown": tmp_path / "t.md"}
    inputs = [measured / "lgd.parquet", measured / "held.parquet"]
    tabulate_neighbours.run(settings, neighbours=inputs, **out, job=job("tabulate_neighbours", settings))
    return out["markdown"].read_text("utf-8")


def test_the_table_counts_copies_and_near_images_beside_held_out_ones(measured: Path, tmp_path: Path) -> None:
    text = tabulated(measured, tmp_path)
    rows = {
        (row["method"], row["space"]): row
        for row in read_table(tmp_path / "t.parquet", "tabulate_neighbours").to_pylist()
    }
    assert rows["lgd", "pixels"]["copies"] == 4 and rows["lgd", "pixels"]["near_percent"] >= 25
    assert rows[HELD_OUT, "pixels"]["distance_median"] == pytest.approx(1)
    assert rows[HELD_OUT, "features"]["near_percent"] == pytest.approx(5, abs=2)
    assert (
        rows["lgd", "pixels"]["near_low"] < rows["lgd", "pixels"]["near_percent"] < rows["lgd", "pixels"]["near_high"]
    )
    assert "features of `real`" in text and list(rows)[-1][0] == HELD_OUT


def test_the_figures_are_drawn_with_their_scale(measured: Path, tmp_path: Path) -> None:
    files = {"png": tmp_path / "f.png", "svg": tmp_path / "f.svg"}
    both = [measured / "lgd.parquet", measured / "held.parquet"]
    settings = plot_neighbours.Settings(methods=["lgd"], features="real", about=ABOUT)
    plot_neighbours.run(settings, neighbours=both, **files, job=job("plot_neighbours", settings))
    svg = files["svg"].read_text("utf-8")
    assert "held-out 88" in svg.replace("<!-- ", "") and "lgd 16" in svg
    pairs = plot_neighbour_pairs.Settings(method="lgd", ipc=4, pairs=3, features="real", about=ABOUT)
    plot_neighbour_pairs.run(
        pairs,
        data=measured / "train.parquet",
        images=measured / "set.parquet",
        neighbours=both[0],
        held_out=both[1],
        **files,
        job=job("plot_neighbour_pairs", pairs),
    )
    assert "closest 3 of 16 images" in files["svg"].read_text("utf-8")


def test_without_a_distance_of_held_out_images_the_figure_says_that_there_is_no_scale(measured: Path) -> None:
    frames = [read_table(measured / f"{name}.parquet", "x").to_pandas() for name in ("lgd", "held")]
    frames[1]["distance"] = 0.0
    scaled = report.relative(report.pd.concat(frames))
    assert report.missing(scaled) == [
        f"no scale by {space}: half of the held-out images are copies of training images"
        for space in ("features", "pixels")
    ]


def test_the_classes_of_both_images_are_kept(measured: Path) -> None:
    rows = read_table(measured / "held.parquet", "measure_held_out_neighbours").to_pandas()
    assert set(rows["class"]) | set(rows["real_class"]) <= set(CLASSES) and set(rows["method"]) == {HELD_OUT}


def test_larger_images_find_the_copies_that_they_were_made_of(tmp_path: Path, world: World) -> None:
    """A set from elsewhere may have another size than the training images."""
    pixels, labels = digits()
    large = pixels[20:24].repeat_interleave(3, 2).repeat_interleave(3, 3)
    write_images(tmp_path / "large.parquet", image_set_of(large, labels[20:24]), {})
    write_images(tmp_path / "real.parquet", image_set_of(pixels[:60], labels[:60]), {})
    drawn, real = (ImageTable(tmp_path / f"{name}.parquet") for name in ("large", "real"))
    found = real_neighbours(drawn, real, features_of(world.reference, real).numpy(), world.reference)["pixels"]
    assert found.rows.tolist() == [20, 21, 22, 23] and found.distances.max() < 1e-6
