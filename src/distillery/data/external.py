"""Distilled sets that were made elsewhere: a folder of class folders, or a Parquet file, for each size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from distillery.data.identity import hint_of, same_class
from distillery.data.settings import Dataset, Folder, Parquet, Source
from distillery.data.sources import class_sizes, content_digest, records
from distillery.errors import BadInput, SourceError

if TYPE_CHECKING:
    import numpy as np

TRAIN = "dataset.source.train"
"""What errors of a source call the place of its images."""

WHOLE_SET = 2**30
"""Bytes up to which a folder is compared by all that is in it: distilled sets are small, and are made again often."""


def place_of(images: str, ipc: int, seed: int) -> str:
    """Where the images of a size lie."""
    return images.replace("{ipc}", str(ipc)).replace("{seed}", str(seed))


def check_external(
    key: str, images: str, sizes: Sequence[int], seeds: Sequence[int], classes: Sequence[str]
) -> Iterator[str]:
    """Whether there is a set for every size, and it has so many images of every class. No image is read."""
    if len(sizes) > 1 and "{ipc}" not in images:
        among = ", ".join(map(str, sizes))
        yield f"{key}.images: one place for the sizes {among}; put {{ipc}} where the number stands in their names"
        return
    places = dict.fromkeys((place_of(images, ipc, seed), ipc) for seed in seeds for ipc in sizes)
    for place, ipc in places:
        try:
            counts = class_sizes(source_at(place))
        except SourceError as error:
            yield str(error).replace(TRAIN, f"{key}.images")
            continue
        yield from _miscounted(f"{key}.images: {place}", counts, classes, ipc)


def _miscounted(where: str, counts: dict[str, int], classes: Sequence[str], ipc: int) -> Iterator[str]:
    for name in classes:
        there = same_class(name, list(counts))
        if there is None:
            others = ", ".join(list(counts)[:20])
            yield f"{where}: no class {name!r}{hint_of([name], list(counts))}; there are: {others}"
            return
        if counts[there] != ipc:
            yield f"{where}: {counts[there]} images of class {name!r}, but ipc asks for {ipc}"
            return


def read_external(
    key: str, place: str, classes: Sequence[str], ipc: int, dataset: Dataset
) -> list[tuple[int, str, bytes]]:
    """The images of a set, brought to the side and the colours of the data as real images are.

    Args:
        key: of the method, for errors.
        classes: names, in the order of the labels.
        dataset: says side, colours and crop.

    Returns:
        Label, id and encoded image, in the order slot, class: of each class by id.

    Raises:
        BadInput: an image that cannot be used, or another number of images than `ipc` in a class.
    """
    from distillery.data.decode import fit_image
    from distillery.errors import Unusable

    try:
        source = source_at(place)
        counts = class_sizes(source)
        if faults := list(_miscounted(f"{key}.images: {place}", counts, classes, ipc)):
            raise BadInput(faults[0])
        named = {str(same_class(name, list(counts))): label for label, name in enumerate(classes)}
        found: dict[int, list[tuple[int, str, bytes]]] = {label: [] for label in named.values()}
        for record in records(source, "train", set(named)):
            if record.class_name is None:
                raise BadInput(f"{key}.images: {record.origin}: its label names no class; name it, or leave it out")
            try:
                content = fit_image(
                    record.read(),
                    resolution=dataset.resolution,
                    channels=dataset.channels,
                    crop=dataset.crop,
                    max_pixels=dataset.max_pixels,
                )
            except (Unusable, OSError) as error:
                raise BadInput(f"{key}.images: {record.origin}: {error}; replace it") from error
            label = named[record.class_name]
            found[label].append((label, record.id, content))
    except SourceError as error:
        raise BadInput(str(error).replace(TRAIN, f"{key}.images")) from error
    ordered = {label: sorted(rows, key=lambda row: row[1]) for label, rows in found.items()}
    return [ordered[label][slot] for slot in range(ipc) for label in range(len(classes))]


def refuse_test_images(
    key: str, rows: Sequence[tuple[int, str, bytes]], test: Iterable[np.ndarray], most: float
) -> None:
    """Refuse a set that holds test images, by their pixels.

    Args:
        key: of the method, for errors.
        rows: as `read_external` returns them.
        test: the test images, (C, H, W) uint8 each.
        most: the share of the set that may be test images.

    Raises:
        BadInput: more of them are.
    """
    from distillery.data.decode import pixels_digest
    from distillery.storage.images import decode_image

    seen = set(map(pixels_digest, test))
    leaked = [name for _, name, content in rows if pixels_digest(decode_image(content)) in seen]
    if len(leaked) > most * len(rows):
        raise BadInput(
            f"{key}.images: {len(leaked)} of {len(rows)} images are test images, {leaked[0]} among them, and "
            f"dataset.max_leaked allows {most:.1%}; give a set that was made of training images, or raise it"
        )


def external_files(images: str, ipc: int, seed: int) -> list[str]:
    """The file of a set, where it is one; a folder is no input of a rule."""
    place = place_of(images, ipc, seed)
    return [] if Path(place).is_dir() else [place]


def source_at(place: str) -> Source:
    """The images of a place as a source of training images."""
    if Path(place).is_dir():
        return Folder(kind="folder", train=place)
    try:
        return Parquet(kind="parquet", train=[place])
    except ValidationError as error:
        raise SourceError(f"{TRAIN}: {str(error.errors()[0]['msg']).removeprefix('Value error, ')}") from None


def external_content(images: str, ipc: int, seed: int) -> str:
    """A digest that changes with what is in the files of a set."""
    return content_digest(source_at(place_of(images, ipc, seed)), WHOLE_SET)
