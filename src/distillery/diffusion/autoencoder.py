"""Autoencoders: between images in [-1, 1] and latents scaled to unit variance."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.pixels import room_for, to_unit
from distillery.devices import fused_attention, lowered
from distillery.diffusion.ema import follow
from distillery.diffusion.models import open_autoencoder
from distillery.diffusion.weights import WEIGHTS, latent_statistics, model_digest
from distillery.divergence import TrainingWatch
from distillery.errors import Diverged, WeightsError, damaged
from distillery.lean_imports import from_diffusers, without_compiler
from distillery.progress import Progress
from distillery.storage.history import History, history_tensors, restore_history
from distillery.storage.resume import Resume, pack, unpack
from distillery.storage.tensors import stage_that_wrote
from distillery.streams import stream


class Codec:
    """An autoencoder of diffusers with its scale and shift applied, for whatever guides or renders.

    Attributes:
        scale, shift: latents = (encoded - shift) x scale; numbers, or (C, 1, 1) where the config states mean and
            standard deviation of each channel: then shift is `latents_mean`, scale is `scaling_factor / latents_std`.
        channels: of a latent.
        factor: by how much a latent's side is smaller than the image's.
        digest: which model this is; latents carry it.
        half: the decoder holds and computes bfloat16; what goes in and comes out is fp32.
    """

    def __init__(self, autoencoder: Any, digest: str = "", half: bool = False) -> None:
        autoencoder.eval().requires_grad_(False)
        self.autoencoder, self.digest, self.half = _half_decoder(autoencoder) if half else autoencoder, digest, half
        config = autoencoder.config
        self.scale: float | Tensor = config.scaling_factor
        self.shift: float | Tensor = config.get("shift_factor") or 0.0
        if statistics := latent_statistics(config):
            device = next(autoencoder.parameters()).device
            self.shift, std = (torch.tensor(values, device=device)[:, None, None] for values in statistics)
            self.scale = config.scaling_factor / std
        self.channels: int = config.get("vq_embed_dim") or config.latent_channels
        self.factor: int = 2 ** (len(config.get("encoder_block_out_channels") or config.block_out_channels) - 1)

    @classmethod
    def load(cls, folder: Path, made_by: str = "train_autoencoder") -> Codec:
        """Open a folder in the layout of `save_pretrained`: an `AutoencoderKL`, `AutoencoderTiny` or `VQModel`.

        Raises:
            DamagedArtifact: it cannot be opened.
        """
        try:
            return cls(open_autoencoder(folder), model_digest(folder))
        except WeightsError as error:
            raise damaged(folder, stage_that_wrote(folder / WEIGHTS, made_by), error) from error

    def to(self, device: torch.device) -> Codec:
        """Move to a device; on a GPU convolutions want their channels last."""
        self.autoencoder.to(device)
        if isinstance(self.scale, Tensor) and isinstance(self.shift, Tensor):
            self.scale, self.shift = self.scale.to(device), self.shift.to(device)
        if device.type == "cuda":
            self.autoencoder.to(memory_format=torch.channels_last)
        return self

    def halved(self) -> Codec:
        """The same model, decoding in bfloat16."""
        return Codec(self.autoencoder, self.digest, half=True)

    def latent_size(self, resolution: int) -> int:
        """Side of the latents of images of this side."""
        return resolution // self.factor

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [-1, 1] to the mean and standard deviation of their scaled latents.

        An autoencoder without a posterior has one latent per image: its standard deviation is zero.
        """
        with fused_attention(images.device):
            encoded = self.autoencoder.encode(images)
        if hasattr(encoded, "latent_dist"):
            posterior = encoded.latent_dist
            return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale
        return (encoded.latents - self.shift) * self.scale, torch.zeros_like(encoded.latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to images, about [-1, 1] and not clamped."""
        with fused_attention(latents.device):
            images: Tensor = self.autoencoder.decode(latents / self.scale + self.shift).sample
        return images.to(latents.dtype)


def _half_decoder(autoencoder: Any) -> Any:
    """The same autoencoder with a decoder in bfloat16, which takes inputs of any precision; they share the encoder.

    Autocast keeps a copy of every weight for the gradient, and on a GPU runs every norm in fp32.
    """
    copied = copy.deepcopy(autoencoder, {id(autoencoder.encoder): autoencoder.encoder})
    copied.decoder.to(torch.bfloat16)
    copied.decoder.register_forward_pre_hook(
        lambda _, inputs: tuple(value.bfloat16() if isinstance(value, Tensor) else value for value in inputs)
    )
    return copied


def train_autoencoder(
    pixels: Tensor,
    *,
    block_out_channels: Sequence[int],
    layers_per_block: int,
    latent_channels: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    kl_weight: float,
    ema_decay: float | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "float32",
    seed: int,
    device: torch.device,
    resume: Resume,
    history: History | None = None,
) -> Any:
    """Train an `AutoencoderKL`: mean squared error + KL, Adam, cosine schedule.

    Args:
        pixels: (N, C, H, W) uint8.
        ema_decay: of the average of the weights that is returned; none: the last weights are.
        perceptual: from reconstructions and images, both (N, C, H, W) in about [-1, 1], to a further loss.
        history: of as many steps; it gains the loss, its terms, the learning rate and the norm of the gradient.

    Returns:
        The autoencoder; `config.scaling_factor` brings the latents of `pixels` to unit variance.

    Raises:
        Diverged: a loss or a weight is not finite, or the images have all the same latents.
    """
    model = _new_autoencoder(
        seed, pixels.shape[1], pixels.shape[-1], block_out_channels, layers_per_block, latent_channels
    )
    model.train().to(device)
    with without_compiler():
        optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    average = None if ema_decay is None else copy.deepcopy(model).requires_grad_(False)
    kept = {"model": model} if average is None else {"model": model, "average": average}
    watch = TrainingWatch(steps, f"lower autoencoder.learning_rate, {learning_rate:g}", resume.path)

    history = history or History(steps)

    def state(done: int) -> tuple[dict[str, Tensor], dict[str, int]]:
        watch.check(model.parameters())
        return pack(kept, {"adam": optimizer}) | history_tensors(history), {"step": done}

    start = 0
    if checkpoint := resume.restore():
        unpack(checkpoint[0], kept, {"adam": optimizer})
        restore_history(history, checkpoint[0])
        start = checkpoint[1]["step"]
    with Progress(
        "train_autoencoder", steps * batch_size, "image", start * batch_size, state=history.summary
    ) as progress:
        for step in range(start, steps):
            draws = stream(seed, "train_autoencoder", step)
            chosen = torch.randint(len(pixels), (batch_size,), generator=draws)
            images = to_unit(pixels[chosen]).to(device)
            with lowered(device, precision):
                posterior = model.encode(images).latent_dist
                noise = torch.randn(posterior.mean.shape, generator=draws).to(device)
                decoded = model.decode(posterior.mean + posterior.std * noise).sample
            terms = {"squared_error": F.mse_loss(decoded.float(), images), "kl": posterior.kl().float().mean()}
            loss = terms["squared_error"] + kl_weight * terms["kl"]
            if perceptual is not None:
                terms["perceptual"] = perceptual(decoded.float(), images)
                loss = loss + terms["perceptual"]
            watch.note(step + 1, loss)
            rate = learning_rate * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
            for group in optimizer.param_groups:
                group["lr"] = rate
            with without_compiler():
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            history.add(step + 1, loss=loss, **terms, learning_rate=rate, gradient_norm=norm)
            if average is not None and ema_decay is not None:
                follow(average.parameters(), model.parameters(), ema_decay, step)
            progress.advance(batch_size)
            resume.checkpoint(lambda done=step + 1: state(done))  # type: ignore[misc]
    watch.check(model.parameters())
    model = (model if average is None else average).eval().requires_grad_(False)
    sigma = _sigma_of_latents(model, pixels, device)
    if not 0 < sigma < float("inf"):
        raise Diverged(
            f"the latents of the images have the standard deviation {sigma:g}; lower autoencoder.learning_rate, "
            f"{learning_rate:g}"
        )
    model.register_to_config(scaling_factor=1 / sigma)
    return model.cpu()


def _new_autoencoder(
    seed: int, channels: int, side: int, block_out_channels: Sequence[int], layers_per_block: int, latent_channels: int
) -> Any:
    """An `AutoencoderKL` with weights drawn from the stream of a seed."""
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if all(width % g == 0 for width in block_out_channels))
    blocks = len(block_out_channels)
    with torch.random.fork_rng(devices=[]):  # diffusers draws initial weights from the global stream
        torch.manual_seed(stream(seed, "train_autoencoder", "weights").initial_seed())
        return from_diffusers("AutoencoderKL")(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=groups,
            sample_size=side,
            scaling_factor=1.0,
        )


@torch.no_grad()
def _sigma_of_latents(model: Any, pixels: Tensor, device: torch.device) -> float:
    """Standard deviation of the numbers in the latents of all images, as the model encodes them."""
    means, start = None, 0
    for batch in pixels.split(256):
        latents = model.encode(to_unit(batch).to(device)).latent_dist.mean
        if means is None:
            means = room_for((len(pixels), *latents.shape[1:]), latents.dtype)
        means[start : start + len(latents)] = latents
        start += len(latents)
    assert means is not None, "there are images"
    return means.std().item()
