"""What opening a set that was made elsewhere promises: its pictures as they are, under the labels of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import MADE_BY, SIDE, digits, image_set_of, job

from distillery.data.external import check_external, external_content, external_files, place_of, read_external
from distillery.data.settings import Dataset, Digits
from distillery.errors import BadInput
from distillery.stages import import_images
from distillery.storage.images import ImageSet, encode_png, read_images, write_images

DATA = Dataset(source=Digits(kind="digits"), resolution=SIDE, channels="grey")
CLASSES = ["3", "1"]


def picture(value: int, side: int = SIDE) -> bytes:
    return encode_png(np.full((1, side, side), value, dtype=np.uint8))


def folder(root: Path, **classes: list[int]) -> str:
    """Class folders (without the leading n) of grey pictures of these values."""
    for name, values in classes.items():
        (root / name[1:]).mkdir(parents=True)
        for number, value in enumerate(values):
            (root / name[1:] / f"{number}.png").write_bytes(picture(value))
    return str(root)


def test_a_folder_has_the_labels_of_the_data_and_its_order_within_a_class(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", n1=[10, 20], n3=[30, 40], n7=[50])
    rows = read_external("methods.theirs", place, CLASSES, 2, DATA)
    assert [(label, name) for label, name, _ in rows] == [
        (0, "3/0.png"),
        (1, "1/0.png"),
        (0, "3/1.png"),
        (1, "1/1.png"),
    ]
    assert [content for _, _, content in rows] == [picture(value) for value in (30, 10, 40, 20)]


def test_a_set_of_this_project_opens_as_it_was_written(tmp_path: Path) -> None:
    pixels, labels = (values[:40] for values in digits())
    rows = [int(row) for label in (0, 1) for row in np.flatnonzero(labels.numpy() == label)[:2]]
    real = image_set_of(pixels, labels)
    write_images(tmp_path / "train.parquet", real, MADE_BY)
    write_images(tmp_path / "theirs-2.parquet", real.take(np.array(rows)), MADE_BY)
    settings = import_images.Settings(name="theirs", images=str(tmp_path / "theirs-2.parquet"), ipc=2, dataset=DATA)
    with pytest.raises(BadInput, match="no class 'two'; there are: zero, one"):
        import_images.run(
            settings,
            data=tmp_path / "train.parquet",
            test=tmp_path / "test.parquet",
            images=tmp_path / "o",
            job=job("import_images", settings),
        )
    two = real.take(np.flatnonzero(labels.numpy() < 2))
    two = ImageSet(two.images, two.labels, two.classes[:2], two.paths, {})
    write_images(tmp_path / "two.parquet", two, MADE_BY)
    write_images(tmp_path / "test.parquet", two.take(np.array([10, 11])), MADE_BY)
    import_images.run(
        settings,
        data=tmp_path / "two.parquet",
        test=tmp_path / "test.parquet",
        images=tmp_path / "o",
        job=job("import_images", settings),
    )
    opened = read_images(tmp_path / "o", "import_images")
    assert opened.classes == real.classes[:2] and opened.columns["slot"].tolist() == [0, 0, 1, 1]
    assert opened.labels.tolist() == [0, 1, 0, 1]
    wanted = real.take(np.array([rows[0], rows[2], rows[1], rows[3]]))
    assert sorted(opened.images) == sorted(wanted.images)


def test_a_picture_of_another_side_becomes_one_of_the_data(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", n1=[10], n3=[30])
    (tmp_path / "set" / "3" / "0.png").write_bytes(picture(30, side=2 * SIDE))
    assert read_external("methods.theirs", place, CLASSES, 1, DATA)[0][2] == picture(30)


def test_places_are_named_by_size_and_seed(tmp_path: Path) -> None:
    assert place_of("a/{seed}/ipc{ipc}", 10, 3) == "a/3/ipc10"
    assert external_files("a/{ipc}.parquet", 10, 0) == ["a/10.parquet"]
    place = folder(tmp_path / "set", n1=[10], n3=[30])
    assert external_files(place, 1, 0) == []
    before = external_content(place, 1, 0)
    (tmp_path / "set" / "1" / "more.png").write_bytes(picture(1))
    assert before and external_content(place, 1, 0) != before


def faults(images: str, sizes: list[int]) -> list[str]:
    return list(check_external("methods.theirs", images, sizes, [0], CLASSES))


def test_what_is_wrong_with_a_set_is_said_without_reading_an_image(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", n1=[10, 11], n3=[30, 31])
    for file in (tmp_path / "set" / "1").iterdir():
        file.write_bytes(b"no picture")
    assert faults(place, [2]) == []
    assert faults(place, [1]) == [f"methods.theirs.images: {place}: 2 images of class '3', but ipc asks for 1"]
    assert faults(place, [1, 2]) == [
        "methods.theirs.images: one place for the sizes 1, 2; put {ipc} where the number stands in their names"
    ]
    [line] = faults(str(tmp_path / "nowhere-{ipc}.parquet"), [2])
    assert line.startswith(f"methods.theirs.images: {tmp_path / 'nowhere-2.parquet'}: no such file")
    other = folder(tmp_path / "other", n1=[1, 2])
    assert faults(other, [2]) == [f"methods.theirs.images: {other}: no class '3'; there are: 1"]


def test_a_picture_that_cannot_be_read_is_named_and_not_left_out(tmp_path: Path) -> None:
    place = folder(tmp_path / "set", n1=[10], n3=[30])
    (tmp_path / "set" / "1" / "0.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"methods.theirs.images: .*set/1/0.png: not an image.*replace it"):
        read_external("methods.theirs", place, CLASSES, 1, DATA)


def test_a_set_that_holds_validation_images_is_refused(tmp_path: Path) -> None:
    tables = {name: tmp_path / f"{name}.parquet" for name in ("train", "test", "validation")}
    for number, path in enumerate(tables.values()):
        values = [10 * number, 10 * number + 5]
        images = ImageSet([picture(value) for value in values], np.array([0, 1]), CLASSES, ["a", "b"])
        write_images(path, images, MADE_BY)
    place = folder(tmp_path / "set", n3=[20], n1=[99])
    settings = import_images.Settings(name="theirs", images=place, ipc=1, dataset=DATA)
    files = {"data": tables["train"], "test": tables["test"], "images": tmp_path / "out.parquet"}
    run = job("import_images", settings)
    with pytest.raises(BadInput, match=r"methods.theirs.images: 1 of 2 images are test or validation images, 3/0.png"):
        import_images.run(settings, **files, validation=tables["validation"], job=run)
    import_images.run(settings, **files, job=run)
