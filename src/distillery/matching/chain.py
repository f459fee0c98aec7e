"""The reverse diffusion as a function that is differentiated: LD3M's chain, and its gradient in constant memory.

Latent Dataset Distillation with Diffusion Models (arXiv 2403.03881). All steps are DDIM without fresh noise: the only
randomness is the noise that a latent starts with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import grad
from torch.utils.checkpoint import checkpoint

from distillery.data.pixels import scaled
from distillery.diffusion.autoencoder import Codec

Residual = Literal["x0", "eq7", "none"]
Denoise = Callable[[Tensor, int, Tensor | None], Tensor]
"""(states, timestep, class vectors) -> guided noise prediction, in the type of the states."""


def clamped(images: Tensor) -> Tensor:
    """Images in [0, 1], as a file holds them; the gradient passes as if nothing had been clamped."""
    return images + (images.clamp(0, 1) - images).detach()


class Picture:
    """From a clean latent to an image: decoder, size, clamp."""

    def __init__(self, codec: Codec, side: int | None = None) -> None:
        """
        Args:
            side: of the images in pixels; None: that of the decoder.
        """
        self.codec, self._side = codec, side

    def __call__(self, latents: Tensor) -> Tensor:
        """Scaled latents (N, C, h, w) to images (N, channels, H, W) in [0, 1]."""
        images = (self.codec.decode(latents) + 1) / 2
        return clamped(images if self._side is None else scaled(images, self._side))


class DiffusionChain:
    """The steps k = T-1 (most noise) to 0 from a noised latent to a clean one.

    Attributes:
        steps: T.
        timesteps: of the training schedule at each k: k (1000 // T), the `leading` spacing, T of them for every T, plus
            the offset.
        alphas_cumprod, alphas_cumprod_next: cumulative alpha product at each k, and at the step that follows.
    """

    def __init__(
        self,
        denoise: Denoise,
        alphas_cumprod: Sequence[float],
        *,
        steps: int,
        residual: Residual = "x0",
        quantise: Callable[[Tensor], Tensor] | None = None,
        ends: tuple[int, float] = (0, 1.0),
    ) -> None:
        """
        Args:
            alphas_cumprod: of every timestep of the training schedule.
            residual: `x0`: a share of the latent in the predicted clean one (the released code); `eq7`: a share of
                its noised state in the result of the step (eq. 7); `none`: plain DDIM.
            quantise: applied to the latent before the residual; none: nothing.
            ends: the offset of the timesteps, and the cumulative alpha product after the last step.

        Raises:
            ValueError: no steps, or more than the training schedule has.
        """
        length = len(alphas_cumprod)
        if not 1 <= steps <= length:
            raise ValueError(f"steps: {steps} of a schedule of {length}; allowed: 1 to {length}")
        self.steps, self.residual, self._denoise = steps, residual, denoise
        self._quantise = quantise or (lambda latents: latents)
        offset, last = ends
        self.timesteps = [min(k * (length // steps) + offset, length - 1) for k in range(steps)]
        self.alphas_cumprod = [alphas_cumprod[timestep] for timestep in self.timesteps]
        self.alphas_cumprod_next = [last, *self.alphas_cumprod[:-1]]

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """z_T = sqrt(abar) Z + sqrt(1 - abar) n at the highest level."""
        highest = self.alphas_cumprod[-1]
        return highest**0.5 * latents + (1 - highest) ** 0.5 * noise

    def step(self, k: int, state: Tensor, latents: Tensor, start: Tensor, vectors: Tensor | None) -> Tensor:
        """One step; a pure function, the unit of checkpointing and of the replay.

        Args:
            state, latents, start: z, Z and z_T, (N, C, h, w).
            vectors: (N, …), or None for a generator without classes.

        Returns:
            The next z. With `x0` the clean latent is (1 - w) x0 + w Z, w = k / (T-1); with `eq7` the result is
            (1 - w) z + w z_T, w = (k+1) / T. With T = 1 there is no residual.
        """
        if self.residual == "eq7" and self.steps > 1 and k == self.steps - 1:
            return start  # w = 1: the denoiser has no say
        before, after = self.alphas_cumprod[k], self.alphas_cumprod_next[k]
        noise = self._denoise(state, self.timesteps[k], vectors)
        clean = (state - (1 - before) ** 0.5 * noise) / before**0.5
        if self.residual == "x0":
            weight = k / max(self.steps - 1, 1)
            clean = (1 - weight) * clean + weight * self._quantise(latents)
        following = after**0.5 * clean + (1 - after) ** 0.5 * noise
        if self.residual == "eq7" and self.steps > 1:
            weight = (k + 1) / self.steps
            following = (1 - weight) * following + weight * start
        return following

    @torch.no_grad()
    def visit(self, latents: Tensor, vectors: Tensor | None, noise: Tensor) -> list[Tensor]:
        """Every state on the way, without a graph: z_T first, the clean latent last, T + 1 of them."""
        start = self.noised(latents, noise)
        states = [start]
        for k in reversed(range(self.steps)):
            states.append(self.step(k, states[-1], latents, start, vectors))
        return states

    def run(self, latents: Tensor, vectors: Tensor | None, noise: Tensor, *, save: bool = False) -> Tensor:
        """The clean latent with a graph to latents and vectors; `save`: the backward pass computes each step again."""
        start = state = self.noised(latents, noise)
        for k in reversed(range(self.steps)):
            if save:
                state = checkpoint(
                    self.step, k, state, latents, start, vectors, use_reentrant=False, preserve_rng_state=False
                )
            else:
                state = self.step(k, state, latents, start, vectors)
        return state

    def vjp(
        self,
        states: Sequence[Tensor],
        latents: Tensor,
        vectors: Tensor | None,
        noise: Tensor,
        picture: Callable[[Tensor], Tensor],
        grad_images: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """The gradient with respect to latents and vectors of a loss whose gradient at the images is `grad_images`.

        One step's graph is alive at a time, and the decoder's is gone before the first. The states that `visit` left
        spare the second forward pass that checkpointing takes.

        Args:
            states: what `visit` gave for the same latents, vectors and noise.
            picture: clean latents to images.
            grad_images: (N, channels, H, W).

        Returns:
            (N, C, h, w), and the shape of `vectors` or None.
        """
        last = states[-1].detach().requires_grad_()
        (carried,) = grad(picture(last), last, grad_images)
        of_latents, of_start = torch.zeros_like(latents), torch.zeros_like(latents)
        of_vectors = None if vectors is None else torch.zeros_like(vectors)
        start = self.noised(latents, noise)
        for k in range(self.steps):
            state, clean, first = (
                tensor.detach().requires_grad_() for tensor in (states[self.steps - 1 - k], latents, start)
            )
            condition = None if vectors is None else vectors.detach().requires_grad_()
            leaves = [state, clean, first, *([] if condition is None else [condition])]
            following = self.step(k, state, clean, first, condition)
            gradients = grad(following, leaves, carried, allow_unused=True, materialize_grads=True)
            carried = gradients[0]
            of_latents, of_start = of_latents + gradients[1], of_start + gradients[2]
            if of_vectors is not None:
                of_vectors = of_vectors + gradients[3]
        return of_latents + self.alphas_cumprod[-1] ** 0.5 * (of_start + carried), of_vectors
