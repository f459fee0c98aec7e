"""The handwritten digits that scikit-learn ships, as a source."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator

from distillery.data.settings import Digits
from distillery.data.source import Record, Split, class_sizes, count, names_of, records

DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
"""How many images of each digit scikit-learn ships; counted here, because importing it takes seconds."""


@names_of.register
def _(source: Digits, split: Split) -> list[str]:
    return [str(digit) for digit in range(10)]


@class_sizes.register
def _(source: Digits) -> dict[str, int]:
    return {str(digit): size for digit, size in enumerate(DIGITS)}


@count.register
def _(source: Digits, split: Split, classes: Collection[str]) -> int:
    return sum(1 for _ in _digits(classes))


@records.register
def _(source: Digits, split: Split, classes: Collection[str]) -> Iterator[Record]:
    return _digits(classes)


def _digits(classes: Collection[str]) -> Iterator[Record]:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for row, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        if str(label) in classes:
            buffer = io.BytesIO()
            Image.fromarray(np.floor(values * 255 / 16 + 0.5).astype(np.uint8)).save(buffer, "PNG")
            yield Record(f"digits/{row:05d}", f"sklearn.datasets.load_digits, row {row}", str(label), buffer.getvalue())
