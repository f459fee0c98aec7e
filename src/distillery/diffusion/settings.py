"""Settings of autoencoders, generators and sampling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distillery.settings import Block, Count, Fraction, NonNegative, Positive


class Autoencoder(Block):
    """An `AutoencoderKL` of diffusers, trained on the images: reconstruction + KL."""

    kind: Literal["train"] = "train"
    block_out_channels: list[Count] = Field(
        [16, 32], min_length=1, description="Each block but the last halves the side."
    )
    layers_per_block: Count = 1
    latent_channels: Count = 4
    steps: Count = 500
    batch_size: Count = 64
    learning_rate: Positive = 2e-3
    kl_weight: NonNegative = 1e-5


class Sampling(Block):
    """Sampling on respaced steps with classifier-free guidance."""

    solver: Literal["ddpm", "ddim", "dpm"] = Field(
        "ddpm",
        description="`ddpm`: ancestral, as published; `ddim`: without fresh noise; `dpm`: DPM-Solver++ of second order, "
        "for about 20 steps.",
    )
    steps: int = Field(50, ge=2, le=1000)
    guidance_scale: Positive = Field(4.0, description="Classifier-free guidance; 1 means none.")
    cfg_channels: Count | Literal["all"] = Field(
        "all", description="Noise channels that classifier-free guidance acts on; the published DiT-XL/2 uses 3."
    )
    batch_size: Count = Field(256, description="Most images in one pass.")


class Generator(Block):
    """A class-conditional `DiTTransformer2DModel` of diffusers, trained on the latents (noise prediction)."""

    kind: Literal["train"] = "train"
    num_layers: Count = 4
    num_attention_heads: Count = 3
    attention_head_dim: Count = 32
    patch_size: Count = 2
    steps: Count = 2000
    batch_size: Count = 128
    learning_rate: Positive = 2e-3
    warmup_steps: int = Field(100, ge=0)
    ema_decay: Fraction = 0.99
    label_dropout: Fraction = 0.1
    sampling: Sampling = Sampling()
