"""Contact sheets: the images of each increment, class by class."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from distillery.report.about import About
from distillery.report.style import SCREEN_DPI, describe, styled, text_width
from distillery.report.text import figure_text
from distillery.storage.images import ImageSet

MOST_IMAGES = 10
MOST_CLASSES = 20
_COLUMNS_ACROSS = 20
_ROWS_OF_LARGE_TILES = 30
_GAP = 3
_FONT = 9.0
_TITLE_FONT = 12.0


@dataclass(frozen=True)
class _Block:
    """One increment: its title and its images by class."""

    title: str
    images: list[list[bytes]]


def contact_sheet(increments: list[ImageSet], title: str, about: About) -> Figure:
    """One block per increment: a row per class, a column per image. One pixel of the sheet is one pixel of the PNG.

    Args:
        increments: in their order; `increment`, `slot` and `learnability` are used where they are present.
        title: of the sheet; a second line names the classes and images that are left out.
        about: of the experiment.
    """
    names = increments[0].classes
    shown = range(min(len(names), MOST_CLASSES))
    rows = [[np.flatnonzero(images.labels == label) for label in shown] for images in increments]
    most = max(1, *(len(of_class) for block in rows for of_class in block))
    across = min(most, MOST_IMAGES)
    blocks = [_block(images, position, rows[position], across) for position, images in enumerate(increments)]
    notes = []
    if len(names) > MOST_CLASSES:
        notes.append(f"first {MOST_CLASSES} of {len(names)} classes")
    if most > MOST_IMAGES:
        notes.append(f"first {MOST_IMAGES} of up to {most} images per class and increment")
    heading = [title, *([", ".join(notes)] if notes else [])]
    sheet = _draw(blocks, [_short(figure_text(names[label], f"class {label}")) for label in shown], across, heading)
    describe(sheet, about, n=f"n = {sum(map(len, increments))} images in {len(increments)} increments")
    return sheet


def _block(images: ImageSet, position: int, rows: list[np.ndarray], across: int) -> _Block:
    number = int(images.columns["increment"][0]) if "increment" in images.columns and len(images) else position + 1
    title = f"increment {number}"
    if "learnability" in images.columns and np.isfinite(images.columns["learnability"].astype(float)).any():
        title += f"\nmean learnability {np.nanmean(images.columns['learnability'].astype(float)):.2f}"
    slots = images.columns.get("slot", np.arange(len(images)))
    ordered = [of_class[np.argsort(slots[of_class], kind="stable")][:across] for of_class in rows]
    return _Block(title, [[images.images[index] for index in of_class] for of_class in ordered])


def _short(name: str, most: int = 24) -> str:
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


def _side(blocks: list[_Block], lines: int) -> int:
    """The side of a tile in pixels: large where the sheet stays small, and a multiple of small images."""
    some = next((image for block in blocks for row in block.images for image in row), None)
    if some is None:
        return 64
    with Image.open(io.BytesIO(some)) as image:
        longest = max(image.size)
    if longest <= 64:
        return longest * (64 // longest)
    return min(longest, 96 if lines <= _ROWS_OF_LARGE_TILES else 64)


def _pixels(block: _Block, side: int, across: int) -> np.ndarray:
    """The images of a block on white: (rows, columns, 3) uint8."""
    pitch = side + _GAP
    sheet = np.full((len(block.images) * pitch - _GAP, across * pitch - _GAP, 3), 255, np.uint8)
    for row, images in enumerate(block.images):
        for column, content in enumerate(images):
            tile = _tile(content, side)
            sheet[row * pitch : row * pitch + side, column * pitch : column * pitch + side] = tile
    return sheet


@styled
def _draw(blocks: list[_Block], names: list[str], across: int, heading: list[str]) -> Figure:
    points = SCREEN_DPI / 72
    abreast = min(len(blocks), max(1, _COLUMNS_ACROSS // across))
    lines = -(-len(blocks) // abreast)
    side = _side(blocks, lines * len(names))
    sheets = [_pixels(block, side, across) for block in blocks]
    height, width = sheets[0].shape[:2]

    margin = round(12 * points)
    left = margin + round(max(text_width(name, _FONT) for name in names) * points) + margin // 2
    title_lines = max(block.title.count("\n") + 1 for block in blocks)
    above = round((title_lines * _FONT * 1.3 + 5) * points)
    head = margin + round(len(heading) * _TITLE_FONT * 1.4 * points) + margin // 2
    step_x = max(width, *(round(text_width(text, _FONT) * points) for b in blocks for text in b.title.split("\n")))
    step_x += margin
    needed = margin + round(max(text_width(text, _TITLE_FONT) for text in heading) * points)
    total_x = max(left + abreast * step_x, needed + margin)
    total_y = head + lines * (above + height + margin)

    figure = Figure(figsize=(total_x / SCREEN_DPI, total_y / SCREEN_DPI), dpi=SCREEN_DPI)
    for line, text in enumerate(heading):
        below_top = margin + (line + 1) * _TITLE_FONT * 1.4 * points
        size = _TITLE_FONT if line == 0 else _FONT
        figure.text(margin / total_x, 1 - below_top / total_y, text, fontsize=size, va="bottom")
    for index, (block, sheet) in enumerate(zip(blocks, sheets, strict=True)):
        row, column = divmod(index, abreast)
        x = left + column * step_x
        y = total_y - head - row * (above + height + margin) - above - height
        axes = figure.add_axes((x / total_x, y / total_y, width / total_x, height / total_y))
        # The axes have the size of the sheet, so that nothing is resampled.
        axes.imshow(sheet, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.set_title(block.title, fontsize=_FONT, loc="left", pad=4)
        if column == 0:
            for place, name in enumerate(names):
                middle = place * (side + _GAP) + side / 2
                axes.text(-margin / 2, middle, name, fontsize=_FONT, ha="right", va="center")
    return figure
