"""How files are read and written: atomically, with provenance, and with a clear word on what is damaged."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distillery.job import BadInput
from distillery.spool import Spooled

if TYPE_CHECKING:
    from torch import Tensor

Provenance = dict[str, str]

ROW_GROUP = 512
"""Images of a table that are written together, and held in memory together by whoever reads a few at a time."""


class DamagedArtifact(Exception):
    """A file that a stage made cannot be read."""


def damaged(path: Path, made_by: str, why: object) -> DamagedArtifact:
    """The error that names the file, and the stage that makes it again."""
    return DamagedArtifact(
        f"{path}: cannot be read ({why}). The stage `{made_by}` makes it: delete it and run the same command again"
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`; what is written there takes the place of `path` at the end.

    A kill or a full disk on the way leaves the old file or none. Two writers never share a temporary name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, with sorted keys."""
    write_bytes(path, (json.dumps(content, sort_keys=True, indent=2) + "\n").encode())


def read_json(path: Path, made_by: str) -> Any:
    """Read what `write_json` wrote."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, made_by, error) from error


def write_table(path: Path, table: pa.Table, provenance: Provenance) -> None:
    """Write a table as Parquet, atomically; its metadata gains the provenance."""
    with replacing(path) as temporary:
        described = table.replace_schema_metadata(_described(table, provenance))
        pq.write_table(described, temporary, compression="zstd", write_page_checksum=True)


def _described(table: pa.Table, provenance: Provenance) -> dict[bytes, bytes]:
    return {**(table.schema.metadata or {}), b"distillery": json.dumps(provenance, sort_keys=True).encode()}


def read_table(path: Path, made_by: str) -> pa.Table:
    """Read what `write_table` wrote.

    Raises:
        DamagedArtifact: not a whole Parquet file.
    """
    try:
        return pq.read_table(path, memory_map=False, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, made_by, str(error).splitlines()[0]) from error


def write_tensors(path: Path, tensors: dict[str, Tensor], provenance: Provenance, **about: Any) -> None:
    """Write tensors as safetensors, atomically; `about` (JSON) and the provenance go into its metadata."""
    from safetensors.torch import save

    metadata = _metadata(provenance, about)
    content = memoryview(save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, metadata))
    # safetensors shuffles its metadata from process to process: the header is written again with its keys sorted.
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(bytes(content[8:start])), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(content[start:])


def described_tensors(path: Path) -> dict[str, Any]:
    """What `write_tensors` was told about the tensors of a file; reads its header alone, and without torch.

    Raises:
        OSError: it cannot be read.
        ValueError: not a safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length < 2**27:
            raise ValueError("no header of safetensors")
        header = json.loads(file.read(length))
    about = json.loads(header.get("__metadata__", {}).get("about", "{}"))
    return about if isinstance(about, dict) else {}


def read_tensors(path: Path, made_by: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and what `write_tensors` was told about them.

    Raises:
        DamagedArtifact: not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise damaged(path, made_by, error) from error


def opened_tensor(path: Path, name: str, made_by: str) -> Any:
    """One tensor of a safetensors file, indexed like a tensor; what is asked for is read, the rest stays on the disk.

    Raises:
        DamagedArtifact: not a whole safetensors file with that tensor.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt").get_slice(name)
    except (OSError, SafetensorError) as error:
        raise damaged(path, made_by, error) from error


def _metadata(provenance: Provenance, about: Mapping[str, Any]) -> dict[str, str]:
    return {"format": "pt", "distillery": json.dumps(provenance, sort_keys=True), "about": json.dumps(about)}


class TensorWriter:
    """Fills the tensors of a safetensors file row by row, none of them in memory."""

    def __init__(self, file: BinaryIO, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]], metadata: Any) -> None:
        header: dict[str, Any] = {"__metadata__": metadata}
        self._offsets: dict[str, int] = {}
        self._rows: dict[str, tuple[np.dtype, int]] = {}
        end = 0
        # The layout that safetensors itself writes: the widest types first, so that each tensor is aligned.
        for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
            row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            header[name] = {
                "dtype": _SAFETENSORS[dtype.name],
                "shape": list(shape),
                "data_offsets": [end, end + row * shape[0]],
            }
            self._offsets[name], self._rows[name] = end, (dtype, row)
            end += row * shape[0]
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        self._file, self._start = file, 8 + len(text)
        file.truncate(self._start + end)

    def put(self, name: str, first: int, rows: np.ndarray) -> None:
        """Write rows of a tensor from row `first` on; their type is the tensor's."""
        dtype, row = self._rows[name]
        self._file.seek(self._start + self._offsets[name] + first * row)
        self._file.write(np.ascontiguousarray(rows, dtype=dtype).data)

    def flush(self) -> None:
        """Bring what was put to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())


_SAFETENSORS = {"float16": "F16", "float32": "F32", "int64": "I64"}


@contextmanager
def writing_tensors(
    path: Path, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]], provenance: Provenance, **about: Any
) -> Iterator[TensorWriter]:
    """What `write_tensors` writes, for tensors larger than the memory: name -> type and shape, filled row by row."""
    metadata = _metadata(provenance, about)
    with replacing(path) as temporary, temporary.open("wb") as file:
        yield TensorWriter(file, tensors, metadata)


@contextmanager
def growing_tensors(
    path: Path,
    tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    provenance: Provenance,
    goes_on: bool,
    **about: Any,
) -> Iterator[TensorWriter]:
    """What `writing_tensors` writes, under `partial_name` until all of it stands: what is killed can go on with it.

    Args:
        goes_on: keep the rows that are there.

    Raises:
        BadInput: another process writes it.
    """
    metadata = _metadata(provenance, about)
    path.parent.mkdir(parents=True, exist_ok=True)
    number = os.open(partial_name(path), os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(number, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{partial_name(path)}: another process writes it; wait for its end, or stop it") from None
        if not goes_on:
            file.truncate(0)
        writer = TensorWriter(file, tensors, metadata)
        yield writer
        writer.flush()
    partial_name(path).replace(path)


def partial_name(path: Path) -> Path:
    """Where `growing_tensors` writes."""
    return path.with_name(path.name + ".resume.part")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically, a piece at a time."""
    with replacing(target) as temporary, source.open("rb") as old, temporary.open("wb") as new:
        shutil.copyfileobj(old, new, 2**22)


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
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": list(classes)},
    }
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
    schema = table.schema.with_metadata(_described(table, provenance))
    with replacing(path) as temporary, writing_table(temporary, schema) as writer:
        writer.write_table(table.cast(schema))
        for table in groups:
            writer.write_table(table.cast(schema))


def no_room_for_temporary(size: int) -> BadInput:
    """What to say when the folder of temporary files is full."""
    folder = tempfile.gettempdir()
    return BadInput(f"{folder}: no room for {size / 2**30:.2f} GiB of images; set TMPDIR to a folder that has it")


def writing_table(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet file to be written a group of rows at a time; checksums of its pages tell a flipped bit."""
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)


def read_images(path: Path, made_by: str) -> ImageSet:
    """Read what `write_images` wrote; the images themselves a group of rows at a time, into memory or a file.

    Raises:
        DamagedArtifact: not a whole Parquet file, or not a table of images.
    """
    try:
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
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise no_room_for_temporary(path.stat().st_size) from error
        raise damaged(path, made_by, str(error).splitlines()[0]) from error
    try:
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
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
        metadata = pq.read_schema(path).metadata or {}
        return list(json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise damaged(path, made_by, error) from error


def concatenate(sets: Sequence[ImageSet]) -> ImageSet:
    """One set after another; the columns that all of them have remain."""
    first = sets[0]
    files = [one.images for one in sets]
    spooled = [images for images in files if isinstance(images, Spooled)]
    common = [name for name in first.columns if all(name in one.columns for one in sets)]
    return ImageSet(
        Spooled.joined(spooled) if len(spooled) == len(files) else [image for images in files for image in images],
        np.concatenate([one.labels for one in sets]),
        first.classes,
        [path for one in sets for path in one.paths],
        {name: np.concatenate([one.columns[name] for one in sets]) for name in common},
    )
