"""Settings of autoencoders, generators and sampling."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from distillery.settings import Block, Count, Fraction, Name, NonNegative, Positive


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
        description="`ddpm`: ancestral, as published; `ddim`: without fresh noise; `dpm`: DPM-Solver++ of second "
        "order, for about 20 steps.",
    )
    steps: int = Field(50, ge=2, le=1000)
    guidance_scale: Positive = Field(4.0, description="Classifier-free guidance; 1 means none.")
    cfg_channels: Count | Literal["all"] = Field(
        "all", description="Noise channels that classifier-free guidance acts on; the published DiT-XL/2 uses 3."
    )
    batch_size: Count = Field(256, description="Most images in one pass.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of the denoiser; auto: bfloat16 on a GPU, float32 on a CPU. Guidances are always float32."
    )


Policy = Literal["fifo", "max", "min"]


class PlainLoss(Block):
    """The diffusion loss alone."""

    kind: Literal["plain"] = "plain"


class _Memory(Block):
    """Two terms on the predicted clean latent: near to every real latent, far from every earlier prediction."""

    memory_size: Count = Field(64, description="Latents of each class in each of the two memories.")
    lambda_real: NonNegative = Field(0.002, description="Weight of 1 - cos with the least similar real latent.")
    lambda_generated: NonNegative = Field(0.008, description="Weight of cos with the most similar earlier prediction.")
    reduction: Literal["class_extreme", "sample_mean"] = Field(
        "class_extreme", description="One pair of each class, as in the published code, or of each sample, as printed."
    )
    multiplicity: Literal["once", "cumulative"] = Field(
        "once", description="`cumulative`: the k-th of n classes counts n-k+1 times, a slip of the published code."
    )
    real_latent: Literal["sample", "mean"] = Field(
        "sample", description="What the memory of real latents keeps: the sample of the posterior, or its mean."
    )
    max_timestep: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Beyond it predictions count in no term and enter no memory; none: all do."
    )
    max_age: Count | None = Field(None, description="Latents leave after so many steps; none: they do not.")

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.multiplicity == "cumulative" and self.reduction == "sample_mean":
            raise ValueError("multiplicity: cumulative counts classes, and sample_mean has none; allowed: once")
        return self


class Minimax(_Memory):
    """Minimax diffusion (arXiv 2311.15529): the oldest latents leave."""

    kind: Literal["minimax"]
    policy_real: Policy = "fifo"
    policy_generated: Policy = "fifo"


class Memory(_Memory):
    """Self-adaptive memory (arXiv 2505.19469): the latent most similar to the others of its class leaves."""

    kind: Literal["memory"]
    policy_real: Policy = "max"
    policy_generated: Policy = "max"


Objective = Annotated[PlainLoss | Minimax | Memory, Field(discriminator="kind")]
ObjectiveName = Literal["plain", "minimax", "memory"]


def _named(given: object) -> object:
    """A name alone stands for `{kind: name}`."""
    return {"kind": given} if isinstance(given, str) else given


class Generator(Block):
    """A class-conditional `DiTTransformer2DModel` of diffusers, trained on the latents (noise prediction)."""

    model_config = ConfigDict(populate_by_name=True)

    kind: Literal["train"] = "train"
    from_: Name | None = Field(
        None,
        alias="from",
        description="Another generator that training goes on from, with its layers; none: from scratch.",
    )
    objective: Annotated[Objective, BeforeValidator(_named, json_schema_input_type=Objective | ObjectiveName)] = Field(
        PlainLoss(), description="What it is trained for; a name alone stands for `{kind: name}`."
    )
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

    @property
    def shape(self) -> dict[str, int]:
        """What weights of another generator have to agree with."""
        return {name: getattr(self, name) for name in SHAPE}


SHAPE = ("num_layers", "num_attention_heads", "attention_head_dim", "patch_size")
