"""The safetensors format: the only reader and the only writer of it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from distillery.errors import BadInput, damaged
from distillery.storage.atomic import replacing
from distillery.storage.tables import Provenance

if TYPE_CHECKING:
    from torch import Tensor


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
