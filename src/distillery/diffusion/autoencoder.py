"""Autoencoders: between images in [-1, 1] and latents scaled to unit variance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from distillery.artifacts import damaged
from distillery.data.pixels import to_unit
from distillery.progress import Progress
from distillery.resume import Resume, pack, unpack
from distillery.streams import stream


class Codec:
    """An autoencoder of diffusers with its scaling factor applied, for whatever guides or renders."""

    def __init__(self, autoencoder: Any) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.scale: float = autoencoder.config.scaling_factor
        self.channels: int = autoencoder.config.latent_channels

    @classmethod
    def load(cls, folder: Path) -> Codec:
        """Open a folder in the layout of `save_pretrained`.

        Raises:
            DamagedArtifact: it cannot be opened.
        """
        try:
            return cls(AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False))
        except Exception as error:  # diffusers raises anything from OSError to SafetensorError here
            raise damaged(folder, "train_autoencoder", str(error).splitlines()[0]) from error

    def to(self, device: torch.device) -> Codec:
        """Move to a device."""
        self.autoencoder.to(device)
        return self

    def latent_size(self, resolution: int) -> int:
        """Side of the latents of images of this side."""
        return resolution // 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [-1, 1] to the mean and standard deviation of their scaled latents."""
        posterior = self.autoencoder.encode(images).latent_dist
        return posterior.mean * self.scale, posterior.std * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to images, about [-1, 1] and not clamped."""
        return self.autoencoder.decode(latents / self.scale).sample


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
    seed: int,
    device: torch.device,
    resume: Resume,
) -> Any:
    """Train an `AutoencoderKL`: mean squared error + KL, Adam, cosine schedule.

    Args:
        pixels: (N, C, H, W) uint8.

    Returns:
        The autoencoder; `config.scaling_factor` brings the latents of `pixels` to unit variance.
    """
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if all(width % g == 0 for width in block_out_channels))
    blocks = len(block_out_channels)
    with torch.random.fork_rng(devices=[]):  # diffusers draws initial weights from the global stream
        torch.manual_seed(stream(seed, "train_autoencoder", "weights").initial_seed())
        model: Any = AutoencoderKL(
            in_channels=pixels.shape[1],
            out_channels=pixels.shape[1],
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=groups,
            sample_size=pixels.shape[-1],
            scaling_factor=1.0,
        )
    model.train().to(device)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    start = 0
    if found := resume.restore():
        unpack(found[0], {"model": model}, {"adam": optimizer})
        start = found[1]["step"]
    with Progress("train_autoencoder", steps * batch_size, "image", start * batch_size) as progress:
        for step in range(start, steps):
            draws = stream(seed, "train_autoencoder", step)
            chosen = torch.randint(len(pixels), (batch_size,), generator=draws)
            images = to_unit(pixels[chosen]).to(device)
            posterior = model.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draws).to(device)
            decoded = model.decode(posterior.mean + posterior.std * noise).sample
            loss = F.mse_loss(decoded, images) + kl_weight * posterior.kl().mean()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            progress.advance(batch_size)
            resume.checkpoint(lambda at=step + 1: (pack({"model": model}, {"adam": optimizer}), {"step": at}))  # type: ignore[misc]
    model.eval()
    with torch.no_grad():
        means = torch.cat([model.encode(to_unit(p).to(device)).latent_dist.mean.cpu() for p in pixels.split(256)])
    model.register_to_config(scaling_factor=1 / means.std().item())
    return model.cpu()
