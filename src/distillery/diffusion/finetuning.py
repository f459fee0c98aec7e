"""What has to fit before a generator is trained further: its latents, its autoencoder, its classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from distillery.data.identity import conditions
from distillery.diffusion.difffit import add_class_rows
from distillery.diffusion.latents import LatentCache
from distillery.diffusion.weights import model_digest
from distillery.errors import BadInput, UnknownClass
from distillery.storage.atomic import read_json


def check_latents(cache: LatentCache, transformer: Any, generator: Path, autoencoder: Path) -> None:
    """Refuse latents of another shape than the generator's, or of another autoencoder.

    Raises:
        BadInput: with both of what does not fit.
    """
    channels, size, _ = cache.shape
    wanted = (transformer.config.in_channels, transformer.config.sample_size)
    if (channels, size) != wanted:
        raise BadInput(
            f"{generator}: takes latents of {wanted[0]} x {wanted[1]} x {wanted[1]}, and the autoencoder gives "
            f"{channels} x {size} x {size}; take the autoencoder that it was trained "
            "with, or another dataset.resolution"
        )
    made_by, digest = cache.autoencoder, model_digest(autoencoder)
    if made_by and made_by != digest:
        raise BadInput(f"{autoencoder}: not the autoencoder of these latents ({made_by}, not {digest}); encode again")
    trained_on = read_json(generator / "model_index.json", "train_generator").get("_autoencoder")
    if trained_on and made_by and trained_on != made_by:
        raise BadInput(f"{generator}: trained on latents of another autoencoder ({trained_on}, not {made_by})")


def condition_classes(
    transformer: Any, generator: Path, classes: Sequence[str], unknown: Literal["error", "new_row"]
) -> tuple[Tensor, dict[str, str]]:
    """The row of each class in the generator's table, (classes,), and the names of all rows.

    Classes that the generator does not know get rows of their own, or are refused.

    Raises:
        BadInput: the generator does not know a class, and no row is to be added.
    """
    names = dict(read_json(generator / "model_index.json", "train_generator", "id2label")["id2label"])
    try:
        rows_of_labels = conditions(names, classes)
    except UnknownClass as missing:
        if unknown == "error" or missing.alike:  # a row more for a class that it knows under another spelling
            raise BadInput(
                f"{generator} knows no class {missing}; name the classes as it does (a wnid, or {_some(names)}), leave "
                "them out of dataset.classes, or set unknown_classes: new_row"
            ) from missing
        rows = add_class_rows(transformer, len(missing.names))
        # A name that several rows could mean gets a row too, and from then on is that one.
        names = {**names, **{str(row): name for row, name in zip(rows, missing.names, strict=True)}}
        known = [name for name in classes if name not in missing.names]
        new = dict(zip(missing.names, rows, strict=True))
        old = dict(zip(known, conditions(names, known).values(), strict=True))
        rows_of_labels = {label: (new | old)[name] for label, name in enumerate(classes)}
    return torch.tensor([rows_of_labels[label] for label in range(len(classes))]), names


def _some(names: dict[str, str]) -> str:
    shown = list(names.values())[:5]
    return ", ".join(repr(name) for name in shown) + (", …" if len(names) > len(shown) else "")
