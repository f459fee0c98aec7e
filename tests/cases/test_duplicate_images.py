"""A picture that occurs more than once is named; a test set that holds training images is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_images import encoded, picture

from distillery.data import ingest as ingest_module
from distillery.data.decode import fitted, pixels_digest
from distillery.data.duplicates import Pictures, find_duplicates
from distillery.data.external import read_external, refuse_test_images
from distillery.data.settings import Dataset, Digits, Folder, Holdout, Resample, Validation
from distillery.errors import BadInput
from distillery.job import Job
from distillery.settings import canonical
from distillery.stages import ingest
from distillery.storage.images import decode_image, read_images
from distillery.storage.tables import read_table

NAMES = ("train", "test", "rejected", "duplicates")
SIZE = {"resolution": 32, "channels": "rgb", "crop": "center", "max_pixels": 10**6}


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def classes(root: Path, count: int, seed: int = 0) -> Path:
    for number, name in enumerate(("cat", "dog")):
        for row in range(count):
            put(root / name / f"{row}.png", encoded(picture(40, seed=1000 * seed + 100 * number + row)))
    return root


def run(out: Path, source: Any, **options: Any) -> list[dict[str, Any]]:
    """The rows of the table of duplicates."""
    settings = ingest.Settings(dataset=Dataset(source=source, **{"resolution": 32, **options}))
    names = [*NAMES, "validation"] if settings.dataset.validation else NAMES
    files = {name: out / f"{name}.parquet" for name in names}
    try:
        ingest.run(settings, **files, job=Job("ingest", canonical(settings), torch.device("cpu"), 1))
    finally:
        rows = read_table(files["duplicates"], "ingest").to_pylist()
    return rows


def split(tmp_path: Path, count: int = 4) -> tuple[Folder, Path, Path]:
    train, test = classes(tmp_path / "train", count), classes(tmp_path / "test", count, seed=1)
    return Folder(kind="folder", train=str(train), test=str(test)), train, test


def test_copies_are_named_with_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, train, test = split(tmp_path)
    put(train / "cat" / "copy.png", (train / "cat" / "0.png").read_bytes())  # in one class
    put(train / "dog" / "also a cat.png", (train / "cat" / "1.png").read_bytes())  # in two
    put(test / "dog" / "seen.bmp", encoded(picture(40, seed=102), "BMP"))  # other bytes, the pixels of dog/2.png
    rows = run(tmp_path / "out", source, max_leaked=0.2)
    assert [(row["group"], row["kind"], row["split"], row["class"], row["path"]) for row in rows] == [
        (0, "one class", "train", "cat", "cat/0.png"),
        (0, "one class", "train", "cat", "cat/copy.png"),
        (1, "two classes", "train", "cat", "cat/1.png"),
        (1, "two classes", "train", "dog", "dog/also a cat.png"),
        (2, "train and test", "train", "dog", "dog/2.png"),
        (2, "train and test", "test", "dog", "dog/seen.bmp"),
    ]
    said = "pictures that occur more than once: 1 in train and test, 1 in two classes, 1 in one class"
    assert said in capsys.readouterr().err


def test_a_share_of_test_images_that_are_training_images_is_refused_with_its_key(tmp_path: Path) -> None:
    source, train, test = split(tmp_path, 5)
    put(test / "cat" / "0.png", (train / "dog" / "3.png").read_bytes())
    said = r"dataset.max_leaked: 1 of 10 test images \(10.0%\) .* and 1.0% may be: test cat/0.png is train dog/3.png\."
    with pytest.raises(BadInput, match=said):
        run(tmp_path / "out", source)
    assert not (tmp_path / "out" / "test.parquet").exists()
    assert len(read_table(tmp_path / "out" / "duplicates.parquet", "ingest")) == 2
    assert len(run(tmp_path / "out", source, max_leaked=0.1)) == 2


def test_a_copy_of_the_training_set_is_no_test_set(tmp_path: Path) -> None:
    train, test = classes(tmp_path / "train", 3), classes(tmp_path / "test", 3)
    with pytest.raises(BadInput, match=r"6 of 6 test images \(100.0%\) are training images too"):
        run(tmp_path / "out", Folder(kind="folder", train=str(train), test=str(test)))


def test_copies_that_a_holdout_parts_are_counted(tmp_path: Path) -> None:
    train = classes(tmp_path / "train", 4)
    for row in range(4):
        put(train / "cat" / f"again-{row}.png", (train / "cat" / f"{row}.png").read_bytes())
    with pytest.raises(BadInput, match=r"dataset.max_leaked: \d of 6 test images"):
        run(tmp_path / "out", Folder(kind="folder", train=str(train)), holdout=Holdout(fraction=0.5))


def test_a_picture_in_validation_and_another_split_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, train, test = split(tmp_path, 6)
    options = {"validation": Validation(fraction=0.3), "max_leaked": 1.0}
    run(tmp_path / "first", source, **options)
    held = [path for path in read_images(tmp_path / "first" / "validation.parquet", "ingest").paths if "cat" in path]
    kept = [path for path in read_images(tmp_path / "first" / "train.parquet", "ingest").paths if "dog" in path]
    put(train / kept[0], (train / held[0]).read_bytes())
    put(test / "cat" / "0.png", (train / held[1]).read_bytes())
    rows = run(tmp_path / "out", source, **options)
    assert sorted((row["kind"], row["split"], row["path"]) for row in rows) == [
        ("train and validation", "train", kept[0]),
        ("train and validation", "validation", held[0]),
        ("validation and test", "test", "cat/0.png"),
        ("validation and test", "validation", held[1]),
    ]
    said = "pictures that occur more than once: 1 in train and validation, 1 in validation and test"
    assert said in capsys.readouterr().err
    with pytest.raises(BadInput, match=r"1 of 12 test images \(8.3%\) are training or validation images too"):
        run(tmp_path / "out", source, validation=options["validation"])
    put(test / "cat" / "0.png", encoded(picture(40, seed=7)))
    said = rf"1 of 4 validation images \(25.0%\) .*: validation {held[0]} is train {kept[0]}"
    with pytest.raises(BadInput, match=said):
        run(tmp_path / "out", source, validation=options["validation"])


def test_the_digits_hold_no_picture_twice(tmp_path: Path) -> None:
    assert run(tmp_path / "out", Digits(kind="digits"), resolution=8, channels="grey", holdout=Holdout()) == []


def test_near_duplicates_are_found_where_they_are_asked_for(tmp_path: Path) -> None:
    source, _, test = split(tmp_path)
    put(test / "cat" / "again.jpg", encoded(picture(40, seed=0), "JPEG", quality=80))
    assert run(tmp_path / "equal", source) == []
    rows = run(tmp_path / "near", source, near_duplicates=3, max_leaked=1.0)
    assert [(row["split"], row["path"]) for row in rows] == [("train", "cat/0.png"), ("test", "cat/again.jpg")]
    assert rows[0]["pixels"] != rows[1]["pixels"]


@pytest.mark.parametrize("bits", [0, 3, 7])
def test_near_hashes_are_those_that_all_pairs_give(bits: int) -> None:
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 2**63, 60, dtype=np.uint64)
    for row in range(20, 40):  # neighbours at a distance of 1 to 8 bits
        flips = rng.choice(64, row % 8 + 1, replace=False)
        looks[row] = looks[row - 20] ^ np.bitwise_or.reduce(np.uint64(1) << flips.astype(np.uint64))
    looks[40] = looks[41]
    names, nothing = [*map(str, range(60))], np.zeros(60, np.int64)
    images = Pictures(names, nothing, nothing, np.arange(60, dtype=np.uint64), looks)
    table = find_duplicates(images, ["one"], bits).table
    named = {int(path) for path in table["path"].to_pylist()}
    close = {
        row
        for row in range(60)
        if any(int(looks[row] ^ looks[other]).bit_count() <= bits for other in range(60) if other != row)
    }
    assert named == close and {40, 41} <= named


def test_many_copies_of_one_picture_are_one_group() -> None:
    count = 100_000
    images = Pictures(
        [*map(str, range(count))],
        np.repeat([0, 2], [count - count // 10, count // 10]),
        np.zeros(count, np.int64),
        np.full(count, 7, np.uint64),
        np.zeros(count, np.uint64),
    )
    twice = find_duplicates(images, ["one"], 3)
    assert twice.pictures == {"train and test": 1}
    assert twice.leaked["test"].images == count / 10 and len(twice.leaked["test"].examples) == 5
    assert len(twice.table) == count


def test_a_training_image_among_test_images_is_found_though_they_are_resized_otherwise(tmp_path: Path) -> None:
    source, train, test = split(tmp_path, 5)
    put(train / "dog" / "large.png", encoded(picture(50, seed=999)))
    put(test / "cat" / "same.png", encoded(picture(50, seed=999)))
    said = "test cat/same.png is train dog/large.png"
    with pytest.raises(BadInput, match=said):
        run(tmp_path / "out", source, resample=Resample(test="bilinear"))


def test_workers_and_order_change_no_byte_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "POOL_FROM", 0)
    monkeypatch.setattr(ingest_module, "CHUNK_IMAGES", 2)
    source, train, test = split(tmp_path)
    put(test / "cat" / "0.png", (train / "dog" / "3.png").read_bytes())
    dataset = Dataset(source=source, resolution=32, max_leaked=0.5, near_duplicates=2)
    made = []
    for workers in (1, 2):
        files = {name: tmp_path / str(workers) / f"{name}.parquet" for name in NAMES}
        ingest_module.ingest_images(dataset, **files, provenance={}, workers=workers)
        made.append([path.read_bytes() for path in files.values()])
    assert made[0] == made[1]


def test_the_digest_is_of_the_pixels_that_are_kept() -> None:
    one, same, other = encoded(picture(32)), encoded(picture(32), "TIFF"), encoded(picture(32, seed=1))
    digests = [fitted(content, **SIZE).digest for content in (one, same, other)]
    assert digests[0] == pixels_digest(decode_image(one))
    assert digests[0] == digests[1] != digests[2]
    assert fitted(one, **SIZE).look == 0 != fitted(one, **SIZE, look=True).look


def test_an_external_set_of_test_images_is_refused_though_they_are_resized_otherwise(tmp_path: Path) -> None:
    place, dataset = str(classes(tmp_path / "set", 2)), Dataset(source=Digits(kind="digits"), resolution=32)
    filters = [dataset.model_copy(update={"resample": Resample(train=name)}) for name in ("bicubic", "bilinear")]
    rows, as_tested = (read_external("methods.theirs", place, ["cat", "dog"], 2, each) for each in filters)
    tested = [decode_image(as_tested[3][2])]
    assert rows[3][2] != as_tested[3][2]
    refuse_test_images("methods.theirs", rows, tested, 0.0)
    with pytest.raises(BadInput, match=r"1 of 4 images are test or validation images, dog/1.png among them"):
        refuse_test_images("methods.theirs", rows, tested, 0.0, as_tested)


def test_an_external_set_of_test_images_is_refused(tmp_path: Path) -> None:
    dataset = Dataset(source=Digits(kind="digits"), resolution=32)
    rows = read_external("methods.theirs", str(classes(tmp_path / "set", 2)), ["cat", "dog"], 2, dataset)
    others = [decode_image(encoded(picture(32, seed=seed))) for seed in range(500, 510)]
    refuse_test_images("methods.theirs", rows, others, 0.0)
    leaked = [*others, decode_image(rows[3][2])]
    said = r"theirs.images: 1 of 4 images are test or validation images, dog/1.png among them, .* allows 1.0%"
    with pytest.raises(BadInput, match=said):
        refuse_test_images("methods.theirs", rows, leaked, 0.01)
    refuse_test_images("methods.theirs", rows, leaked, 0.25)
