"""Grids of images with titles: what contact sheets, nearest neighbours and paths of samples are drawn with.

One pixel of a grid is one pixel of the PNG.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from distillery.report.style import SCREEN_DPI, styled, text_width

_COLUMNS_ACROSS = 20
_ROWS_OF_LARGE_TILES = 30
_GAP = 3
_FONT = 9.0
_TITLE_FONT = 12.0


@dataclass(frozen=True)
class ImageBlock:
    """Rows of images.

    Attributes:
        images: encoded files, row by row; rows may differ in length.
        captions: a short text below each column; none: no captions.
    """

    title: str
    images: Sequence[Sequence[bytes]]
    captions: Sequence[str] = field(default=())


def short(name: str, most: int = 24) -> str:
    """A name of at most so many letters."""
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def _tile(content: bytes, side: int) -> np.ndarray:
    """One encoded image on a white square: (side, side, 3) uint8.

    A small image grows by a whole factor, pixel by pixel, so that it stays as crisp as it is; a large one shrinks.
    """
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    longest = max(image.size)
    if longest <= side:
        factor = side // longest
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    else:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    tile = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - image.height) // 2, (side - image.width) // 2
    tile[top : top + image.height, left : left + image.width] = np.asarray(image)
    return tile


def _side(blocks: Sequence[ImageBlock], lines: int) -> int:
    """The side of a tile in pixels: large where the sheet stays small, and a multiple of small images."""
    some = next((image for block in blocks for row in block.images for image in row), None)
    if some is None:
        return 64
    with Image.open(io.BytesIO(some)) as image:
        longest = max(image.size)
    if longest <= 64:
        return longest * (64 // longest)
    return min(longest, 96 if lines <= _ROWS_OF_LARGE_TILES else 64)


def _pixels(block: ImageBlock, side: int, across: int) -> np.ndarray:
    """The images of a block on white: (rows, columns, 3) uint8."""
    pitch = side + _GAP
    sheet = np.full((len(block.images) * pitch - _GAP, across * pitch - _GAP, 3), 255, np.uint8)
    for row, images in enumerate(block.images):
        for column, content in enumerate(images):
            tile = _tile(content, side)
            sheet[row * pitch : row * pitch + side, column * pitch : column * pitch + side] = tile
    return sheet


@styled
def image_grid(
    blocks: Sequence[ImageBlock], names: Sequence[str], across: int, heading: Sequence[str], *, stacked: bool = False
) -> Figure:
    """Blocks of images side by side, as many as fit, with the names of their rows at the left.

    Args:
        names: of the rows, the same for all blocks.
        across: columns of a block.
        heading: lines at the top; the first is the title.
        stacked: one block below another instead.
    """
    points = SCREEN_DPI / 72
    abreast = 1 if stacked else min(len(blocks), max(1, _COLUMNS_ACROSS // across))
    lines = -(-len(blocks) // abreast)
    side = _side(blocks, lines * len(names))
    sheets = [_pixels(block, side, across) for block in blocks]
    height, width = sheets[0].shape[:2]

    margin = round(12 * points)
    left = margin + round(max(text_width(name, _FONT) for name in names) * points) + margin // 2
    title_lines = max(block.title.count("\n") + 1 for block in blocks)
    above = round((title_lines * _FONT * 1.3 + 5) * points)
    head = margin + round(len(heading) * _TITLE_FONT * 1.4 * points) + margin // 2
    below = round(_FONT * 1.5 * points) if any(block.captions for block in blocks) else 0
    step_x = max(width, *(round(text_width(text, _FONT) * points) for b in blocks for text in b.title.split("\n")))
    step_x += margin
    needed = margin + round(max(text_width(text, _TITLE_FONT) for text in heading) * points)
    total_x = max(left + abreast * step_x, needed + margin)
    total_y = head + lines * (above + height + below + margin)

    figure = Figure(figsize=(total_x / SCREEN_DPI, total_y / SCREEN_DPI), dpi=SCREEN_DPI)
    for line, text in enumerate(heading):
        below_top = margin + (line + 1) * _TITLE_FONT * 1.4 * points
        size = _TITLE_FONT if line == 0 else _FONT
        figure.text(margin / total_x, 1 - below_top / total_y, text, fontsize=size, va="bottom")
    for index, (block, sheet) in enumerate(zip(blocks, sheets, strict=True)):
        row, column = divmod(index, abreast)
        x = left + column * step_x
        y = total_y - head - row * (above + height + below + margin) - above - height
        axes = figure.add_axes((x / total_x, y / total_y, width / total_x, height / total_y))
        # The axes have the size of the sheet, so that nothing is resampled.
        axes.imshow(sheet, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for place, caption in enumerate(block.captions):
            middle = place * (side + _GAP) + side / 2
            axes.text(middle, height + 4, caption, fontsize=_FONT, ha="center", va="top")
        axes.set_title(block.title, fontsize=_FONT, loc="left", pad=4)
        if column == 0:
            for place, name in enumerate(names):
                middle = place * (side + _GAP) + side / 2
                axes.text(-margin / 2, middle, name, fontsize=_FONT, ha="right", va="center")
    return figure
