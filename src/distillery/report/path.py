"""The paths of samples as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from distillery.report.about import About
from distillery.report.image_grid import ImageBlock, image_grid, short
from distillery.report.style import describe
from distillery.report.text import figure_text
from distillery.storage.images import ImageSet


def path_figure(traced: ImageSet, method: str, guidances: Sequence[str], about: About) -> Figure:
    """A block per class: the path without guidance above that with guidance, a column per recorded step.

    Args:
        traced: the images that `trace_sample` made.
        method: of the title.
        guidances: the guidances of the method, of the title.
        about: of the experiment.
    """
    guided, index, steered = (traced.columns[name] for name in ("guided", "index", "steered"))
    blocks = []
    for label in dict.fromkeys(traced.labels.tolist()):
        rows = [np.flatnonzero((traced.labels == label) & (guided == which)) for which in (False, True)]
        captions = ["image" if index[row] < 0 else f"{index[row]}{'*' if steered[row] else ''}" for row in rows[1]]
        title = f"class {short(figure_text(traced.classes[label], f'label {label}'))}"
        blocks.append(ImageBlock(title, [[traced.images[int(row)] for row in half] for half in rows], captions))
    across = max(len(block.captions) for block in blocks)
    title = f"{method}: predicted clean image along the sampling steps"
    sheet = image_grid(blocks, ["without guidance", "with guidance"], across, [title], stacked=True)
    notes = [
        "below each column: its sampling index, noise to image",
        f"*: guidance acts ({', '.join(guidances)})",
        "both rows start from the same noise",
    ]
    last = (index < 0) & guided
    if not traced.columns["repeats_set"][last].all():
        notes.append("the image with guidance is not that of the set: it was drawn on another device")
    describe(sheet, about, n=f"{len(blocks)} images, one per class", notes=notes)
    return sheet
