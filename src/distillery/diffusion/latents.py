"""The cache of latents: written row by row, read by memory map, over any number of files."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable
from distillery.diffusion.autoencoder import Codec
from distillery.divergence import refuse_diverged
from distillery.errors import BadInput, DamagedArtifact, damaged
from distillery.progress import Progress
from distillery.storage.tensors import TensorWriter, read_header, verify

MADE_BY = "encode_latents"
_TYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
_FORGET_BYTES = 2**27
"""Pages of the map that a process keeps at most, about: what it has read, the system still holds."""


def layout(
    rows: int, channels: int, size: int, precision: Literal["float16", "float32"], mirrored: bool
) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Name -> type and shape of the tensors of one file of the cache."""
    names = ["mean", "std", *(["mirror_mean", "mirror_std"] if mirrored else [])]
    latent = (np.dtype(precision), (rows, channels, size, size))
    return {**dict.fromkeys(names, latent), "labels": (np.dtype("int64"), (rows,))}


@torch.no_grad()
def encode_rows(
    table: ImageTable,
    codec: Codec,
    writer: TensorWriter,
    start: int,
    stop: int,
    *,
    mirrored: bool,
    batch_size: int,
    device: torch.device,
    what: str = MADE_BY,
    first: int = 0,
    done: Callable[[int], None] = lambda images: None,
) -> None:
    """Encode the images of rows `start` to before `stop`, while threads decode the next ones.

    Args:
        first: images of this span that are written already.
        done: called after every batch with the number of images that are written.
    """
    at = first
    with Progress(what, stop - start, "image", first) as progress:
        for pixels, labels in table.batches(batch_size, start + first, stop):
            images = to_unit(pixels.to(device))
            for prefix, some in (("", images), *([("mirror_", images.flip(-1))] if mirrored else [])):
                mean, std = codec.encode(some)
                refuse_diverged((mean, std), "autoencoder: its latents", "lower autoencoder.learning_rate")
                writer.put(f"{prefix}mean", at, mean.cpu().numpy())
                writer.put(f"{prefix}std", at, std.cpu().numpy())
            writer.put("labels", at, labels.numpy())
            at += len(labels)
            progress.advance(len(labels))
            done(at)


@dataclass
class _Shard:
    """One file: its maps and where its rows begin."""

    path: Path
    maps: dict[str, Any]
    mapped: mmap.mmap
    about: dict[str, Any]


class LatentCache:
    """Latents on the disk.

    Attributes:
        labels: (N,) int64, positions in `classes`.
        classes: class names.
        shape: (C, h, w) of a latent.
        autoencoder: digest of the autoencoder that made them.
        mirrored: whether there are mirrors.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """
        Raises:
            DamagedArtifact: a file is no file of latents.
            BadInput: the files do not belong together.
        """
        self._shards = [_open(path) for path in paths]
        first = self._shards[0]
        self.shape: tuple[int, ...] = first.maps["mean"].shape[1:]
        self.classes: list[str] = first.about["classes"]
        self.autoencoder: str = first.about.get("autoencoder", "")
        self.mirrored = "mirror_mean" in first.maps
        for shard in self._shards[1:]:
            for what, mine, its in (
                ("autoencoder", self.autoencoder, shard.about.get("autoencoder", "")),
                ("shape", self.shape, shard.maps["mean"].shape[1:]),
                ("classes", self.classes, shard.about["classes"]),
                ("mirrors", self.mirrored, "mirror_mean" in shard.maps),
            ):
                if mine != its:
                    raise BadInput(
                        f"{shard.path}: latents of another {what} than those of {first.path}; delete both and run the "
                        "same command again"
                    )
        self.labels = torch.from_numpy(np.concatenate([shard.maps["labels"] for shard in self._shards]))
        self._ends = np.cumsum([len(shard.maps["labels"]) for shard in self._shards])
        self._read = 0

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor, mirror: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of these rows, or of their mirrors where `mirror` (n,) says so.

        Returns:
            Twice (n, C, h, w), fp32.
        """
        mean = torch.empty(len(rows), *self.shape)
        std = torch.empty(len(rows), *self.shape)
        for place, row in enumerate(rows.tolist()):
            shard = int(np.searchsorted(self._ends, row, side="right"))
            inside = row - (int(self._ends[shard - 1]) if shard else 0)
            prefix = "mirror_" if mirror is not None and bool(mirror[place]) else ""
            maps = self._shards[shard].maps
            mean[place] = torch.from_numpy(np.array(maps[f"{prefix}mean"][inside], dtype=np.float32))
            std[place] = torch.from_numpy(np.array(maps[f"{prefix}std"][inside], dtype=np.float32))
        self._forget(len(rows))
        return mean, std

    def _forget(self, rows: int) -> None:
        """Give the pages back now and then, so that a process does not seem to hold all that it ever read."""
        self._read += rows * 2 * max(int(np.prod(self.shape)) * 2, mmap.PAGESIZE)
        if self._read > _FORGET_BYTES:
            self._read = 0
            for shard in self._shards:
                shard.mapped.madvise(mmap.MADV_DONTNEED)


class OfClasses:
    """The latents of some classes of a cache.

    Attributes:
        labels: (n,) int64, positions in the classes of the cache.
    """

    def __init__(self, cache: LatentCache, classes: Sequence[int]) -> None:
        self._cache = cache
        self._rows = torch.isin(cache.labels, torch.tensor(classes)).nonzero().flatten()
        self.labels = cache.labels[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Tensor, mirror: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of these rows, counted among the latents of the classes."""
        return self._cache.take(self._rows[rows], mirror)


def _open(path: Path) -> _Shard:
    try:
        header = read_header(path)
        verify(path)
        about = json.loads(header.metadata["about"])
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        maps: dict[str, Any] = {
            name: np.ndarray(shape, _TYPES[dtype], mapped, header.start + header.tensors[name]["data_offsets"][0])
            for name, (dtype, shape) in header.shapes.items()
        }
        if not {"mean", "std", "labels"} <= maps.keys() or "classes" not in about:
            raise _not_latents(path, "it holds other tensors")
    except (OSError, KeyError, ValueError) as error:
        raise _not_latents(path, error) from error
    return _Shard(path, maps, mapped, about)


def _not_latents(path: Path, why: object) -> DamagedArtifact:
    return damaged(path, MADE_BY, why)
