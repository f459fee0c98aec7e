"""Methods that optimise images: LD3M and its controls in latents, matching in pixels, and IDC-I."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from distillery.matching.checks import wrong_steps
from distillery.matching.settings import Chain, LatentStep, NamedObjective, PixelStep, drawn
from distillery.methods.base import Context, Needs, RealImageUse, check_named
from distillery.methods.matched import Matched, Scene
from distillery.settings import (
    Batch,
    BelowOne,
    Count,
    Decay,
    Epochs,
    ImageRate,
    Name,
    Rate,
    Repeats,
)
from distillery.students.settings import Network, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from distillery.matching.build import Places
    from distillery.matching.generator import FrozenGenerator
    from distillery.matching.networks import Comparing
    from distillery.matching.objectives import Objective
    from distillery.matching.real_images import RealImages
    from distillery.matching.spaces import Space
    from distillery.streams import Key


class _WithObjective(Matched):
    objective: NamedObjective
    init: str = "real"

    default_gradient: ClassVar[Literal["tesla", "exact"]] = "tesla"
    """How trajectories are differentiated where their block leaves it open."""

    def _objective(
        self, real: RealImages, networks: Comparing, key: Key, experts: Sequence[Path], recipe: Recipe | None
    ) -> Objective:
        from distillery.matching.build import objective_of

        options: dict[str, Any] = {"experts": experts, "recipe": recipe, "gradient": self.default_gradient}
        return objective_of(self.objective, real, networks, key, **options)

    def inner_rates(self, key: str) -> str:
        return f"the rates of {key}.objective" if self.objective.trains_inside else ""

    @property
    def real_images(self) -> RealImageUse:
        return "any" if self.init == "real" else "none"

    @property
    def experts(self) -> str | None:
        return getattr(self.objective, "experts", None)

    @property
    def last_epoch(self) -> int:
        return self.objective.last_epoch or 0

    @property
    def learns_rate(self) -> bool:
        return self.objective.learns_rate

    @property
    def couples_classes(self) -> bool:
        return self.objective.couples_classes

    @property
    def updates(self) -> int:
        return self.objective.updates

    def passes(self, sizes: Sequence[float], images: float) -> float:
        return self.objective.passes(sizes, images)

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from super().check(key, context)
        if self.objective.last_epoch is None:
            return
        name, known = self.experts, context.experts
        if name is None:
            yield (
                f"{key}.objective.experts: trajectories are matched, and none are named; allowed: one of experts "
                f"({', '.join(known) or 'none'}), for instance experts: {{convnet: {{}}}}"
            )
            return
        if name not in known:
            yield f"{key}.objective.experts: no experts {name!r}; experts: {', '.join(known) or 'none'}"
            return
        network = known[name].network or context.plain_convnet
        if self.network is not None and self.network != network:
            yield (
                f"{key}.network: {self.network}, but experts.{name} are of {network}; allowed: {network}, or leave it "
                "out"
            )
        epochs = known[name].epochs
        if epochs is not None and epochs < self.last_epoch:
            yield (
                f"experts.{name}.epochs: {epochs}, but {key} reads epoch {self.last_epoch} (epochs + max_start_epoch "
                f"- 1); allowed: {self.last_epoch} or more, or leave it out"
            )


class _InLatents(_WithObjective):
    init: Literal["real", "gaussian"] = Field("real", description="Encoded real images of the class, or N(0, 1).")
    micro_batch: Batch = Field(10, description="Images that are differentiated at once; halved where memory is short.")
    step: LatentStep = LatentStep()

    def numbers(self, pixels: int, latents: int) -> int:
        return latents

    def optimiser_options(self, ipc: int, side: int, classes: int) -> dict[str, Any]:
        latent = self.step.rate(self.step.latent, self.objective)
        rates = {"latent": latent, "condition": latent if self.step.condition is None else self.step.condition}
        return {"rates": rates, "rule": self.step.rule, "momentum": self.step.momentum}


class LD3M(_InLatents):
    """Latents and class vectors, optimised through the diffusion of a frozen generator (arXiv 2403.03881)."""

    has_chain: ClassVar[bool] = True
    kind: Literal["ld3m"]
    generator: Name
    chain: Chain = Chain()
    learn: list[Literal["latent", "condition"]] = Field(["latent", "condition"], min_length=1, max_length=2)
    svhn_mean: bool = Field(
        False,
        description="As in the public code: while images are matched, ours are standardised with the mean of SVHN and "
        "real ones with their own. The protocol has a switch of the same name for the networks of the evaluation.",
    )

    @property
    def shifts_ours(self) -> bool:
        return self.svhn_mean

    @property
    def chain_passes(self) -> int:
        return (1 if self.chain.guidance_scale == 1 else 2) * self.chain.steps if self.draws_natively else 0

    @property
    def needs(self) -> Needs:
        return Needs(generator=self.generator, autoencoder=True, experts=self.experts)

    def opened(
        self, real: RealImages | None, places: Places, key: Key, scene: Scene
    ) -> tuple[FrozenGenerator, Tensor, dict[str, Any]]:
        """The generator, the latents at the start, and the options of `chain_space`."""
        from distillery.matching.build import initial_latents
        from distillery.matching.generator import open_generator

        assert scene.generator is not None and scene.autoencoder is not None
        side, device, batch = scene.domain.size, scene.device, self.micro_batch
        data: dict[str, Any] = {"resolution": side, "seed": scene.seed, "device": device}
        opened = open_generator(scene.generator, scene.autoencoder, self.chain, scene.classes, **data)
        latents = initial_latents(self.init, real, places, opened.codec, opened.side, key, batch=batch, device=device)
        return opened, latents, {"resolution": side, "micro_batch": batch, "device": device}

    def space(self, real: RealImages | None, places: Places, key: Key, scene: Scene) -> Space:
        from distillery.matching.build import chain_space

        opened, latents, options = self.opened(real, places, key, scene)
        return chain_space(opened, self.chain, self.learn, places, latents, **options)

    @property
    def asks_for_classes(self) -> bool:
        return self.chain.condition != "none"

    @property
    def draws_natively(self) -> bool:
        return self.chain.render_size == "native"

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from super().check(key, context)
        yield from check_named(f"{key}.generator", "generator", self.generator, context.generators)
        if self.generator not in context.generators:
            return
        generator, autoencoder = context.generators[self.generator], context.autoencoder
        if why := wrong_steps(self.chain.steps, generator.schedule_length, self.chain.uneven):
            yield f"{key}.chain.steps: {why}"
        if self.chain.quantise == "vq" and autoencoder.model_class not in ("VQModel", None):
            yield (
                f"{key}.chain.quantise: vq asks for a VQModel, and the autoencoder is {autoencoder.model_class}; "
                "allowed: none"
            )
        if len(set(self.learn)) < len(self.learn):
            yield f"{key}.learn: {', '.join(self.learn)}: one of them is repeated"
        if "condition" in self.learn and generator.knows_no_classes:
            yield f"{key}.learn: condition, and generators.{self.generator} knows no classes; allowed: [latent]"
        if self.chain.denoiser == "random" and self.chain.condition == "none" and "condition" not in self.learn:
            yield (
                f"{key}.chain: random weights and no class make all classes alike; allowed: condition: class, or "
                "learn it"
            )


class Latent(_InLatents):
    """Latents, optimised through the decoder alone: LD3M without diffusion."""

    kind: Literal["autoencoder"]

    @property
    def needs(self) -> Needs:
        return Needs(autoencoder=True, experts=self.experts)

    def space(self, real: RealImages | None, places: Places, key: Key, scene: Scene) -> Space:
        from distillery.diffusion.renderer import codec_of
        from distillery.matching.build import initial_latents
        from distillery.matching.chain import Picture
        from distillery.matching.spaces import LatentSpace

        assert scene.autoencoder is not None
        codec, side = codec_of(None, scene.autoencoder, None).to(scene.device), scene.domain.size
        latents = initial_latents(
            self.init, real, places, codec, side, key, batch=self.micro_batch, device=scene.device
        )
        return LatentSpace(Picture(codec, side), latents, micro_batch=self.micro_batch)


class Pixels(_WithObjective):
    """Pixels themselves: DC, DSA, DM and MTT as published."""

    default_gradient: ClassVar[Literal["tesla", "exact"]] = "exact"
    kind: Literal["pixel"]
    init: Literal["real", "noise"] = "real"
    clamp: bool = Field(True, description="Keep images in [0, 1], as files hold them; the originals did not.")
    step: PixelStep = PixelStep()

    def space(self, real: RealImages | None, places: Places, key: Key, scene: Scene) -> Space:
        import torch

        from distillery.matching.build import initial_images
        from distillery.matching.spaces import PixelSpace
        from distillery.streams import image_noise

        mean, std = scene.domain.statistics(scene.device)
        whitening = scene.domain.whitening
        if real is None:
            images = torch.zeros(0, scene.domain.channels, scene.domain.size, scene.domain.size, device=scene.device)
        elif self.init == "real":
            images = initial_images(real, places, key)
        else:
            noise = image_noise(places.keys, "initial", real.pixels.shape[1:]).to(scene.device)
            images = (noise if whitening is None else whitening.undone(noise)) * std + mean
        return PixelSpace(images, mean, std, clamp=self.clamp, whitening=whitening)

    def optimiser_options(self, ipc: int, side: int, classes: int) -> dict[str, Any]:
        rates = {"pixels": self.step.rate(self.step.pixels, self.objective)}
        return {"rates": rates, "rule": self.step.rule, "momentum": self.step.momentum}


class IDC(Matched):
    """IDC-I (arXiv 2205.14959, its form without mosaics): gradients of networks in training, in pixels."""

    rate_key: ClassVar[str] = "learning_rate"
    real_images: ClassVar[RealImageUse] = "any"
    kind: Literal["idc"]
    inner: Repeats = Field(
        100, description="Rounds on one network, each a step per class and some steps of the network."
    )
    batch_real: Batch = 64
    batch_ours: Batch = Field(128, description="Our images of a class in one step, at most.")
    learning_rate: ImageRate | None = Field(
        None, description="Of pixels in [0, 1]; none: 0.003 (ipc / 10) (side / 224)^2, and 0.001 from 100 classes on."
    )
    momentum: BelowOne = 0.5
    epochs: Epochs | None = Field(None, description="On real images before the first round; none: 10, or 5 from 100.")
    images: Count = Field(500, description="Real images that the network sees between two rounds.")
    batch_train: Batch | None = Field(None, description="In one step of the network; none: 64, or 128 from 100.")
    network_rate: Rate | None = Field(None, description="Learning rate of the network; none: 0.01, or 0.1 from 100.")
    network_decay: Decay | None = Field(None, description="Its weight decay; none: 5e-4, or 1e-4 from 100.")
    iterations: int = Field(500, ge=0, le=10_000_000, description="Networks, one after another.")
    network: Network | None = Field("resnet_ap10", description="The network that compares.")
    shards: Literal[1] = 1

    @property
    def updates(self) -> int:
        return self.inner

    def passes(self, sizes: Sequence[float], images: float) -> float:
        return 3 * drawn(sizes, self.batch_real)

    def constants(self, classes: int) -> dict[str, Any]:
        """The constants for a number of classes: those of the published code, unless the method sets them."""
        many = classes >= 100
        published = {
            "epochs": 5 if many else 10,
            "batch_train": 128 if many else 64,
            "network_rate": 0.1 if many else 0.01,
            "network_decay": 1e-4 if many else 5e-4,
        }
        own = self.model_dump(include={*published, "inner", "batch_real", "batch_ours", "images"}, exclude_none=True)
        return {**published, **own}

    def rate(self, ipc: int, side: int, classes: int) -> float:
        """The learning rate of pixels: 3e-3 (ipc / 10) (side / 224)^2, and 1e-3 from 100 classes on."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if classes >= 100 else 3e-3 * (ipc / 10) * (side / 224) ** 2

    def _objective(
        self, real: RealImages, networks: Comparing, key: Key, experts: Sequence[Path], recipe: Recipe | None
    ) -> Objective:
        from distillery.matching.idc import IDCMatching

        return IDCMatching(real, networks, key, **self.constants(len(real.classes)))

    def space(self, real: RealImages | None, places: Places, key: Key, scene: Scene) -> Space:
        import torch

        from distillery.matching.build import initial_images
        from distillery.matching.spaces import UnitPixels

        shape = (0, scene.domain.channels, scene.domain.size, scene.domain.size)
        images = torch.zeros(shape, device=scene.device) if real is None else initial_images(real, places, key)
        return UnitPixels(images, self.inner * len(places.labels.unique()))

    def optimiser_options(self, ipc: int, side: int, classes: int) -> dict[str, Any]:
        return {"rates": {"pixels": self.rate(ipc, side, classes)}, "rule": "absolute", "momentum": self.momentum}

    def inner_rates(self, key: str) -> str:
        return f"{key}.network_rate"


if TYPE_CHECKING:
    AnyMatched = Matched
else:
    AnyMatched = Annotated[LD3M | Latent | Pixels | IDC, Field(discriminator="kind")]
