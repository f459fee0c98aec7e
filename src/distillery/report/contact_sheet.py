"""Contact sheets: the images of a set, or of each of its increments, class by class."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from distillery.report.about import About
from distillery.report.image_grid import ImageBlock, image_grid, short
from distillery.report.style import describe
from distillery.report.text import figure_text
from distillery.storage.images import ImageSet

MOST_IMAGES = 10
MOST_CLASSES = 20
MOST_OF_A_SET = 20
"""Images of a class where a set is one block."""


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
    sheet = image_grid(blocks, [short(figure_text(names[label], f"class {label}")) for label in shown], across, heading)
    describe(sheet, about, n=f"n = {sum(map(len, increments))} images in {len(increments)} increments")
    return sheet


def _block(images: ImageSet, position: int, rows: list[np.ndarray], across: int) -> ImageBlock:
    number = int(images.columns["increment"][0]) if "increment" in images.columns and len(images) else position + 1
    title = f"increment {number}"
    if "learnability" in images.columns and np.isfinite(images.columns["learnability"].astype(float)).any():
        title += f"\nmean learnability {np.nanmean(images.columns['learnability'].astype(float)):.2f}"
    slots = images.columns.get("slot", np.arange(len(images)))
    ordered = [of_class[np.argsort(slots[of_class], kind="stable")][:across] for of_class in rows]
    return ImageBlock(title, [[images.images[index] for index in of_class] for of_class in ordered])


def images_by_class(images: ImageSet, title: str, about: About) -> Figure:
    """One block: a row per class, the images of a class in the order of their slots.

    Args:
        title: of the sheet; a second line names the classes and images that are left out.
        about: of the experiment.
    """
    shown = range(min(len(images.classes), MOST_CLASSES))
    slots = images.columns.get("slot", np.arange(len(images)))
    rows = [np.flatnonzero(images.labels == label) for label in shown]
    most = max(1, *map(len, rows))
    ordered = [of_class[np.argsort(slots[of_class], kind="stable")][:MOST_OF_A_SET] for of_class in rows]
    notes = []
    if len(images.classes) > MOST_CLASSES:
        notes.append(f"first {MOST_CLASSES} of {len(images.classes)} classes")
    if most > MOST_OF_A_SET:
        notes.append(f"first {MOST_OF_A_SET} of up to {most} images per class")
    names = [short(figure_text(images.classes[label], f"class {label}")) for label in shown]
    block = ImageBlock("", [[images.images[row] for row in of_class] for of_class in ordered])
    sheet = image_grid([block], names, min(most, MOST_OF_A_SET), [title, *([", ".join(notes)] if notes else [])])
    describe(sheet, about, n=f"n = {len(images)} images")
    return sheet
