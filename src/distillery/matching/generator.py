"""A frozen generator, a DiT or a UNet, opened for the chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.denoiser import alphas_cumprod_of
from distillery.diffusion.models import load_generator, set_timestep_shift
from distillery.diffusion.renderer import class_conditions, codec_of
from distillery.errors import BadInput
from distillery.matching import conditioning
from distillery.matching.chain import DiffusionChain
from distillery.matching.checks import wrong_steps
from distillery.matching.settings import Chain as ChainSettings
from distillery.storage.atomic import read_json
from distillery.storage.tensors import read_tensors
from distillery.streams import stream


@dataclass
class FrozenGenerator:
    """A frozen generator with its autoencoder, opened for the chain.

    Attributes:
        side: of the images that it draws, in pixels.
        latent_side: of its latents.
        conditions: label -> its class index; empty where it knows no classes.
    """

    denoiser: conditioning.VectorDenoiser
    codec: Codec
    alphas_cumprod: list[float]
    ends: tuple[int, float]
    side: int
    latent_side: int
    conditions: dict[int, int]

    def chain(self, settings: ChainSettings) -> DiffusionChain:
        """Its reverse diffusion.

        Raises:
            BadInput: steps that do not fit its schedule, or a codebook that is not there.
        """
        if why := wrong_steps(settings.steps, len(self.alphas_cumprod), settings.uneven):
            raise BadInput(f"chain.steps: {why}")
        quantise = quantiser(self.codec) if settings.quantise == "vq" else None
        return DiffusionChain(
            self.denoiser,
            self.alphas_cumprod,
            steps=settings.steps,
            residual=settings.residual,
            quantise=quantise,
            ends=self.ends,
        )

    def vectors(self, labels: Tensor, condition: str) -> Tensor | None:
        """Class vectors to start from, (N, …) fp32, or None where there are no classes."""
        if self.denoiser.rows is None:
            return None
        if condition == "none":
            assert self.denoiser.null is not None
            return self.denoiser.null.expand(len(labels), *self.denoiser.null.shape).clone()
        return self.denoiser.rows[torch.tensor([self.conditions[label] for label in labels.tolist()])].clone()


def quantiser(codec: Codec) -> Any:
    """Scaled latents to the nearest entries of a `VQModel`'s codebook, with a gradient as if nothing had been done.

    Raises:
        BadInput: the autoencoder has no codebook.
    """
    model = codec.autoencoder
    if not hasattr(model, "quantize"):
        raise BadInput(
            f"chain.quantise: vq asks for a codebook, and the autoencoder is a {type(model).__name__}; allowed: none"
        )

    def quantise(latents: Tensor) -> Tensor:
        entries = model.quantize(latents / codec.scale + codec.shift)[0]
        return (entries - codec.shift) * codec.scale

    return quantise


def open_generator(
    folder: Path,
    autoencoder: Path,
    settings: ChainSettings,
    classes: Sequence[str],
    *,
    resolution: int,
    seed: int,
    device: torch.device,
) -> FrozenGenerator:
    """Open a generator, a DiT or a UNet, for the chain.

    Args:
        classes: of the data.
        resolution: side of the images of the data.
        seed: of the weights, where the chain wants random ones.

    Raises:
        BadInput: generator and autoencoder do not belong together, or the chain does not fit the generator.
    """
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and device.type == "cuda")
    names = read_json(folder / "model_index.json", "train_generator").get("id2label") or {}
    options: dict[str, Any] = {"guidance_scale": settings.guidance_scale, "half": half}
    try:
        network, scheduler = load_generator(folder)
        network = randomised(network, seed) if settings.denoiser == "random" else network
        if (folder / "unet").is_dir():
            table = read_tensors(folder / "unet" / "classes.safetensors", "open_generator")[0].get("weight")
            options["guidance_scale"] = settings.guidance_scale if names else 1.0
            known = 1 + max(map(int, names), default=-1)
            denoiser = conditioning.of_unet(network, scheduler, table, known, **options)
        else:
            denoiser = conditioning.of_dit(network, scheduler, **options)
    except ValueError as error:
        raise BadInput(f"{folder}: {error}") from error
    if settings.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    codec = codec_of(folder, autoencoder, denoiser.channels).to(device)
    latent = int(network.config.sample_size) if settings.render_size == "native" else codec.latent_size(resolution)
    if denoiser.rows is not None and denoiser.null is None and settings.condition == "none":
        raise BadInput(f"{folder}: chain.condition: none, and the generator has no row of no class; allowed: class")
    by_class = denoiser.rows is not None and settings.condition == "class"
    return FrozenGenerator(
        denoiser.to(device),
        codec,
        alphas_cumprod_of(scheduler),
        conditioning.ends_of(scheduler),
        latent * codec.factor,
        latent,
        class_conditions(folder, classes) if by_class else {},
    )


def randomised(network: nn.Module, seed: int) -> Any:
    """A network of the same shape with weights that nothing has trained."""
    kind: Any = type(network)
    config: Any = network.config
    with torch.random.fork_rng(devices=[]):  # diffusers draws initial weights from the global stream
        torch.manual_seed(stream(seed, "match", "random denoiser").initial_seed())
        fresh = kind.from_config({key: value for key, value in config.items() if not key.startswith("_")})
    if "timestep_shift" in config:
        set_timestep_shift(fresh, config["timestep_shift"])
    return fresh
