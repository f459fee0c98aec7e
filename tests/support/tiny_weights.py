"""Tiny random models in the layouts that real weights come in: they pass through the same code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiTTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from safetensors.torch import save_file
from tiny import job

from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.generators import PretrainedGenerator
from distillery.diffusion.settings import PretrainedAutoencoder
from distillery.diffusion.weights_ldm import NOISE
from distillery.stages import open_autoencoder, open_generator
from distillery.streams import stream

SIDE, CHANNELS, SIZE = 16, 4, 8
"""Of images, and of latents: a factor of two."""


def _drawn(name: str, make: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("tiny weights", name).initial_seed())
        model = make()
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return model.eval().requires_grad_(False)


def kl(image_channels: int = 3, blocks: int = 2, **options: Any) -> Any:
    """An `AutoencoderKL`; each block but the last halves the side."""
    return _drawn(
        "kl",
        lambda: AutoencoderKL(
            in_channels=image_channels,
            out_channels=image_channels,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=(8,) * blocks,
            latent_channels=CHANNELS,
            norm_num_groups=4,
            sample_size=SIDE,
            **options,
        ),
    )


def tiny(image_channels: int = 3) -> Any:
    """An `AutoencoderTiny` for the same latents."""
    return _drawn(
        "tiny",
        lambda: AutoencoderTiny(
            in_channels=image_channels,
            out_channels=image_channels,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=CHANNELS,
        ),
    )


def vq(image_channels: int = 3) -> Any:
    """A `VQModel` for latents of the same shape."""
    return _drawn(
        "vq",
        lambda: VQModel(
            in_channels=image_channels,
            out_channels=image_channels,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            latent_channels=CHANNELS,
            norm_num_groups=4,
            num_vq_embeddings=32,
            vq_embed_dim=CHANNELS,
        ),
    )


def dit(classes: int = 1000, layers: int = 2, learned_variance: bool = True, size: int = SIZE) -> Any:
    """A DiT whose blocks share one embedding, as those that were converted do."""
    model = _drawn(
        "dit",
        lambda: DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=CHANNELS,
            out_channels=CHANNELS * (2 if learned_variance else 1),
            num_layers=layers,
            sample_size=size,
            num_embeds_ada_norm=classes,
        ),
    )
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    return model


def unet(kind: Any = UNet2DModel, **options: Any) -> Any:
    """A U-Net of one of the classes of diffusers for the same latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        down, up = ("DownBlock2D", "DownBlock2D"), ("UpBlock2D", "UpBlock2D")
        if kind is UNet2DConditionModel:
            down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
            options["attention_head_dim"] = 4
        return kind(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=down,
            up_block_types=up,
            **options,
        ).eval()


def save_dit(folder: Path, model: Any = None, id2label: dict[str, str] | None = None) -> Path:
    """A folder as `facebook/DiT-XL-2-256` is one, its autoencoder left out."""
    model = dit() if model is None else model
    model.save_pretrained(folder / "transformer")
    config = folder / "transformer" / "config.json"
    about = json.loads(config.read_text("utf-8"))
    # As it stands on the hub: the old name of the class, and settings of other models.
    about |= {"_class_name": "Transformer2DModel", "cross_attention_dim": None, "only_cross_attention": False}
    config.write_text(json.dumps(about), "utf-8")
    DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear").save_pretrained(folder / "scheduler")
    names = {} if id2label is None else {"id2label": id2label}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline", **names}), "utf-8")
    return folder


def save_ldm(folder: Path, classes: int | None = 1000) -> Path:
    """A folder as `weights_convert` makes it of cin256, small; without classes, one as `CompVis/ldm-celebahq-256`."""
    levels = 4
    kind: Any = UNet2DModel
    down, up, options = ["DownBlock2D"] * levels, ["UpBlock2D"] * levels, dict[str, Any]()
    if classes is not None:
        kind, options = UNet2DConditionModel, {"cross_attention_dim": 8, "attention_head_dim": 2}
        down[1:], up[:-1] = ["CrossAttnDownBlock2D"] * 3, ["CrossAttnUpBlock2D"] * 3
        save_file({"weight": torch.zeros(classes + 1, 8)}, folder_of(folder) / "class_embedding.safetensors")
    shape: dict[str, Any] = {"in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 4}
    kind(
        sample_size=64,
        block_out_channels=(8,) * levels,
        down_block_types=down,
        up_block_types=up,
        **shape,
        **options,
    ).save_pretrained(folder / "unet")
    VQModel(
        block_out_channels=(8,) * 3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=3,
        num_vq_embeddings=16,
        vq_embed_dim=3,
        **shape,
    ).save_pretrained(folder / "vqvae")
    DDIMScheduler(**NOISE).save_pretrained(folder / "scheduler")
    return folder


def folder_of(folder: Path) -> Path:
    """The folder, which is there then."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def openings(folder: Path) -> dict[str, Path]:
    """Where a stage puts a generator."""
    return {
        "index": folder / "model_index.json",
        "config": folder / "transformer" / "config.json",
        "weights": folder / "transformer" / "diffusion_pytorch_model.safetensors",
        "scheduler": folder / "scheduler" / "scheduler_config.json",
    }


def autoencoder_files(folder: Path) -> dict[str, Path]:
    """Where a stage puts an autoencoder."""
    return {"config": folder / "config.json", "weights": folder / "diffusion_pytorch_model.safetensors"}


def open_vae(source: Path | str, folder: Path, channels: int = 3, **options: Any) -> Codec:
    """Let the stage open an autoencoder."""
    block = PretrainedAutoencoder(kind="pretrained", weights=str(source), **options)
    settings = open_autoencoder.Settings(
        opened="autoencoder", autoencoder=block, resolution=SIDE, image_channels=channels
    )
    open_autoencoder.run(settings, **autoencoder_files(folder), job=job("open_autoencoder", settings))
    return Codec.load(folder)


def open_dit(source: Path | str, folder: Path, **options: Any) -> Path:
    """Let the stage open a generator."""
    block = PretrainedGenerator(kind="pretrained", weights=str(source), **options)
    settings = open_generator.Settings(name="dit", generator=block)
    open_generator.run(settings, **openings(folder), job=job("open_generator", settings))
    return folder
