"""Distilled sets that were made elsewhere: class folders, a Parquet file, or files of arrays, for each size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from distillery.data.arrays import ENDINGS, ImageArrays, Normalization, is_array
from distillery.data.channels import NAMED
from distillery.data.content import files_digest
from distillery.data.identity import hint_of, same_class
from distillery.data.settings import Dataset, Folder, Parquet, Source
from distillery.data.sources import class_sizes, content_digest, records
from distillery.errors import BadInput, SourceError
from distillery.storage.files import no_file

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
    key: str,
    images: str,
    sizes: Sequence[int],
    seeds: Sequence[int],
    classes: Sequence[str],
    labels: str | None = None,
    normalization: Normalization | None = None,
) -> Iterator[str]:
    """Whether there is a set for every size, and it has so many images of every class. No image is read.

    The images of files of arrays are counted when they are read.
    """
    if len(sizes) > 1 and "{ipc}" not in images:
        among = ", ".join(map(str, sizes))
        yield f"{key}.images: one place for the sizes {among}; put {{ipc}} where the number stands in their names"
        return
    if is_array(images):
        yield from _check_arrays(key, images, sizes, seeds, labels, normalization)
        return
    for name, value in (("labels", labels), ("normalization", normalization)):
        if value is not None:
            yield f"{key}.{name}: {images} holds pictures, which have their own; leave it out"
    places = dict.fromkeys((place_of(images, ipc, seed), ipc) for seed in seeds for ipc in sizes)
    for place, ipc in places:
        try:
            counts = class_sizes(source_at(place))
        except SourceError as error:
            yield str(error).replace(TRAIN, f"{key}.images")
            continue
        yield from _miscounted(f"{key}.images: {place}", counts, classes, ipc)


def _check_arrays(
    key: str,
    images: str,
    sizes: Sequence[int],
    seeds: Sequence[int],
    labels: str | None,
    normalization: Normalization | None,
) -> Iterator[str]:
    """Whether the files of arrays are there, and the user has said how to read them."""
    if normalization is None:
        yield (
            f"{key}.normalization: say what the values of {images} are; allowed: 0..1, 0..255, "
            f"{', '.join(NAMED)}, or {{mean: [...], std: [...]}}"
        )
    if labels is None and images.lower().endswith(".npy"):
        yield f"{key}.labels: a .npy file holds images alone; name the file of their labels"
    if labels is not None and not is_array(labels):
        yield f"{key}.labels: {labels}: no file of arrays; allowed: {', '.join(ENDINGS)}"
    elif labels is not None and len(sizes) > 1 and "{ipc}" not in labels:
        yield f"{key}.labels: one file for the sizes {', '.join(map(str, sizes))}; put {{ipc}} where the number stands"
    for name, pattern in (("images", images), ("labels", labels)):
        places = [place_of(pattern, ipc, seed) for seed in seeds for ipc in sizes] if pattern else []
        for place in dict.fromkeys(places):
            if wrong := no_file(place):
                yield f"{key}.{name}: {place}: {wrong}; give a file of {name}"


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
                    resample=dataset.resample.train,
                )
            except (Unusable, OSError) as error:
                raise BadInput(f"{key}.images: {record.origin}: {error}; replace it") from error
            label = named[record.class_name]
            found[label].append((label, record.id, content))
    except SourceError as error:
        raise BadInput(str(error).replace(TRAIN, f"{key}.images")) from error
    ordered = {label: sorted(rows, key=lambda row: row[1]) for label, rows in found.items()}
    return [ordered[label][slot] for slot in range(ipc) for label in range(len(classes))]


def read_external_arrays(
    key: str, arrays: ImageArrays, classes: Sequence[str], ipc: int, dataset: Dataset
) -> tuple[list[tuple[int, str, bytes]], np.ndarray]:
    """The images of a set of arrays, brought to the side and the colours of the data, and their rows in the arrays.

    Returns:
        Label, id and encoded image, in the order slot, class: of each class by row; and the row of each.

    Raises:
        BadInput: another number of images than `ipc` in a class.
    """
    import numpy as np

    from distillery.data.decode import fit_image
    from distillery.storage.images import encode_png

    counts = np.bincount(arrays.labels, minlength=len(classes))
    if faults := list(_miscounted(f"{key}.images", dict(zip(classes, counts.tolist(), strict=True)), classes, ipc)):
        raise BadInput(faults[0])
    of_class = np.stack([np.flatnonzero(arrays.labels == label) for label in range(len(classes))], 1)
    rows = of_class.reshape(-1)
    found = []
    for row in rows.tolist():
        content = fit_image(
            encode_png(arrays.pixels[row]),
            resolution=dataset.resolution,
            channels=dataset.channels,
            crop=dataset.crop,
            max_pixels=dataset.max_pixels,
            resample=dataset.resample.train,
        )
        found.append((int(arrays.labels[row]), f"{row:06d}", content))
    return found, rows


def refuse_test_images(
    key: str,
    rows: Sequence[tuple[int, str, bytes]],
    test: Iterable[np.ndarray],
    most: float,
    as_tested: Sequence[tuple[int, str, bytes]] | None = None,
) -> None:
    """Refuse a set that holds test or validation images, by their pixels.

    Args:
        key: of the method, for errors.
        rows: as `read_external` returns them.
        test: the images that the set must not hold, (C, H, W) uint8 each.
        most: the share of the set that may be among them.
        as_tested: the same rows, resized as test images are, where that is another filter.

    Raises:
        BadInput: more of them are.
    """
    from distillery.data.decode import pixels_digest
    from distillery.storage.images import decode_image

    seen = set(map(pixels_digest, test))
    leaked = [
        rows[place][1]
        for place, versions in enumerate(zip(rows, as_tested or rows, strict=True))
        if any(pixels_digest(decode_image(content)) in seen for _, _, content in versions)
    ]
    if len(leaked) > most * len(rows):
        raise BadInput(
            f"{key}.images: {len(leaked)} of {len(rows)} images are test or validation images, {leaked[0]} among them, "
            f"and dataset.max_leaked allows {most:.1%}; give a set that was made of training images, or raise it"
        )


def external_files(images: str, ipc: int, seed: int, labels: str | None = None) -> list[str]:
    """The files of a set, where it is in files; a folder is no input of a rule."""
    places = [place_of(pattern, ipc, seed) for pattern in (images, labels) if pattern]
    return [place for place in places if not Path(place).is_dir()]


def source_at(place: str) -> Source:
    """The images of a place as a source of training images."""
    if Path(place).is_dir():
        return Folder(kind="folder", train=place)
    try:
        return Parquet(kind="parquet", train=[place])
    except ValidationError as error:
        raise SourceError(f"{TRAIN}: {str(error.errors()[0]['msg']).removeprefix('Value error, ')}") from None


def external_content(images: str, ipc: int, seed: int, labels: str | None = None) -> str:
    """A digest that changes with what is in the files of a set."""
    if is_array(images):
        return files_digest(external_files(images, ipc, seed, labels))
    return content_digest(source_at(place_of(images, ipc, seed)), WHOLE_SET)
