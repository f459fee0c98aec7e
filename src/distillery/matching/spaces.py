"""Parameterisations of images: through the diffusion, through the decoder alone, or pixel by pixel.

A space renders its parameters without a graph, and later pulls the gradient at the images back to them, a few images at
a time: no operation mixes images, so the result is that of the whole graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import grad

from distillery.data.whitening import Whitening
from distillery.matching.chain import DiffusionChain, clamped
from distillery.memory_limit import in_fitting_batches

Tensors = dict[str, Tensor]


class MicroBatches:
    """Slices of N images, as large as the memory allows: halved when it is short, and remembered."""

    def __init__(self, size: int) -> None:
        self.size = size

    def each(self, count: int, work: Callable[[slice], None]) -> None:
        """Call `work` with slices that cover `count` images."""
        self.size = in_fitting_batches(count, self.size, work)


class Space(Protocol):
    """A parameterisation of images."""

    parameters: Tensors
    """The tensors that the optimiser steps in place, each (N, …), fp32."""

    batches: MicroBatches
    """How many images are worked on at once."""

    def render(self, step: int) -> Tensor:
        """Images (N, channels, H, W) in [0, 1], without a graph."""
        ...

    def vjp(self, grad_images: Tensor, step: int) -> Tensors:
        """The gradient at the images of the last `render`, of the same step, to one for each parameter."""
        ...

    def state(self, step: int) -> Tensors:
        """All that the images of a step are made of, learned or not: `rendered` makes them again."""
        ...

    def rendered(self, state: Tensors) -> Tensor:
        """The images of a state."""
        ...


class ChainSpace:
    """Latents and class vectors, rendered by the diffusion of a frozen generator (LD3M)."""

    def __init__(
        self,
        chain: DiffusionChain,
        picture: Callable[[Tensor], Tensor],
        latents: Tensor,
        vectors: Tensor | None,
        noise: Callable[[int], Tensor],
        *,
        learn: frozenset[str] = frozenset({"latent", "condition"}),
        micro_batch: int = 10,
    ) -> None:
        """
        Args:
            picture: clean latents to images in [0, 1].
            latents: (N, C, h, w) fp32, clean.
            vectors: (N, …) fp32, or None for a generator without classes.
            noise: of a step, (N, C, h, w); the same whenever it is asked for the same step.
            learn: which of `latent` and `condition` are parameters.
        """
        self._chain, self._picture, self._noise = chain, picture, noise
        self._latents, self._vectors = latents.clone(), None if vectors is None else vectors.clone()
        everything = {"latent": self._latents, "condition": self._vectors}
        self.parameters = {name: tensor for name, tensor in everything.items() if name in learn and tensor is not None}
        self.batches = MicroBatches(micro_batch)
        self._visited: list[list[Tensor]] = []

    def render(self, step: int) -> Tensor:
        """Images of all latents; the states of every step are kept for `vjp`."""
        images, self._visited = self._images(self._latents, self._vectors, self._noise(step))
        return images

    @torch.no_grad()
    def _images(self, latents: Tensor, vectors: Tensor | None, noise: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        images: list[Tensor] = []
        visited: list[list[Tensor]] = []

        def work(rows: slice) -> None:
            states = self._chain.visit(latents[rows], None if vectors is None else vectors[rows], noise[rows])
            images.append(self._picture(states[-1]))
            visited.append(states)

        self.batches.each(len(latents), work)
        return torch.cat(images), [list(states) for states in zip(*visited, strict=True)]

    def vjp(self, grad_images: Tensor, step: int) -> Tensors:
        """dL/dZ and dL/dc for the noise of this step, which the images were rendered with."""
        latents, vectors, noise = self._latents, self._vectors, self._noise(step)
        states = []
        while self._visited:  # each is freed as soon as it is joined
            states.append(torch.cat(self._visited.pop(0)))
        of_latents = torch.zeros_like(latents)
        of_vectors = None if vectors is None else torch.zeros_like(vectors)

        def work(rows: slice) -> None:
            gradients = self._chain.vjp(
                [state[rows] for state in states],
                latents[rows],
                None if vectors is None else vectors[rows],
                noise[rows],
                self._picture,
                grad_images[rows],
            )
            of_latents[rows] = gradients[0]
            if of_vectors is not None and gradients[1] is not None:
                of_vectors[rows] = gradients[1]

        self.batches.each(len(latents), work)
        everything = {"latent": of_latents, "condition": of_vectors}
        return {name: tensor for name, tensor in everything.items() if name in self.parameters and tensor is not None}

    def state(self, step: int) -> Tensors:
        vectors = {} if self._vectors is None else {"condition": self._vectors}
        return {"latent": self._latents, **vectors, "noise": self._noise(step)}

    def rendered(self, state: Tensors) -> Tensor:
        return self._images(state["latent"], state.get("condition"), state["noise"])[0]


class _WholeState:
    """A space whose images are made of its parameters alone: every step has the same."""

    parameters: Tensors

    def render(self, step: int) -> Tensor:
        return self.rendered(self.parameters)

    def state(self, step: int) -> Tensors:
        return dict(self.parameters)

    def rendered(self, state: Tensors) -> Tensor:
        raise NotImplementedError


class LatentSpace(_WholeState):
    """Latents, rendered by the decoder alone."""

    def __init__(self, picture: Callable[[Tensor], Tensor], latents: Tensor, *, micro_batch: int = 10) -> None:
        """
        Args:
            picture: latents to images in [0, 1].
            latents: (N, C, h, w) fp32.
        """
        self._picture, self.batches = picture, MicroBatches(micro_batch)
        self.parameters = {"latent": latents.clone()}

    def vjp(self, grad_images: Tensor, step: int) -> Tensors:
        latents = self.parameters["latent"]
        gradient = torch.zeros_like(latents)

        def work(rows: slice) -> None:
            leaf = latents[rows].detach().requires_grad_()
            (gradient[rows],) = grad(self._picture(leaf), leaf, grad_images[rows])

        self.batches.each(len(latents), work)
        return {"latent": gradient}

    @torch.no_grad()
    def rendered(self, state: Tensors) -> Tensor:
        images: list[Tensor] = []
        self.batches.each(len(state["latent"]), lambda rows: images.append(self._picture(state["latent"][rows])))
        return torch.cat(images)


class PixelSpace(_WholeState):
    """Pixels as networks see them, standardised and perhaps whitened, so that published learning rates hold."""

    def __init__(
        self, images: Tensor, mean: Tensor, std: Tensor, *, clamp: bool = True, whitening: Whitening | None = None
    ) -> None:
        """
        Args:
            images: (N, channels, H, W) fp32 in [0, 1].
            mean, std: (channels, 1, 1), of the parameters.
            clamp: keep what is rendered in [0, 1], with a gradient as if it were not clamped.
            whitening: the parameters are whitened too; what is rendered is not.
        """
        self._mean, self._std, self._clamp, self._whitening = mean, std, clamp, whitening
        self.batches = MicroBatches(len(images))
        standardised = (images - mean) / std
        self.parameters = {"pixels": standardised if whitening is None else whitening(standardised)}

    def vjp(self, grad_images: Tensor, step: int) -> Tensors:
        """dL/dP = std dL/dS, through the inverse of the whitening where there is one."""
        of_standardised = grad_images * self._std
        if self._whitening is not None:
            of_standardised = self._whitening.vjp_of_undone(of_standardised)
        return {"pixels": of_standardised}

    @torch.no_grad()
    def rendered(self, state: Tensors) -> Tensor:
        standardised = state["pixels"] if self._whitening is None else self._whitening.undone(state["pixels"])
        images = standardised * self._std + self._mean
        return clamped(images) if self._clamp else images


class UnitPixels(PixelSpace):
    """Pixels in [0, 1], brought back there now and then: the parameterisation of IDC-I (arXiv 2205.14959)."""

    def __init__(self, images: Tensor, every: int) -> None:
        """
        Args:
            images: (N, channels, H, W) fp32 in [0, 1].
            every: steps from one clamp of the parameters to the next; the first comes at once.
        """
        super().__init__(images, torch.zeros(()), torch.ones(()), clamp=False)
        self._every = every

    def render(self, step: int) -> Tensor:
        if step % self._every == 0:
            self.parameters["pixels"].clamp_(0, 1)
        return self.parameters["pixels"].clone()
