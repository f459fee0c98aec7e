"""What reading a data set promises: every image is taken as a viewer shows it, or left out with a reason."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from broken_images import BROKEN, encoded, picture
from PIL import Image, ImageCms

from distillery.data import ingest as ingest_module
from distillery.data.decode import fit_image
from distillery.data.digits import DIGITS
from distillery.data.ingest import hold_out
from distillery.data.pixels import load_pixels, to_bytes, to_unit
from distillery.data.settings import Dataset, Digits, Folder, Holdout, Parquet, Resample, Validation
from distillery.data.sources import (
    class_list,
    class_names,
    records,
)
from distillery.errors import BadInput, Unusable
from distillery.job import Job
from distillery.settings import canonical
from distillery.stages import ingest
from distillery.storage.images import ImageSet, image_table, read_images
from distillery.storage.tables import read_table

HALF = Holdout(fraction=0.5, seed=0)


class Made:
    """The files of one run of the stage."""

    def __init__(self, folder: Path) -> None:
        self.train, self.test, self.rejected = (folder / f"{name}.parquet" for name in ("train", "test", "rejected"))
        self.duplicates = folder / "duplicates.parquet"
        self.validation = folder / "validation.parquet"

    def bytes(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.train, self.test, self.rejected, self.duplicates)]

    def reasons(self) -> dict[str, str]:
        table = read_table(self.rejected, "ingest")
        assert table.column_names == ["path", "reason"]
        return dict(zip(table["path"].to_pylist(), table["reason"].to_pylist(), strict=True))

    def ids(self) -> tuple[list[str], list[str]]:
        return read_images(self.train, "ingest").paths, read_images(self.test, "ingest").paths

    def everything(self) -> dict[str, bytes]:
        both = [read_images(path, "ingest") for path in (self.train, self.test)]
        return {path: image for one in both for path, image in zip(one.paths, one.images, strict=True)}


def make(out: Path, source: Any, threads: int = 1, **options: Any) -> Made:
    made = Made(out)
    dataset = Dataset(source=source, **{"resolution": 32, "max_leaked": 1.0, **options})
    settings = ingest.Settings(dataset=dataset)
    job = Job("ingest", canonical(settings), torch.device("cpu"), threads)
    paths = {"train": made.train, "test": made.test, "rejected": made.rejected, "duplicates": made.duplicates}
    ingest.run(settings, **paths, validation=made.validation if dataset.validation else None, job=job)
    return made


def folder_of(root: Path, counts: dict[str, int], side: int = 32) -> Folder:
    """A folder source with so many images per class."""
    for number, (name, images) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            (root / name / f"{i:03}.png").write_bytes(encoded(picture(side, seed=1000 * number + i)))
    return Folder(kind="folder", train=str(root))


def fit(content: bytes, **options: Any) -> np.ndarray:
    """What becomes of one image, (H, W) or (H, W, 3)."""
    defaults = {"resolution": 32, "channels": "rgb", "crop": "center", "max_pixels": 10**8}
    with Image.open(io.BytesIO(fit_image(content, **{**defaults, **options}))) as image:
        assert image.mode == ("L" if options.get("channels") == "grey" else "RGB")
        return np.asarray(image)


# ---- what is rejected ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_rejected_with_its_reason_and_the_run_goes_on(kind: str, tmp_path: Path) -> None:
    maker, reason = BROKEN[kind]
    source = folder_of(tmp_path / "in", {"cat": 3, "dog": 3})
    bad = tmp_path / "in" / "cat" / "bad.jpg"
    bad.write_bytes(maker())
    made = make(tmp_path / "out", source, holdout=HALF, max_rejected=0.5, max_pixels=200 * 200)
    assert list(made.reasons()) == [str(bad)]
    assert any(part in made.reasons()[str(bad)] for part in reason.split("|"))
    assert len(made.everything()) == 6


@pytest.mark.parametrize("kind", BROKEN)
def test_a_reason_is_the_same_in_every_run(kind: str) -> None:
    reasons = set()
    for _ in range(2):
        with pytest.raises(Unusable) as caught:
            fit(BROKEN[kind][0](), max_pixels=200 * 200)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop()


def test_a_dangling_link_and_a_pipe_do_not_stop_a_run(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"cat": 3, "dog": 3})
    (tmp_path / "in" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "in" / "cat" / "pipe.png")
    (tmp_path / "in" / "dog" / "again").symlink_to(tmp_path / "in")
    made = make(tmp_path / "out", source, holdout=HALF, max_rejected=0.5)
    cat = tmp_path / "in" / "cat"
    assert {path: reason.lower() for path, reason in made.reasons().items()} == {
        str(cat / "gone.png"): "cannot be read: no such file or directory",
        str(cat / "pipe.png"): "cannot be read: a named pipe",
    }
    assert len(made.everything()) == 6


def test_too_many_rejected_images_stop_the_run_and_the_table_names_them(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"cat": 5, "dog": 5})
    for i in range(2):
        (tmp_path / "in" / "dog" / f"00{i}.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"dataset.max_rejected: 2 of 10 train images \(20.0%\).*000.png: zero bytes"):
        make(tmp_path / "out", source, holdout=HALF)
    made = Made(tmp_path / "out")
    assert len(made.reasons()) == 2
    assert not made.train.exists() and not made.test.exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["duplicates.parquet", "rejected.parquet"]
    assert read_table(tmp_path / "out/duplicates.parquet", "ingest").num_rows == 0


def test_exactly_the_allowed_share_may_be_rejected(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"cat": 5, "dog": 5})
    (tmp_path / "in" / "dog" / "000.png").write_bytes(b"")
    assert len(make(tmp_path / "out", source, holdout=HALF, max_rejected=0.1).everything()) == 9


def test_a_class_that_falls_empty_stops_the_run_and_the_table_says_why(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"cat": 3, "dog": 1})
    (tmp_path / "in" / "dog" / "000.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"dataset.source.train: 1 of 2 classes have no usable image: 'dog'"):
        make(tmp_path / "out", source, holdout=HALF, max_rejected=1.0)
    assert len(Made(tmp_path / "out").reasons()) == 1


def test_the_table_of_rejected_images_has_its_columns_even_when_it_is_empty(tmp_path: Path) -> None:
    made = make(tmp_path / "out", folder_of(tmp_path / "in", {"a": 2, "b": 2}), holdout=HALF)
    assert made.reasons() == {}
    assert read_table(made.rejected, "ingest").schema.types == [pa.string(), pa.string()]


# ---- how an image is taken -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_bytes_of_an_image_that_fits_are_kept(kind: str) -> None:
    content = encoded(picture(32), kind, exif=Image.Exif(), icc_profile=ImageCms.ImageCmsProfile(srgb()).tobytes())
    assert fit_image(content, resolution=32, channels="rgb", crop="center", max_pixels=10**6) == content


def srgb() -> Any:
    return ImageCms.createProfile("sRGB")


def test_the_bytes_of_an_image_that_does_not_fit_are_not_kept() -> None:
    for content in (
        encoded(picture(33)),
        encoded(picture(32).convert("L")),
        encoded(picture(32).convert("P")),
        encoded(picture(32), "BMP"),
        encoded(picture(32), "JPEG", exif=orientation(6)),
    ):
        made = fit_image(content, resolution=32, channels="rgb", crop="center", max_pixels=10**6)
        assert made != content and made[:4] == b"\x89PNG"


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_exif_orientation_is_applied() -> None:
    upright = picture(32)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    np.testing.assert_array_equal(fit(encoded(lying, exif=orientation(6))), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_cost_the_image() -> None:
    content = encoded(picture(40), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    np.testing.assert_array_equal(fit(content), fit(encoded(Image.open(io.BytesIO(content)).convert("RGB"))))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    expected = np.rint(ramp.astype(np.uint16) / 257)
    for kind in ("PNG", "TIFF"):
        content = encoded(Image.fromarray(ramp.astype(np.uint16)), kind)
        np.testing.assert_array_equal(fit(content, channels="grey"), expected)
        np.testing.assert_array_equal(fit(content), np.repeat(expected[..., None], 3, -1))
    content = encoded(Image.fromarray(ramp.astype(np.int32)), "TIFF")
    np.testing.assert_array_equal(fit(content, channels="grey"), expected)


def test_colour_and_grey_become_each_other_as_in_pillow() -> None:
    colour = picture(32)
    np.testing.assert_array_equal(fit(encoded(colour), channels="grey"), np.asarray(colour.convert("L")))
    grey = colour.convert("L")
    np.testing.assert_array_equal(fit(encoded(grey)), np.asarray(grey.convert("RGB")))


def test_palette_and_bilevel_images_have_the_colours_that_a_viewer_shows() -> None:
    for image in (picture(32).quantize(16), picture(32).convert("1")):
        np.testing.assert_array_equal(fit(encoded(image)), np.asarray(image.convert("RGB")))


def test_what_is_transparent_is_black_whatever_colour_hides_there() -> None:
    colour = np.asarray(picture(32))
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, :16] = 255
    hidden = Image.fromarray(np.dstack([colour, alpha]))
    expected = np.where(alpha[..., None] == 255, colour, 0)
    np.testing.assert_array_equal(fit(encoded(hidden)), expected)
    palette = Image.fromarray(np.tile(np.uint8([[0, 1]]), (32, 16)))
    palette = palette.convert("P")
    palette.putpalette([200, 10, 10, 10, 200, 10])
    pixels = fit(encoded(palette, transparency=1))
    assert {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} == {(200, 10, 10), (0, 0, 0)}


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    np.testing.assert_array_equal(fit(encoded(picture(32).convert("RGBA"))), np.asarray(picture(32)))


def test_cmyk_is_converted() -> None:
    content = encoded(picture(32).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(fit(content).astype(int) - np.asarray(picture(32)).astype(int)).mean() < 6


def test_a_colour_profile_of_rubbish_does_not_cost_the_image() -> None:
    content = encoded(picture(40), icc_profile=b"rubbish")
    np.testing.assert_array_equal(fit(content), fit(encoded(picture(40))))


def test_the_first_picture_of_a_phones_mpo_is_taken() -> None:
    content = encoded(picture(32), "MPO", save_all=True, append_images=[picture(32, seed=9)], quality=95)
    assert np.abs(fit(content).astype(int) - np.asarray(picture(32)).astype(int)).mean() < 6


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (32, 45), (20, 16), (33, 500)])
def test_center_is_the_middle_of_the_image_scaled_by_its_shorter_side(size: tuple[int, int]) -> None:
    image = picture(*size)
    scale = 32 / min(size)
    whole = image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BICUBIC)
    left, top = (whole.width - 32) // 2, (whole.height - 32) // 2
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32))).astype(int)
    assert np.abs(fit(encoded(image)).astype(int) - expected).mean() < 3


def test_stretch_shows_the_whole_image() -> None:
    image = picture(60, 40)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(fit(encoded(image), crop="stretch"), expected)


def test_pad_shows_the_whole_image_on_black() -> None:
    pixels = fit(encoded(Image.new("RGB", (60, 30), (9, 99, 199))), crop="pad")
    assert (pixels[8:24] == (9, 99, 199)).all()
    assert (pixels[:8] == 0).all() and (pixels[24:] == 0).all()


@pytest.mark.parametrize("crop", ["center", "stretch", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 1)])
def test_a_strip_of_one_pixel_passes(size: tuple[int, int], crop: str) -> None:
    assert fit(encoded(Image.new("RGB", size, (7, 7, 7))), crop=crop).shape == (32, 32, 3)


def test_reducing_an_image_is_antialiased() -> None:
    stripes = np.tile(np.uint8([0, 255]), (256, 128))
    assert np.abs(fit(encoded(Image.fromarray(stripes)), channels="grey").astype(int) - 127).max() < 8


# ---- what is written -------------------------------------------------------------------------------------------------


def test_test_images_have_the_filter_of_their_protocol_and_training_images_another(tmp_path: Path) -> None:
    """Bilinear is what torchvision's `Resize` and `CenterCrop` do to the shorter side, unless it is told otherwise."""
    source = folder_of(tmp_path / "train", {"cat": 2, "dog": 2}, side=48)
    folder_of(tmp_path / "test", {"cat": 1, "dog": 1}, side=50)
    source = source.model_copy(update={"test": str(tmp_path / "test")})
    made = make(tmp_path / "out", source, resample=Resample(test="bilinear"))
    for path, folder, kernel in (
        (made.train, "train", Image.Resampling.BICUBIC),
        (made.test, "test", Image.Resampling.BILINEAR),
    ):
        first = load_pixels(path)[0][0].permute(1, 2, 0).numpy()
        with Image.open(tmp_path / folder / "cat" / "000.png") as image:
            assert np.array_equal(first, np.asarray(image.convert("RGB").resize((32, 32), kernel)))


def test_images_of_any_size_and_kind_become_one_table(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i, (image, kind) in enumerate(
            [
                (picture(90, 50), "JPEG"),
                (picture(12), "PNG"),
                (picture(40).convert("L"), "PNG"),
                (picture(33).convert("P"), "GIF"),
                (picture(32).convert("RGBA"), "WEBP"),
                (picture(64).convert("CMYK"), "TIFF"),
            ]
        ):
            (root / name / f"{i}.{kind.lower()}").write_bytes(encoded(image, kind))
    made = make(tmp_path / "out", Folder(kind="folder", train=str(root)), holdout=HALF)
    assert made.reasons() == {}
    pixels, labels, classes, paths = load_pixels(made.train)
    assert pixels.shape == (6, 3, 32, 32) and pixels.dtype == torch.uint8
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] and labels.dtype == torch.int64
    assert classes == ["a", "b"]
    assert paths == sorted(paths)


def test_a_table_holds_image_and_label_in_the_hugging_face_layout_and_its_provenance(tmp_path: Path) -> None:
    made = make(tmp_path / "out", folder_of(tmp_path / "in", {"cat": 2, "dog": 2}), holdout=HALF)
    schema = pq.read_schema(made.train)
    assert schema.names == ["image", "label"]
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    assert json.loads(schema.metadata[b"distillery"])["stage"] == "ingest"


def test_rows_are_sorted_by_label_and_id_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillery.storage.images.ROW_GROUP", 4)
    source = folder_of(tmp_path / "in", {"b": 7, "a": 7})
    made = make(tmp_path / "out", source, holdout=HALF, classes=["b", "a"])
    images = read_images(made.train, "ingest")
    rows = list(zip(images.labels.tolist(), images.paths, strict=True))
    assert rows == sorted(rows) and images.paths[0].startswith("b/")
    assert pq.ParquetFile(made.train).num_row_groups == 2


def test_odd_names_are_ids(tmp_path: Path) -> None:
    root = tmp_path / "in"
    names = ["Füchse & co/ein Bild.PNG", "Füchse & co/日本/%20'.png", "b c/no suffix", "b c/x.jpeg.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(picture(32)))
    for hidden in (".DS_Store", "b c/.hidden.png", ".trash/a.png", "b c/.ipynb_checkpoints/a.png"):
        (root / hidden).parent.mkdir(parents=True, exist_ok=True)
        (root / hidden).write_bytes(b"rubbish")
    made = make(tmp_path / "out", Folder(kind="folder", train=str(root)), holdout=HALF)
    assert sorted(made.everything()) == sorted(names)
    assert read_images(made.train, "ingest").classes == ["Füchse & co", "b c"]


def test_a_name_that_is_not_utf8_passes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 1, "b": 2})
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/in/a/\xff.png")).write_bytes(encoded(picture(32)))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "a/\\xff.png" in make(tmp_path / "out", source, holdout=HALF).everything()


def test_two_runs_are_byte_identical(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"cat": 6, "dog": 6}, side=40)
    (tmp_path / "in" / "cat" / "bad.png").write_bytes(b"no image")
    one, two = (make(tmp_path / out, source, holdout=HALF, max_rejected=0.5) for out in ("one", "two"))
    assert one.bytes() == two.bytes()


def test_several_workers_write_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "POOL_FROM", 0)
    monkeypatch.setattr(ingest_module, "CHUNK_IMAGES", 3)
    source = folder_of(tmp_path / "in", {"cat": 20, "dog": 20}, side=40)
    (tmp_path / "in" / "cat" / "bad.png").write_bytes(b"no image")
    dataset = Dataset(source=source, resolution=32, holdout=HALF, max_rejected=0.5)
    made = []
    for workers in (1, 3):
        one = Made(tmp_path / str(workers))
        paths = {"train": one.train, "test": one.test, "rejected": one.rejected, "duplicates": one.duplicates}
        ingest_module.ingest_images(dataset, **paths, provenance={}, workers=workers)
        made.append(one.bytes())
    assert made[0] == made[1]


# ---- split and classes -----------------------------------------------------------------------------------------------


def test_the_digits_are_split_by_class(tmp_path: Path) -> None:
    made = make(tmp_path / "out", Digits(kind="digits"), resolution=8, channels="grey", holdout=Holdout())
    train, train_labels, classes, ids = load_pixels(made.train)
    test, test_labels, _, test_ids = load_pixels(made.test)
    assert classes == [str(digit) for digit in range(10)]
    assert len(train) + len(test) == 1797 and len({*ids, *test_ids}) == 1797
    assert train.shape[1:] == (1, 8, 8)
    assert int(train.max()) == 255 and int(train.min()) == 0
    all_counts, test_counts = Counter([*train_labels.tolist(), *test_labels.tolist()]), Counter(test_labels.tolist())
    assert test_counts == {label: int(images / 4 + 0.5) for label, images in all_counts.items()}
    assert "digits/00017" in {*ids, *test_ids}


def test_the_holdout_depends_on_the_seed_only_through_its_stream() -> None:
    ids = [f"a/{i}" for i in range(40)]
    assert hold_out(ids, "a", 0.25, 0) == hold_out(reversed(ids), "a", 0.25, 0)
    assert len(hold_out(ids, "a", 0.25, 0)) == 10
    assert hold_out(ids, "a", 0.25, 0) != hold_out(ids, "a", 0.25, 1)
    assert hold_out(ids, "a", 0.25, 0) != hold_out(ids, "a", 0.25, 0, "validation")


def test_another_class_does_not_change_the_holdout(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 9, "b": 9, "c": 9})
    few = make(tmp_path / "few", source, holdout=HALF, classes=["c", "a"]).ids()
    many = make(tmp_path / "many", source, holdout=HALF).ids()
    for subset, full in zip(few, many, strict=True):
        assert sorted(subset) == [name for name in full if not name.startswith("b/")]


@pytest.mark.parametrize("block", ["holdout", "validation"])
def test_one_image_more_moves_at_most_one_other(block: Any) -> None:
    ids = [f"a/{i}" for i in range(40)]
    held = hold_out(ids, "a", 0.25, 0, block)
    for number in range(40):
        more = hold_out([*ids, f"a/new-{number}"], "a", 0.25, 0, block)
        assert len(held ^ (more - {f"a/new-{number}"})) <= 1


def test_validation_images_are_a_share_of_each_class_that_is_in_no_other_split(tmp_path: Path) -> None:
    counts = {"a": 20, "b": 8, "c": 4}
    source = folder_of(tmp_path / "in", counts)
    made = make(tmp_path / "out", source, holdout=HALF, validation=Validation(fraction=0.25))
    validation, test = (
        Counter(path.partition("/")[0] for path in read_images(table, "ingest").paths)
        for table in (made.validation, made.test)
    )
    assert test == {"a": 10, "b": 4, "c": 2} and validation == {"a": 3, "b": 1, "c": 1}
    ids = [*read_images(made.validation, "ingest").paths, *made.ids()[0], *made.ids()[1]]
    assert len(set(ids)) == len(ids) == sum(counts.values())


def test_validation_images_are_taken_from_training_images_alone(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 20, "b": 9})
    plain = make(tmp_path / "plain", source, holdout=HALF)
    made = make(tmp_path / "out", source, holdout=HALF, validation=Validation())
    validation = read_images(made.validation, "ingest").paths
    assert made.ids()[1] == plain.ids()[1]
    assert sorted([*made.ids()[0], *validation]) == sorted(plain.ids()[0])
    assert not plain.validation.exists()


def test_the_validation_images_depend_on_their_seed_and_on_no_order_of_reading(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 20, "b": 9})
    tables = [
        make(tmp_path / f"{number}", source, holdout=HALF, validation=Validation(fraction=0.5, seed=seed)).validation
        for number, seed in enumerate((0, 0, 1))
    ]
    first, again, other = (read_images(table, "ingest").paths for table in tables)
    assert first == again != other


def test_a_class_of_one_training_image_has_none_for_validation(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 9, "b": 2})
    with pytest.raises(BadInput, match=r"dataset.validation: class 'b' has 1 image, and two are needed"):
        make(tmp_path / "out", source, holdout=HALF, validation=Validation())


@pytest.mark.parametrize(("images", "fraction", "held"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.01, 1), (10, 0.99, 9)])
def test_each_class_has_an_image_on_each_side(images: int, fraction: float, held: int) -> None:
    assert len(hold_out([str(i) for i in range(images)], "a", fraction, 0)) == held


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"dataset.holdout: class 'b' has 1 image"):
        make(tmp_path / "out", folder_of(tmp_path / "in", {"a": 3, "b": 1}), holdout=HALF)


def test_a_holdout_is_asked_for_where_it_is_needed(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"dataset.holdout: the source has no test images"):
        make(tmp_path / "out", Digits(kind="digits"))
    with pytest.raises(BadInput, match=r"dataset.holdout.fraction: 0 leaves one side empty"):
        make(tmp_path / "out", Digits(kind="digits"), holdout=Holdout(fraction=0.0))


def test_a_test_split_of_the_source_is_taken_as_it_is(tmp_path: Path) -> None:
    train = folder_of(tmp_path / "train", {"a": 3, "b": 3})
    folder_of(tmp_path / "test", {"a": 2, "b": 1, "not trained": 2})
    source = Folder(kind="folder", train=train.train, test=str(tmp_path / "test"))
    assert source.has_test and not train.has_test
    train_ids, test_ids = make(tmp_path / "out", source).ids()
    assert len(train_ids) == 6
    assert test_ids == ["a/000.png", "a/001.png", "b/000.png"]


def test_test_images_may_be_those_whose_names_begin_so(tmp_path: Path) -> None:
    train = folder_of(tmp_path / "train", {"a": 3, "b": 3})
    folder_of(tmp_path / "test", {"a": 2, "b": 2})
    for name in ("a", "b"):
        (tmp_path / "test" / name / "000.png").rename(tmp_path / "test" / name / "val_0.png")
    source = Folder(kind="folder", train=train.train, test=str(tmp_path / "test"))
    train_ids, test_ids = make(tmp_path / "out", source, test_names="val_").ids()
    assert len(train_ids) == 6 and test_ids == ["a/val_0.png", "b/val_0.png"]
    png = encoded(picture(32))
    write_rows(tmp_path / "train.parquet", [(png, f"n/{row}.png", row % 2) for row in range(4)], ["a", "b"])
    names = [f"x/{'val_' if row > 1 else ''}{row}.png" for row in range(4)]
    write_rows(tmp_path / "test.parquet", [(png, name, row % 2) for row, name in enumerate(names)], ["a", "b"])
    table = parquet(tmp_path / "train.parquet", test=[tmp_path / "test.parquet"])
    assert make(tmp_path / "rows", table, test_names="val_").ids()[1] == ["x/val_2.png", "x/val_3.png"]
    with pytest.raises(BadInput, match=r"dataset.test_names: no test image has a file name that begins with 'other'"):
        make(tmp_path / "none", source, test_names="other")


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of(tmp_path / "in", {"a": 3, "b": 3})
    with (tmp_path / "in" / "a" / "film.png").open("wb") as file:
        file.truncate(2**40)  # a hole, which takes no room: reading it would end the run
    made = make(tmp_path / "out", source, holdout=HALF, max_rejected=0.5)
    assert list(made.reasons().values()) == ["cannot be read: larger than 256 MiB"]


def test_a_class_without_a_test_image_stops_the_run(tmp_path: Path) -> None:
    train = folder_of(tmp_path / "train", {"a": 3, "b": 3})
    folder_of(tmp_path / "test", {"a": 2})
    source = Folder(kind="folder", train=train.train, test=str(tmp_path / "test"))
    with pytest.raises(BadInput, match=r"dataset.source.test: 1 of 2 classes have no usable image: 'b'"):
        make(tmp_path / "out", source)


def test_the_class_list_gives_the_labels_and_leaves_the_others_out(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 2, "b": 2, "c": 2})
    (tmp_path / "in" / "b" / "bad.png").write_bytes(b"rubbish in a class that nobody asked for")
    made = make(tmp_path / "out", source, holdout=HALF, classes=["c", "a"])
    images = read_images(made.train, "ingest")
    assert images.classes == ["c", "a"]
    assert [path[0] for path in images.paths] == ["c", "a"] and images.labels.tolist() == [0, 1]
    assert made.reasons() == {}


def test_classes_are_sorted_as_text_unless_they_are_listed(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"10": 1, "2": 1, "B": 1, "a": 1})
    assert class_list(Dataset(source=source, resolution=32)) == ["10", "2", "B", "a"]


def test_a_class_list_is_checked_against_the_source(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"a": 2, "b": 2})
    with pytest.raises(BadInput, match=r"dataset.classes: no class 'z' in the data; there are: a, b"):
        make(tmp_path / "out", source, holdout=HALF, classes=["a", "z"])
    with pytest.raises(BadInput, match=r"dataset.classes: 'a' stands there more than once"):
        make(tmp_path / "out", source, holdout=HALF, classes=["a", "a"])


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named_with_its_key(tmp_path: Path) -> None:
    there = folder_of(tmp_path / "in", {"a": 2, "b": 2}).train
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"dataset.source.train: .*nowhere: no such folder"):
        class_names(Folder(kind="folder", train=nowhere))
    with pytest.raises(ValueError, match=r"dataset.source.test: .*nowhere: no such folder"):
        class_names(Folder(kind="folder", train=there, test=nowhere))
    with pytest.raises(ValueError, match=r"dataset.source.train: .*holds no class folder"):
        class_names(Folder(kind="folder", train=f"{there}/a"))
    with pytest.raises(ValueError, match=r"dataset.source.train: .*: a file"):
        class_names(Folder(kind="folder", train=f"{there}/a/000.png"))


def test_a_file_that_is_not_parquet_is_named_with_its_key(tmp_path: Path) -> None:
    pointer, text = tmp_path / "pointer.parquet", tmp_path / "text.parquet"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    text.write_text("hello")
    for path, what in (
        (tmp_path / "nowhere.parquet", "no such file"),
        (tmp_path, "a folder"),
        (pointer, "a Git LFS pointer"),
        (text, "not a whole Parquet file"),
    ):
        with pytest.raises(ValueError, match=f"dataset.source.train: {path}: {what}"):
            class_names(parquet(path))


def parquet(*train: Path, test: Sequence[Path] = (), **options: Any) -> Parquet:
    return Parquet(kind="parquet", train=[str(path) for path in train], test=[str(path) for path in test], **options)


def write_rows(
    path: Path, rows: list[tuple[bytes | None, str | None, Any]], names: list[str] | None, **kind: Any
) -> Path:
    """A Parquet file of (bytes, path, label) in the Hugging Face layout."""
    images = pa.array([{"bytes": content, "path": name} for content, name, _ in rows])
    table = pa.table({"image": images, "label": pa.array([label for *_, label in rows], kind.get("label_type"))})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)
    return path


def some_rows(labels: Sequence[Any], first: int = 0) -> list[tuple[bytes | None, str | None, Any]]:
    return [(encoded(picture(32, seed=first + i)), f"{first + i}.png", label) for i, label in enumerate(labels)]


def test_images_class_names_and_paths_survive_the_hugging_face_layout(tmp_path: Path) -> None:
    names = ["zebra", "ant", "unused"]
    one = write_rows(tmp_path / "one.parquet", some_rows([0, 1, 0, 1]), names)
    two = write_rows(tmp_path / "two.parquet", some_rows([1, 0], first=10), names)
    test = write_rows(tmp_path / "test.parquet", some_rows([1, 0], first=20), names)
    source = parquet(one, two, test=[test])
    assert class_names(source) == ["zebra", "ant"]
    assert source.files == [str(one), str(two), str(test)]
    made = make(tmp_path / "out", source)
    images = read_images(made.train, "ingest")
    assert images.classes == ["zebra", "ant"]
    assert list(zip(images.labels.tolist(), images.paths, strict=True)) == [
        *((0, name) for name in ("0.png", "11.png", "2.png")),
        *((1, name) for name in ("1.png", "10.png", "3.png")),
    ]
    assert images.images[4] == encoded(picture(32, seed=10))
    again = make(tmp_path / "again", parquet(made.train, test=[made.test]))
    assert read_images(again.train, "ingest").images == images.images
    assert read_images(again.train, "ingest").paths == images.paths


def test_our_own_tables_are_a_source(tmp_path: Path) -> None:
    images = ImageSet([encoded(picture(32))] * 4, np.array([0, 1, 1, 0]), ["x", "y"], ["a", "b", "c", "d"])
    pq.write_table(image_table(images), tmp_path / "set.parquet")
    assert sorted(make(tmp_path / "out", parquet(tmp_path / "set.parquet"), holdout=HALF).everything()) == [*"abcd"]


@pytest.mark.parametrize("paths", [[None] * 4, ["same.png"] * 4, ["", "b", "c", "d"]])
def test_rows_without_paths_of_their_own_are_named_by_file_and_row(tmp_path: Path, paths: list[str | None]) -> None:
    rows = [(content, path, label) for (content, _, label), path in zip(some_rows([0, 1, 0, 1]), paths, strict=True)]
    source = parquet(write_rows(tmp_path / "part-0.parquet", rows, ["a", "b"]))
    found = make(tmp_path / "out", source, holdout=HALF).everything()
    assert sorted(found) == [f"part-0/{row:07}" for row in range(4)]


def test_a_plain_binary_column_and_other_column_names_are_read(tmp_path: Path) -> None:
    images = [encoded(picture(32, seed=i)) for i in range(4)]
    table = pa.table({"img": pa.array(images, pa.large_binary()), "fine label": ["b", "a", "b", "a"]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = parquet(tmp_path / "x.parquet", image_column="img", label_column="fine label")
    found = make(tmp_path / "out", source, holdout=HALF).everything()
    assert found == {f"x/{row:07}": content for row, content in enumerate(images)}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_labels_may_be_text(tmp_path: Path, kind: pa.DataType) -> None:
    path = write_rows(tmp_path / "x.parquet", some_rows(["dog", "cat", "dog"]), None, label_type=kind)
    assert class_names(parquet(path)) == ["cat", "dog"]
    assert [one.class_name for one in records(parquet(path), "train", ["dog"])] == ["dog", "dog"]


def test_integer_labels_without_names_are_named_by_their_digits(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", some_rows([7, 10, 7]), None)
    assert class_names(parquet(path)) == ["7", "10"]


def test_a_label_that_names_no_class_is_rejected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", some_rows([0, 1, -1, None, 0, 1, 2]), ["a", "b"])
    made = make(tmp_path / "out", parquet(path), holdout=HALF, max_rejected=0.5)
    assert made.reasons() == {f"{path}, row {row}, {row}.png": "its label names no class" for row in (2, 3, 6)}


def test_a_row_without_bytes_is_rejected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", [*some_rows([0, 1, 0, 1]), (None, "elsewhere.png", 0)], ["a", "b"])
    made = make(tmp_path / "out", parquet(path), holdout=HALF, max_rejected=0.5)
    assert made.reasons() == {f"{path}, row 4, elsewhere.png": "zero bytes"}


def test_a_wrong_column_is_named_with_its_key(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", some_rows([0, 1]), ["a", "b"])
    with pytest.raises(
        ValueError, match=r"dataset.source.image_column: .* has no column 'img'; it has: 'image', 'label'"
    ):
        class_names(parquet(path, image_column="img"))
    with pytest.raises(ValueError, match=r"dataset.source.image_column: .* column 'label' holds int64, not a struct"):
        class_names(parquet(path, image_column="label"))
    with pytest.raises(
        ValueError, match=r"dataset.source.label_column: .* column 'image' holds struct.*, not integers"
    ):
        class_names(parquet(path, label_column="image"))


def test_a_file_in_both_splits_is_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", some_rows([0, 1]), ["a", "b"])
    with pytest.raises(ValueError, match=r"dataset.source: a file is named more than once in train and test"):
        class_names(parquet(path, test=[path]))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", some_rows([0, 1] * 20), ["a", "b"])
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    with pytest.raises(BadInput, match=f"dataset.source.train: {path}: damaged"):
        make(tmp_path / "out", parquet(path), holdout=HALF)


def test_class_names_come_without_torch_and_without_pandas(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", {"a": 1, "b": 1})
    file = parquet(write_rows(tmp_path / "x.parquet", some_rows([0, 1]), ["a", "b"]))
    text = (
        "import sys; from distillery.data.settings import Folder, Parquet, Digits;"
        "from distillery.data.sources import class_names;"
        "assert not {'torch', 'pandas', 'pyarrow', 'sklearn', 'numpy'} & {*sys.modules};"
        f"[class_names(source) for source in ({folder!r}, {file!r}, Digits(kind='digits'))];"
        "assert not {'torch', 'pandas', 'sklearn'} & {*sys.modules}"
    )
    package = Path(ingest_module.__file__).parents[2]
    subprocess.run([sys.executable, "-c", text], check=True, env={**os.environ, "PYTHONPATH": str(package)})


# ---- pixels ----------------------------------------------------------------------------------------------------------


def test_every_byte_survives_the_way_to_the_unit_range_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(pixels)
    assert unit.dtype == torch.float32 and unit[0] == -1 and unit[-1] == 1
    assert torch.equal(to_bytes(unit), pixels)


def test_images_beyond_the_unit_range_are_clamped_and_halves_are_rounded_up() -> None:
    assert to_bytes(torch.tensor([-3.0, 3.0, 0.0])).tolist() == [0, 255, 128]


def test_the_digits_have_as_many_images_of_each_class_as_is_written_down() -> None:
    from sklearn.datasets import load_digits

    assert tuple(np.bincount(load_digits().target).tolist()) == DIGITS
