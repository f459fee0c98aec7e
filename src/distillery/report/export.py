"""A distilled set as a folder that can be published: Parquet, class folders, WebDataset shards, checksums.

All of it follows from the set alone: the same set gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from distillery.provenance import Provenance
from distillery.report.pictures import folder_names
from distillery.storage.images import SOFT_LABEL, ImageSet, decode_image, encode_png, write_images

PARQUET = "data/train.parquet"
CLASSES = "classes.json"
CHECKSUMS = "SHA256SUMS"
CLASS_FOLDERS = "images"
SHARDS = "webdataset"

IMAGES_PER_SHARD = 10_000
"""A shard of images of 256 pixels is then about a gigabyte, as the authors of WebDataset recommend."""


def write_parquet(images: ImageSet, folder: Path, provenance: Provenance) -> None:
    """Write the set as Parquet with class names and provenance, and the class names as a list of JSON beside it."""
    write_images(folder / PARQUET, images, provenance)
    (folder / CLASSES).write_text(json.dumps(images.classes, ensure_ascii=False, indent=1) + "\n", "utf-8")


def write_class_folders(images: ImageSet, folder: Path) -> bool:
    """Write each image as `images/<class>/<number within the class>.png`.

    Sorted names are in the order of labels and slots. Where class names are not, folders begin with the label.

    Returns:
        Whether folders begin with the label.
    """
    names = folder_names(images.classes)
    by_label = names != sorted(names) or len({name.casefold() for name in names}) < len(names)
    if by_label:
        digits = len(str(len(names) - 1))
        names = [f"{label:0{digits}}-{name}" for label, name in enumerate(names)]
    counts = [0] * len(names)
    for name in names:
        (folder / CLASS_FOLDERS / name).mkdir(parents=True)
    for content, label in zip(images.images, images.labels.tolist(), strict=True):
        (folder / CLASS_FOLDERS / names[label] / f"{counts[label]:05d}.png").write_bytes(as_png(content))
        counts[label] += 1
    return by_label


def write_shards(images: ImageSet, folder: Path) -> str:
    """Write WebDataset shards in the order of the set: `<row>.png`, `<row>.cls`, and `<row>.soft_label.json`.

    Returns:
        The pattern of the shards, relative to the folder, as WebDataset takes it.
    """
    (folder / SHARDS).mkdir()
    shards = -(-len(images) // IMAGES_PER_SHARD)
    soft = images.columns.get(SOFT_LABEL)
    rows = iter(zip(images.images, images.labels.tolist(), strict=True))
    for shard in range(shards):
        first = shard * IMAGES_PER_SHARD
        with tarfile.open(folder / SHARDS / f"train-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(first, min(first + IMAGES_PER_SHARD, len(images))):
                content, label = next(rows)
                _add(tar, f"{row:08d}.png", as_png(content))
                _add(tar, f"{row:08d}.cls", str(label).encode())
                if soft is not None:
                    _add(tar, f"{row:08d}.soft_label.json", json.dumps(soft[row].tolist()).encode())
    return f"{SHARDS}/train-" + ("000000.tar" if shards == 1 else f"{{000000..{shards - 1:06d}}}.tar")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file that says nothing of its writer and of the time."""
    about = tarfile.TarInfo(name)
    about.size = len(content)
    tar.addfile(about, io.BytesIO(content))


def as_png(content: bytes) -> bytes:
    """An encoded image as PNG of equal pixels."""
    return content if content.startswith(b"\x89PNG") else encode_png(decode_image(content))


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file of a folder, as `sha256sum -c` reads them."""
    lines = [f"{_digest(path)}  {name}\n" for name, path in _files(folder)]
    (folder / CHECKSUMS).write_text("".join(lines), "utf-8")


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / CHECKSUMS:
            yield path.relative_to(folder).as_posix(), path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
