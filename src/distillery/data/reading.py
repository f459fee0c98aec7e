"""Image tables that are larger than the memory: a few images at a time, decoded ahead of whoever asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from distillery.devices import bound_cores
from distillery.errors import damaged
from distillery.storage.images import ImageSet, decode_image, read_classes


class ImageTable:
    """An image table on the disk.

    Attributes:
        classes: class names.
        labels: (N,) int64, positions in `classes`.
    """

    def __init__(self, path: Path, made_by: str = "ingest") -> None:
        """
        Raises:
            DamagedArtifact: not a table of images.
        """
        self.path, self._made_by = path, made_by
        self.classes = read_classes(path, made_by)
        try:
            self.labels: np.ndarray = (
                pq.read_table(path, columns=["label"], page_checksum_verification=True)["label"].to_numpy().copy()
            )
        except (OSError, pa.ArrowException, KeyError) as error:
            raise damaged(path, made_by, error) from error

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the first image."""
        channels, height, width = next(self.batches(1, 0, 1))[0].shape[1:]
        return channels, height, width

    def paths(self) -> list[str]:
        """A stable id of each image."""
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, page_checksum_verification=True) as file:
                column = file.read(columns=["image.path"], use_threads=False)["image"]
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.path, self._made_by, str(error).splitlines()[0]) from error
        return pc.struct_field(column, "path").to_pylist()

    def encoded(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The files of the images from row `start` to before `stop`, a group of rows in memory."""
        stop = len(self) if stop is None else stop
        for first, images in self._groups(lambda first, after: first < stop and after > start):
            for position in range(max(start - first, 0), min(stop - first, len(images))):
                yield images[position].as_py()

    def _groups(self, wanted: Callable[[int, int], bool]) -> Iterator[tuple[int, pa.ChunkedArray]]:
        """First row and files of each group of rows that is wanted, by its first row and the one behind its last."""
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, page_checksum_verification=True) as file:
                first = 0
                for group in range(file.num_row_groups):
                    after = first + file.metadata.row_group(group).num_rows
                    if wanted(first, after):
                        table = file.read_row_group(group, columns=["image.bytes"], use_threads=False)
                        yield first, pc.struct_field(table["image"], "bytes")
                    first = after
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.path, self._made_by, str(error).splitlines()[0]) from error

    def batches(
        self, size: int, start: int = 0, stop: int | None = None, workers: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (n, C, H, W) uint8 and labels (n,) of rows `start` to before `stop`, n = `size` but for the last.

        Threads decode the next two batches while the caller works on this one; Pillow holds no lock while it decodes.

        Raises:
            DamagedArtifact: an image cannot be read, or is of another size.
        """
        stop = len(self) if stop is None else stop
        at = start
        waiting: deque[Future[np.ndarray]] = deque()
        contents = self.encoded(start, stop)
        with ThreadPoolExecutor(workers or bound_cores()) as pool:
            try:
                while at < stop:
                    for content in contents:
                        waiting.append(pool.submit(decode_image, content))
                        if len(waiting) >= 3 * size:
                            break
                    count = min(size, stop - at)
                    try:
                        batch = np.stack([waiting.popleft().result() for _ in range(count)])
                    except (OSError, SyntaxError, ValueError) as error:  # a SyntaxError is Pillow's for a broken PNG
                        raise damaged(self.path, self._made_by, error) from error
                    yield torch.from_numpy(batch), torch.from_numpy(self.labels[at : at + count])
                    at += count
            finally:
                for future in waiting:
                    future.cancel()

    def take(self, rows: Sequence[int] | np.ndarray) -> ImageSet:
        """The images of these rows, in this order; the others are passed over."""
        wanted = np.unique(np.asarray(rows, dtype=np.int64))
        contents: dict[int, bytes] = {}
        for first, images in self._groups(lambda first, after: bool(((wanted >= first) & (wanted < after)).any())):
            inside = wanted[(wanted >= first) & (wanted < first + len(images))]
            contents |= {row: images[row - first].as_py() for row in inside.tolist()}
        paths = self.paths()
        order = np.asarray(rows, dtype=np.int64)
        return ImageSet(
            [contents[row] for row in order.tolist()],
            self.labels[order],
            self.classes,
            [paths[row] for row in order.tolist()],
        )

    def pixels(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """The images of these rows, decoded: (n, C, H, W) uint8."""
        return torch.from_numpy(self.take(rows).pixels())


def batches_of(images: Tensor | ImageTable, size: int, first: int = 0) -> Iterator[Tensor]:
    """Stored images from row `first` on, a batch at a time, (n, C, H, W) uint8 each, from memory or from a table."""
    if isinstance(images, ImageTable):
        return (pixels for pixels, _ in images.batches(size, first))
    return iter(images[first:].split(size)) if first < len(images) else iter(())


def span_of(count: int, shard: int, shards: int) -> tuple[int, int]:
    """First row of a shard and the one behind its last: shards of one table differ by one row at most."""
    return count * shard // shards, count * (shard + 1) // shards
