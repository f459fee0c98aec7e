"""Image sets: Parquet files in the layout that Hugging Face `datasets` shows as pictures."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distillery.errors import damaged
from distillery.provenance import Provenance
from distillery.storage.atomic import parse_json, replacing
from distillery.storage.spool import Spooled, no_room_for_temporary
from distillery.storage.tables import metadata_of, verify_footer, writing_table

SOFT_LABEL = "soft_label"
"""The column of soft labels that come with a set."""

LEARNED_RATE = "learning_rate"
"""The column of the step size that trajectory matching learned with a set: the same for all of its images."""

ROW_GROUP = 512
"""Images of a table that are written together, and held in memory together by whoever reads a few at a time."""


@dataclass
class ImageSet:
    """Labelled images as a table.

    Attributes:
        images: encoded files, as they stand in the table; those that were read need not be in memory.
        labels: (N,) int64, positions in `classes`.
        classes: class names.
        paths: a stable id of each image.
        columns: further columns: one value per image, or (N, d) for one vector per image.
    """

    images: Sequence[bytes]
    labels: np.ndarray
    classes: list[str]
    paths: list[str]
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int] | np.ndarray) -> ImageSet:
        """The images of these rows, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        return ImageSet(
            self.images.take(rows) if isinstance(self.images, Spooled) else [self.images[i] for i in rows],
            self.labels[rows],
            self.classes,
            [self.paths[i] for i in rows],
            {name: values[rows] for name, values in self.columns.items()},
        )

    def pixels(self) -> np.ndarray:
        """Decoded images: (N, C, H, W) uint8, C = 1 for grey and 3 for colour.

        Raises:
            ValueError: the images differ in size or colour.
        """
        return np.stack([decode_image(content) for content in self.images])


def decode_image(content: bytes) -> np.ndarray:
    """One encoded image as (C, H, W) uint8, C = 1 for grey and 3 for colour."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def encode_png(pixels: np.ndarray) -> bytes:
    """One (C, H, W) uint8 image as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def image_schema(classes: Sequence[str], extra: Sequence[pa.Field] = ()) -> pa.Schema:
    """Schema of an image table: the layout that Hugging Face `datasets` shows as pictures."""
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)}}
    for column in extra:
        if pa.types.is_fixed_size_list(column.type):
            features[column.name] = {
                "_type": "Sequence",
                "length": column.type.list_size,
                "feature": {"_type": "Value", "dtype": "float32"},
            }
        else:
            features[column.name] = {"_type": "Value", "dtype": _dtype_name(column.type)}
    return pa.schema(
        [
            pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
            pa.field("label", pa.int64()),
            *extra,
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def _dtype_name(kind: pa.DataType) -> str:
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))


def image_table(images: ImageSet) -> pa.Table:
    """An image set as an Arrow table."""
    fields, arrays = [], []
    for name, values in images.columns.items():
        if values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
            array = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            array = pa.array(values)
        arrays.append(array)
        fields.append(pa.field(name, array.type))
    encoded = pa.array(
        [{"bytes": content, "path": path} for content, path in zip(images.images, images.paths, strict=True)],
        pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]),
    )
    return pa.table([encoded, pa.array(images.labels, pa.int64()), *arrays], image_schema(images.classes, fields))


def write_images(path: Path, images: ImageSet, provenance: Provenance) -> None:
    """Write an image set as one Parquet file, a group of rows at a time."""
    groups = (
        image_table(images.take(range(start, min(start + ROW_GROUP, len(images)))))
        for start in range(0, max(len(images), 1), ROW_GROUP)
    )
    table = next(groups)
    schema = table.schema.with_metadata(metadata_of(table, provenance))
    with replacing(path) as temporary, writing_table(temporary, schema) as writer:
        writer.write_table(table.cast(schema))
        for table in groups:
            writer.write_table(table.cast(schema))


def read_images(path: Path, made_by: str) -> ImageSet:
    """Read images that `write_images` wrote, a group of rows at a time, into memory or a file.

    Raises:
        DamagedArtifact: not a whole Parquet file, or not a table of images.
    """
    try:
        verify_footer(path)
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            others = [name for name in file.schema_arrow.names if name != "image"]
            table = file.read(columns=["image.path", *others], use_threads=False)
            images = Spooled(
                image
                for group in range(file.num_row_groups)
                for image in file.read_row_group(group, columns=["image.bytes"], use_threads=False)["image"]
                .combine_chunks()
                .field("bytes")
                .to_pylist()
            )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise no_room_for_temporary(path.stat().st_size) from error
        raise damaged(path, made_by, str(error).splitlines()[0]) from error
    try:
        features = parse_json(table.schema.metadata[b"huggingface"])["info"]["features"]
        columns = {}
        for name in others[1:]:
            column = table[name].combine_chunks()
            if pa.types.is_fixed_size_list(column.type):
                values = column.flatten().to_numpy().reshape(-1, column.type.list_size)
            else:
                values = column.to_numpy(zero_copy_only=False)
            columns[name] = values
        return ImageSet(
            images,
            table["label"].to_numpy().copy(),
            features["label"]["names"],
            [path for chunk in table["image"].chunks for path in chunk.field("path").to_pylist()],
            columns,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, made_by, f"no table of images: {error!r}") from error


def read_classes(path: Path, made_by: str) -> list[str]:
    """Class names of an image table, without reading its images."""
    try:
        verify_footer(path)
        metadata = pq.read_schema(path).metadata or {}
        return list(parse_json(metadata[b"huggingface"])["info"]["features"]["label"]["names"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise damaged(path, made_by, error) from error


def read_soft_labels(path: Path, made_by: str) -> np.ndarray | None:
    """The soft labels of an image table, (N, classes) float32 probabilities; None: it has none.

    Raises:
        DamagedArtifact: they cannot be read.
    """
    try:
        verify_footer(path)
        if SOFT_LABEL not in pq.read_schema(path).names:
            return None
        column = pq.read_table(path, columns=[SOFT_LABEL], page_checksum_verification=True)[SOFT_LABEL]
        values: np.ndarray = column.combine_chunks().flatten().to_numpy().reshape(len(column), -1).copy()
        return values
    except (OSError, pa.ArrowException, ValueError) as error:
        raise damaged(path, made_by, str(error).splitlines()[0]) from error


def learned_rate(columns: Mapping[str, np.ndarray]) -> float | None:
    """The step size that was learned with a set of these columns; None: none was.

    Raises:
        ValueError: its images have several.
    """
    rates = np.unique(columns.get(LEARNED_RATE, np.empty(0)))
    if len(rates) > 1:
        raise ValueError(f"{LEARNED_RATE}: {len(rates)} of one set, from {rates[0]:g} to {rates[-1]:g}")
    return float(rates[0]) if len(rates) else None


def read_learned_rate(path: Path, made_by: str) -> float | None:
    """The step size that was learned with the images of a table; None: none was.

    Raises:
        DamagedArtifact: it cannot be read, or there are several.
    """
    try:
        verify_footer(path)
        if LEARNED_RATE not in pq.read_schema(path).names:
            return None
        table = pq.read_table(path, columns=[LEARNED_RATE], page_checksum_verification=True)
        return learned_rate({LEARNED_RATE: table[LEARNED_RATE].to_numpy()})
    except (OSError, pa.ArrowException, ValueError) as error:
        raise damaged(path, made_by, str(error).splitlines()[0]) from error


def concatenate(sets: Sequence[ImageSet]) -> ImageSet:
    """One set after another; the columns that all of them have remain."""
    first = sets[0]
    files = [part.images for part in sets]
    spooled = [images for images in files if isinstance(images, Spooled)]
    common = [name for name in first.columns if all(name in part.columns for part in sets)]
    return ImageSet(
        Spooled.joined(spooled) if len(spooled) == len(files) else [image for images in files for image in images],
        np.concatenate([part.labels for part in sets]),
        first.classes,
        [path for part in sets for path in part.paths],
        {name: np.concatenate([part.columns[name] for part in sets]) for name in common},
    )
