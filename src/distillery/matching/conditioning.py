"""Denoisers that take class vectors as well as class labels, and the tables of class vectors that belong to UNets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillery.diffusion.denoiser import GuidedNetwork
from distillery.errors import NotSafetensors, WeightsError
from distillery.storage.tensors import load_slice

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(states (N, C, h, w), timesteps (N,) int64, class vectors) -> output (N, C or 2C, h, w)."""

BESIDE = "class_embedding.safetensors"
"""Beside the `unet/` of a generator whose UNet takes classes as vectors: `weight` (classes + 1, D), no class last."""


class LabelOrVector(nn.Module):
    """Stands for a table of classes: integer labels are looked up, vectors pass."""

    def __init__(self, table: nn.Embedding, block: int) -> None:
        """
        Args:
            table: (rows, D), the row of no class included.
            block: index of the transformer block that owns the table, among vectors of one row per block.
        """
        super().__init__()
        self.table, self.block = table, block

    def forward(self, labels: Tensor, force_drop_ids: Tensor | None = None) -> Tensor:
        """Labels (N,) int64, vectors (N, D), or vectors (N, blocks, D), to (N, D) in the type of the table."""
        if not labels.is_floating_point():
            return self.table(labels)
        vectors = labels if labels.ndim == 2 else labels[:, self.block]
        return vectors.to(self.table.weight.dtype)


def open_labels(transformer: Any) -> Tensor:
    """Let a `DiTTransformer2DModel` take vectors in the place of labels, in place.

    Every block of diffusers' DiT owns a table. Where all are equal, as in models that were converted from one table, a
    vector is one row; where they differ, it is one row of each.

    Returns:
        The rows, (classes + 1, D) or (classes + 1, blocks, D) fp32 on the CPU; the last is that of no class.
    """
    embedders = [block.norm1.emb for block in transformer.transformer_blocks]
    tables = [embedder.class_embedder.embedding_table for embedder in embedders]
    for number, (embedder, table) in enumerate(zip(embedders, tables, strict=True)):
        embedder.class_embedder = LabelOrVector(table, number)
    weights = [table.weight.detach().cpu() for table in tables]
    if all(torch.equal(weight, weights[0]) for weight in weights):
        return weights[0].clone()
    return torch.stack(weights, 1)


def open_unet_labels(unet: Any) -> Tensor | None:
    """Let a UNet of diffusers take vectors in the place of labels, in place.

    Returns:
        The rows of its own table, (rows, D) fp32 on the CPU; None: it has no table of its own.
    """
    table = getattr(unet, "class_embedding", None)
    if not isinstance(table, nn.Embedding):
        return None
    unet.class_embedding = LabelOrVector(table, 0)
    return table.weight.detach().cpu().clone()


class VectorDenoiser(GuidedNetwork):
    """Noise prediction with classifier-free guidance, from states and class vectors.

    Attributes:
        rows: (classes, …) initial class vectors, or None: the generator knows no classes.
        null: (…) the vector of no class, or None.
    """

    def __init__(
        self, network: Any, scheduler: Any, call: Call, rows: Tensor | None, null: Tensor | None, **options: Any
    ) -> None:
        """`call`: one call of `network`; `options`: those of `GuidedNetwork`.

        Raises:
            ValueError: guidance without a vector of no class.
        """
        super().__init__(network, scheduler, **options)
        if rows is not None and null is None and self.guidance_scale != 1:
            raise ValueError(
                f"guidance_scale: {self.guidance_scale} needs the row of no class, and the generator has none; "
                "allowed: 1"
            )
        self._call, self.rows, self.null = call, rows, null

    def predict(self, states: Tensor, timesteps: Tensor, conditions: Tensor | None) -> Tensor:
        return self._call(states, timesteps, conditions)

    def forward(self, noisy: Tensor, timestep: int, vectors: Tensor | None) -> Tensor:
        """The noise prediction alone, (N, C, h, w), as `guided` gives it for class vectors (N, …)."""
        return self.guided(noisy, timestep, vectors, self.null)[0]


def of_dit(transformer: Any, scheduler: Any, *, guidance_scale: float, half: bool = False) -> VectorDenoiser:
    """A `VectorDenoiser` of a class-conditional DiT; its tables are replaced in place."""
    rows = open_labels(transformer)

    def call(states: Tensor, timesteps: Tensor, vectors: Tensor | None) -> Tensor:
        return transformer(states, timestep=timesteps, class_labels=vectors).sample

    return VectorDenoiser(transformer, scheduler, call, rows[:-1], rows[-1], guidance_scale=guidance_scale, half=half)


def of_unet(
    unet: Any, scheduler: Any, table: Tensor | None, classes: int, *, guidance_scale: float, half: bool = False
) -> VectorDenoiser:
    """A `VectorDenoiser` of a UNet of diffusers.

    A class enters by an embedding that is added to that of the timestep (`num_class_embeds`, or `class_embed_type:
    identity`), by cross-attention to one token, or not at all.

    Args:
        table: (rows, D) stored beside the UNet; None: it has a table of its own, or knows no classes.
        classes: rows of classes; the last row beyond them is that of no class.

    Raises:
        ValueError: classes without vectors, or guidance without the vector of no class.
    """
    own = open_unet_labels(unet)
    rows = table if own is None else own
    attends = bool(unet.config.get("cross_attention_dim"))
    if rows is None and (attends or unet.config.get("class_embed_type") is not None):
        raise ValueError("the UNet asks for class vectors, and there is no table of them")
    if rows is not None and len(rows) < classes:
        raise ValueError(f"a table of {len(rows)} rows for {classes} classes")
    if rows is not None and attends:
        rows = rows[:, None]  # one token

    def call(states: Tensor, timesteps: Tensor, vectors: Tensor | None) -> Tensor:
        if vectors is None:
            return unet(states, timesteps).sample
        if attends:
            return unet(states, timesteps, encoder_hidden_states=vectors.to(unet.dtype)).sample
        return unet(states, timesteps, class_labels=vectors).sample

    null = rows[-1] if rows is not None and len(rows) > classes else None
    known = None if rows is None else rows[:classes]
    return VectorDenoiser(unet, scheduler, call, known, null, guidance_scale=guidance_scale, half=half)


def table_of_unet(unet: Any, folder: Path) -> Tensor | None:
    """The class vectors of a UNet in the folder that holds `unet/`, (rows, D) fp32; None: it knows no classes.

    Raises:
        WeightsError: its vectors are absent, or classes enter it in a way that is not supported.
    """
    own, config = getattr(unet, "class_embedding", None), unet.config
    if isinstance(own, nn.Embedding):
        if config.get("cross_attention_dim"):
            raise WeightsError(
                f"{folder / 'unet'}: takes classes by a table and by cross-attention; allowed: one of the two"
            )
        return own.weight.detach().cpu().float()
    if not config.get("cross_attention_dim") and config.get("class_embed_type") != "identity":
        if own is not None:
            raise WeightsError(f"{folder / 'unet'}: class_embed_type {config.class_embed_type!r}; allowed: identity")
        return None
    path = folder / BESIDE
    try:
        table: Tensor = load_slice(path, "weight")[:].float()
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: no such file; the UNet takes classes as vectors: put them there as `weight` (classes + 1, D)"
        ) from None
    except (OSError, NotSafetensors) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    return table


def ends_of(scheduler: Any) -> tuple[int, float]:
    """The offset of the timesteps of a chain, and the cumulative alpha product after its last step.

    They are 0 and 1, except for schedules as those of latent diffusion (`steps_offset: 1`, `set_alpha_to_one: false`),
    whose last product is that of timestep 0.
    """
    config = scheduler.config
    last = 1.0 if config.get("set_alpha_to_one", True) else float(scheduler.alphas_cumprod[0].double())
    return int(config.get("steps_offset", 0)), last
