"""The safetensors format: the only reader and the only writer of it.

A file that is written here has the CRC-32 of all its bytes in its metadata, as `crc32`. Whoever opens it reads it once
as a whole and compares; files from elsewhere have none. The library of safetensors itself would take a flipped bit.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from distillery.errors import BadInput, NotSafetensors, damaged
from distillery.processes import drop_lock, take_lock
from distillery.provenance import Provenance
from distillery.storage.atomic import naming, parse_json, replacing
from distillery.storage.files import irregular

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_LARGEST_HEADER = 100 * 2**20
_TYPES = {"float16": "F16", "float32": "F32", "int64": "I64"}
_NO_CHECKSUM = {"crc32": "0" * 8}
_CHECKSUM = re.compile(rb'"crc32":"(.{8})"', re.DOTALL)
"""Within a header no text has such quotes, which JSON escapes: this is the key of the metadata."""

_BLOCK_BYTES = 2**22


# ---- the header ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What a safetensors file says before its tensors.

    Attributes:
        metadata: its texts.
        tensors: name -> `dtype`, `shape` and `data_offsets`, as they stand there.
        shapes: name -> type, as safetensors calls it, and shape.
        start: position of the first byte of the first tensor.
    """

    metadata: dict[str, str]
    tensors: dict[str, dict[str, Any]]
    shapes: dict[str, tuple[str, tuple[int, ...]]]
    start: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file, without its tensors and without torch; the file is as long as it says.

    Raises:
        OSError: it cannot be read.
        NotSafetensors: not a whole safetensors file.
    """
    if kind := irregular(path.stat().st_mode):  # opening a pipe waits for its other end
        raise NotSafetensors(f"{kind}, not a safetensors file")
    with path.open("rb") as file:
        return _header_of(file)


def _header_of(file: BinaryIO) -> Header:
    length = int.from_bytes(beginning := file.read(8), "little")
    if beginning.startswith(b"version "):
        raise NotSafetensors("a Git LFS pointer, not the weights", "; fetch them with `git lfs pull`")
    if len(beginning) < 8 or length > _LARGEST_HEADER:
        raise NotSafetensors("not a safetensors file")
    text = file.read(length)
    if text[:1] not in (b"{", b""):
        raise NotSafetensors("not a safetensors file")
    size = file.seek(0, os.SEEK_END)
    try:
        tensors = parse_json(text)
        metadata = dict(tensors.pop("__metadata__", {}))
        shapes = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in tensors.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        if len(text) < length:
            raise NotSafetensors("broken off within its header", "; download it again") from None
        raise NotSafetensors("not a safetensors file") from None
    if size != end:
        raise NotSafetensors(f"{size} bytes of {end}", "; the download broke off, fetch it again")
    return Header(metadata, tensors, shapes, 8 + length)


def is_whole(path: Path) -> bool:
    """Whether there is a safetensors file that is as long as its header says."""
    try:
        return bool(read_header(path))
    except (OSError, NotSafetensors):
        return False


def described_tensors(path: Path) -> dict[str, Any]:
    """What `write_tensors` was told about the tensors of a file; reads its header alone, and without torch.

    Raises:
        OSError: it cannot be read.
        ValueError: not a whole safetensors file.
    """
    about = parse_json(read_header(path).metadata.get("about", "{}"))
    return about if isinstance(about, dict) else {}


def stage_that_wrote(path: Path, otherwise: str) -> str:
    """The stage that wrote a damaged file, if its header still says so."""
    with suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
        header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _LARGEST_HEADER)))
        return str(json.loads(header["__metadata__"]["distillery"])["stage"])
    return otherwise


def _write_header(file: BinaryIO, tensors: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, str]) -> int:
    text = json.dumps({"__metadata__": metadata, **tensors}, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return file.write(len(text).to_bytes(8, "little") + text)


# ---- the checksum ----------------------------------------------------------------------------------------------------


def verify(path: Path) -> None:
    """Read a whole file and compare it with the checksum that it was written with, if it has one.

    Raises:
        OSError: it cannot be read.
        NotSafetensors: its bytes have changed.
    """
    with path.open("rb") as file:
        stated, _, checksum = _checksum(file)
    if stated != checksum:
        raise NotSafetensors("its bytes have changed: their CRC-32 is not the crc32 of its metadata")


def _checksum(file: BinaryIO) -> tuple[bytes, int, bytes]:
    """The checksum that a file states, the position of it, and the one that it has; empty where it states none."""
    file.seek(0)
    length = file.read(8)
    header = file.read(min(int.from_bytes(length, "little"), _LARGEST_HEADER))
    if (stated := _CHECKSUM.search(header)) is None:
        return b"", 0, b""
    start, stop = stated.span(1)
    checksum = zlib.crc32(length + header[:start] + b"0" * 8 + header[stop:])
    while block := file.read(_BLOCK_BYTES):
        checksum = zlib.crc32(block, checksum)
    return stated[1], len(length) + start, b"%08x" % checksum


def _write_checksum(file: BinaryIO) -> None:
    file.flush()
    _, position, checksum = _checksum(file)
    file.seek(position)
    file.write(checksum)


# ---- whole files -----------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: dict[str, Tensor], provenance: Provenance, **about: Any) -> None:
    """Write tensors as safetensors, atomically; `about` (JSON) and the provenance go into its metadata."""
    save_tensors(path, tensors, _metadata(provenance, about))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as safetensors, atomically, with these texts and a checksum as metadata."""
    from safetensors.torch import save

    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(whole, {**metadata, **_NO_CHECKSUM})
    # safetensors shuffles its metadata from process to process: the header is written again with its keys sorted.
    header = _header_of(io.BytesIO(content))
    with replacing(path) as temporary, temporary.open("w+b") as file:
        _write_header(file, header.tensors, header.metadata)
        file.write(memoryview(content)[header.start :])
        _write_checksum(file)


def load_tensors(path: Path, without: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of any safetensors file but those that are named, and its metadata.

    Raises:
        OSError: it cannot be read.
        NotSafetensors: not a whole safetensors file, or not the bytes that were written.
    """
    with _library_errors():
        from safetensors import safe_open

        verify(path)
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name not in without]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def load_slice(path: Path, name: str) -> Any:
    """One tensor of any safetensors file, indexed like a tensor: what is asked for is read, the rest stays on the disk.

    Raises:
        OSError: it cannot be read.
        NotSafetensors: not a whole safetensors file with that tensor.
    """
    with _library_errors():
        from safetensors import safe_open

        return safe_open(path, framework="pt").get_slice(name)


def read_tensors(path: Path, made_by: str, without: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors but those that are named, and what `write_tensors` was told about all of them.

    Raises:
        DamagedArtifact: not a whole safetensors file.
    """
    try:
        tensors, metadata = load_tensors(path, without)
    except (OSError, NotSafetensors) as error:
        raise damaged(path, made_by, error) from error
    return tensors, json.loads(metadata.get("about", "{}"))


def opened_tensor(path: Path, name: str, made_by: str) -> Any:
    """What `load_slice` gives, of a file that a stage made; it is read once as a whole, to compare its checksum.

    Raises:
        DamagedArtifact: not a whole safetensors file with that tensor.
    """
    try:
        verify(path)
        return load_slice(path, name)
    except (OSError, NotSafetensors) as error:
        raise damaged(path, made_by, error) from error


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextmanager
def _library_errors() -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise NotSafetensors(str(error)) from error


def _metadata(provenance: Provenance, about: Mapping[str, Any]) -> dict[str, str]:
    return {"format": "pt", "distillery": json.dumps(provenance, sort_keys=True), "about": json.dumps(about)}


# ---- row by row ------------------------------------------------------------------------------------------------------


class TensorWriter:
    """Fills the tensors of a safetensors file row by row, none of them in memory."""

    def __init__(
        self, file: BinaryIO, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]], metadata: dict[str, str]
    ) -> None:
        entries: dict[str, dict[str, Any]] = {}
        self._offsets: dict[str, int] = {}
        self._rows: dict[str, tuple[np.dtype, int]] = {}
        end = 0
        # The layout that safetensors itself writes: the widest types first, so that each tensor is aligned.
        for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
            row, size = dtype.itemsize * math.prod(shape[1:]), dtype.itemsize * math.prod(shape)
            entries[name] = {"dtype": _TYPES[dtype.name], "shape": list(shape), "data_offsets": [end, end + size]}
            self._offsets[name], self._rows[name] = end, (dtype, row)
            end += size
        self._file, self._start = file, _write_header(file, entries, metadata)
        file.truncate(self._start + end)

    def put(self, name: str, first: int, rows: np.ndarray) -> None:
        """Write rows of a tensor from row `first` on; their type is the tensor's."""
        import numpy as np

        dtype, row = self._rows[name]
        self._file.seek(self._start + self._offsets[name] + first * row)
        self._file.write(np.ascontiguousarray(rows, dtype=dtype).data)

    def flush(self) -> None:
        """Bring what was put to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def writing_tensors(
    path: Path, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]], provenance: Provenance, **about: Any
) -> Iterator[TensorWriter]:
    """What `write_tensors` writes, for tensors larger than the memory: name -> type and shape, filled row by row."""
    metadata = _metadata(provenance, about) | _NO_CHECKSUM
    with replacing(path) as temporary, temporary.open("w+b") as file:
        yield TensorWriter(file, tensors, metadata)
        _write_checksum(file)


def write_stacks(
    path: Path,
    tensors: Mapping[str, Tensor],
    stacks: Mapping[str, Sequence[Tensor]],
    provenance: Provenance,
    **about: Any,
) -> None:
    """What `write_tensors` writes of tensors and of stacks of tensors, none of which is ever whole in memory.

    Args:
        stacks: name -> tensors of one shape and type; the file has them as one, in their order.
    """
    arrays = {name: value.numpy() for name, value in tensors.items()}
    rows = {name: [value.numpy() for value in values] for name, values in stacks.items()}
    shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    shapes |= {name: (values[0].dtype, (len(values), *values[0].shape)) for name, values in rows.items()}
    with writing_tensors(path, shapes, provenance, **about) as writer:
        for name, array in arrays.items():
            writer.put(name, 0, array)
        for name, values in rows.items():
            for row, array in enumerate(values):
                writer.put(name, row, array)


@contextmanager
def growing_tensors(
    path: Path,
    tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    provenance: Provenance,
    goes_on: bool,
    **about: Any,
) -> Iterator[TensorWriter]:
    """As `writing_tensors`, under `partial_name` until the file is complete: a killed job continues it (`goes_on`).

    Raises:
        BadInput: another process writes it.
    """
    metadata = _metadata(provenance, about) | _NO_CHECKSUM
    path.parent.mkdir(parents=True, exist_ok=True)
    no_link = getattr(os, "O_NOFOLLOW", 0)  # in a folder where others write, a link would lead to any file of this user
    number = os.open(partial_name(path), os.O_RDWR | os.O_CREAT | no_link, 0o666)
    with naming(path, partial_name(path)), os.fdopen(number, "r+b") as file:
        if not take_lock(file, partial_name(path)):
            raise BadInput(f"{partial_name(path)}: another process writes it; wait for its end, or stop it")
        try:
            if not goes_on:
                file.truncate(0)
            writer = TensorWriter(file, tensors, metadata)
            yield writer
            _write_checksum(file)
            writer.flush()
            partial_name(path).replace(path)
        finally:
            drop_lock(partial_name(path))


def partial_name(path: Path) -> Path:
    """Where `growing_tensors` writes."""
    return path.with_name(path.name + ".resume.part")
