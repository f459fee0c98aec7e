"""Checkpoints of latent diffusion (arXiv 2112.10752), rewritten in the layout of diffusers.

One file holds all of a model: `model.diffusion_model.` the UNet, `first_stage_model.` the VQ autoencoder, and
`cond_stage_model.embedding.weight` the vectors of the classes, that of no class last. `weights_convert` calls this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillery.diffusion.weights import WEIGHTS
from distillery.errors import WeightsError
from distillery.lean_imports import from_diffusers
from distillery.storage.atomic import write_json
from distillery.storage.tensors import save_tensors

UNET, FIRST_STAGE, CLASSES = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.embedding.weight"

HEAD_CHANNELS = 32
"""Channels of an attention head (`num_head_channels`) in every UNet that was published with this autoencoder."""

NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
"""The schedule of `cin256-v2`: DDIM starts at timestep 1 and ends at the level of timestep 0."""


class _Forgotten:
    """Stands for a class of the training program, of which a checkpoint keeps notes that nobody reads here."""

    def __setstate__(self, state: object) -> None:
        """Nothing of it is kept."""


_NOTES = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)


def read_checkpoint(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint by name; None: it is none of latent diffusion. Read with `weights_only=True`.

    Raises:
        WeightsError: it holds something else than tensors, numbers and text.
    """
    allowed: Any = [(_Forgotten, name) for name in _NOTES]
    try:
        with torch.serialization.safe_globals(allowed):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises anything
        raise WeightsError(f"{path}: holds something else than tensors ({type(error).__name__})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not any(str(name).startswith(UNET) for name in state):
        return None
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def unet_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of the `UNet2DConditionModel` that has these weights, from their names and shapes.

    Args:
        tensors: of the checkpoint.

    Raises:
        WeightsError: the UNet is of another kind: without cross-attention, or with blocks that change the side inside.
    """
    inner = {name.removeprefix(UNET): value.shape for name, value in tensors.items() if name.startswith(UNET)}
    widths: list[int] = []
    attends: list[bool] = []
    layers = [0]
    for block in range(1, 1 + max(int(name.split(".")[1]) for name in inner if name.startswith("input_blocks."))):
        if f"input_blocks.{block}.0.op.weight" in inner:
            layers.append(0)
            continue
        try:
            width = inner[f"input_blocks.{block}.0.out_layers.3.weight"][0]
        except KeyError as error:
            raise WeightsError(f"a UNet of latent diffusion without {error}; only that of cin256 is known") from None
        layers[-1] += 1
        if layers[-1] == 1:
            widths.append(width)
            attends.append(f"input_blocks.{block}.1.transformer_blocks.0.attn2.to_k.weight" in inner)
    context = next((shape[1] for name, shape in inner.items() if name.endswith("attn2.to_k.weight")), None)
    if context is None or len({*layers}) > 1:
        raise WeightsError(
            "a UNet of latent diffusion without cross-attention to classes; only that of cin256 is known"
        )
    down = ["CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends]
    up = ["CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(attends)]
    return {
        "sample_size": 64,
        "in_channels": inner["input_blocks.0.0.weight"][1],
        "out_channels": inner["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers[0],
        "down_block_types": down,
        "up_block_types": up,
        "cross_attention_dim": context,
        "attention_head_dim": [max(width // HEAD_CHANNELS, 1) for width in widths],  # diffusers counts heads by it
    }


def autoencoder_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config of the `VQModel` that has these weights, from their names and shapes."""
    inner = {
        name.removeprefix(FIRST_STAGE): value.shape for name, value in tensors.items() if name.startswith(FIRST_STAGE)
    }
    places = [found.groups() for name in inner if (found := re.match(r"encoder\.down\.(\d+)\.block\.(\d+)\.", name))]
    levels, layers = (1 + max(int(place[which]) for place in places) for which in (0, 1))
    entries, embedding = inner["quantize.embedding.weight"]
    return {
        "in_channels": inner["encoder.conv_in.weight"][1],
        "out_channels": inner["decoder.conv_out.weight"][0],
        "block_out_channels": [inner[f"encoder.down.{level}.block.0.conv1.weight"][0] for level in range(levels)],
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": inner["encoder.conv_out.weight"][0],
        "num_vq_embeddings": entries,
        "vq_embed_dim": embedding,
        "scaling_factor": 1.0,
    }


def convert_checkpoint(path: Path) -> Iterator[Path]:
    """Rewrite a checkpoint of a class-conditional UNet and its VQ autoencoder beside it.

    `unet/`, `vqvae/` and `scheduler/` are as diffusers has them, `class_embedding.safetensors` is the table of classes.

    Yields:
        Each file of weights that was written; none where the file is no checkpoint of latent diffusion.

    Raises:
        WeightsError: parts of the model are missing, or it is of another kind.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    if (tensors := read_checkpoint(path)) is None:
        return
    if CLASSES not in tensors or f"{FIRST_STAGE}quantize.embedding.weight" not in tensors:
        raise WeightsError(
            f"{path}: no class-conditional model with a VQ autoencoder; only the layout of cin256 is known"
        )
    try:
        configs = {"unet": unet_config(tensors), "vqvae": autoencoder_config(tensors)}
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: not whole: no {error}") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    scheduler = from_diffusers("DDIMScheduler")(**NOISE)
    levels = tensors.get("alphas_cumprod")
    if levels is not None and not torch.allclose(levels.float(), scheduler.alphas_cumprod.float(), atol=1e-5):
        raise WeightsError(f"{path}: its noise schedule is not that of cin256-v2")
    tables: dict[str, dict[str, Any]] = {
        "unet": convert_ldm_unet_checkpoint(tensors, configs["unet"]),
        "vqvae": convert_ldm_vae_checkpoint(tensors, configs["vqvae"]),
    }
    entries = tensors[f"{FIRST_STAGE}quantize.embedding.weight"]
    tables["vqvae"]["quantize.embedding.weight"] = entries
    classes = {"unet": "UNet2DConditionModel", "vqvae": "VQModel"}
    for part, table in tables.items():
        with torch.device("meta"):
            wanted = from_diffusers(classes[part])(**configs[part]).state_dict()
        if odd := sorted({*wanted} ^ {*table}) or [name for name in wanted if wanted[name].shape != table[name].shape]:
            raise WeightsError(f"{path}: {part}: {', '.join(odd[:3])} do not fit its other weights")
        folder = path.parent / part
        write_json(folder / "config.json", {"_class_name": classes[part], **configs[part]})
        save_tensors(folder / WEIGHTS, {name: value.contiguous() for name, value in table.items()}, {"format": "pt"})
        yield folder / WEIGHTS
    beside = path.parent / "class_embedding.safetensors"
    save_tensors(beside, {"weight": tensors[CLASSES].float().contiguous()}, {"format": "pt"})
    write_json(path.parent / "scheduler/scheduler_config.json", json.loads(scheduler.to_json_string()))
    yield beside
