"""Work in batches as large as the memory of the device allows."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch


def in_fitting_batches(count: int, size: int, work: Callable[[slice], None], named: str | None = None) -> int:
    """Call `work` with consecutive slices of at most `size` that cover `count` items.

    A slice that the device has no memory for is halved and tried again, and so are the following ones. A message on
    stderr says so where the items are `named`.

    Returns:
        The size of the batches that fit, for the next call.

    Raises:
        torch.cuda.OutOfMemoryError: a single item does not fit.
    """
    start = 0
    while start < count:
        rows = slice(start, min(start + size, count))
        try:
            work(rows)
        except torch.cuda.OutOfMemoryError:
            if rows.stop - start == 1:
                raise
        else:
            start = rows.stop
            continue
        tried, size = rows.stop - start, (rows.stop - start + 1) // 2  # outside `except`: the traceback holds tensors
        torch.cuda.empty_cache()
        if named is not None:
            print(f"out of memory with {tried} {named} at once: going on with {size}", file=sys.stderr)
    return size
