"""Tables of class vectors: those that a UNet owns, and those that lie beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distillery.errors import NotSafetensors, WeightsError
from distillery.storage.tensors import load_slice

BESIDE = "class_embedding.safetensors"
"""Beside the `unet/` of a generator whose UNet is told of classes by vectors: `weight` (classes + 1, D), none last."""


def asks_for_vectors(config: Any) -> bool:
    """Whether a UNet of this config is told of classes by vectors that it has no table of."""
    return bool(config.get("cross_attention_dim")) or config.get("class_embed_type") == "identity"


def table_of_unet(unet: Any, folder: Path) -> Tensor | None:
    """The class vectors of a UNet, (rows, D) fp32; None: it knows no classes.

    Args:
        folder: that holds `unet/`.

    Raises:
        WeightsError: it asks for vectors that are not there, or it hears of classes in a way that is not supported.
    """
    own = getattr(unet, "class_embedding", None)
    if isinstance(own, nn.Embedding):
        if unet.config.get("cross_attention_dim"):
            raise WeightsError(
                f"{folder / 'unet'}: hears of classes by a table and by cross-attention; allowed: one of the two"
            )
        return own.weight.detach().cpu().float()
    if not asks_for_vectors(unet.config):
        if own is not None:
            raise WeightsError(
                f"{folder / 'unet'}: class_embed_type {unet.config.class_embed_type!r}; allowed: identity"
            )
        return None
    path = folder / BESIDE
    try:
        table: Tensor = load_slice(path, "weight")[:].float()
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: no such file; the UNet is told of classes by vectors: put them there as `weight` (classes + 1, D)"
        ) from None
    except (OSError, NotSafetensors) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    return table
