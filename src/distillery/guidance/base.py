"""The interface of guidances: settings that check themselves, name their files and open the guidance.

A new guidance is one module with a block of settings and the guidance itself, and one line in `guidance.registry`.
Planning imports these modules, so that they import torch inside their functions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from distillery.settings import Block

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.diffusion.renderer import Renderer
    from distillery.diffusion.sampler import Guidance
    from distillery.diffusion.settings import Sampling
    from distillery.guidance.score import Scorer
    from distillery.storage.images import ImageSet

PUBLISHED_LATENT_SIZE = 4 * 32 * 32
"""Numbers in a latent of DiT at 256 px, at which strengths were published."""


def _ascending(indices: list[int]) -> list[int]:
    if indices[0] > indices[1]:
        raise ValueError(f"the first index, {indices[0]}, lies above the last, {indices[1]}")
    return indices


Range = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
"""First and last guided sampling index."""


@dataclass(frozen=True)
class GuidanceContext:
    """The facts about a method that the checks of its guidances read.

    Attributes:
        generator: name of the generator.
        sampling: how the generator is sampled.
        surrogates: names of the surrogates of the experiment.
        latent_side: side of a latent; None: not known before the autoencoder is opened.
        increments: whether the method works in increments, each with a student.
    """

    generator: str
    sampling: Sampling
    surrogates: Collection[str]
    latent_side: int | None
    increments: bool

    @property
    def steps(self) -> str:
        """The sampling steps in words, with the key that sets them."""
        return f"the {self.sampling.steps} sampling steps of generators.{self.generator}.sampling.steps"


class GuidanceFiles(Protocol):
    """Where the files of one method are that a guidance may need. Planning implements it."""

    def gradients(self, surrogate: str) -> str:
        """The output of `select_checkpoints` for a surrogate."""
        ...

    def modes(self, count: int | None) -> str:
        """The output of `discover_modes`, `count` modes per class; None: one per image."""
        ...

    def latents(self) -> list[str]:
        """The latents of the training images."""
        ...


@dataclass(frozen=True)
class Passes:
    """What a guided step of one image costs beside a plain one, in forward passes; a gradient counts as one more.

    Attributes:
        denoiser: of the generator, classifier-free guidance not counted.
        decoder: of the autoencoder's decoder.
        scorer: of student and reference, each.
        surrogate: of the surrogate.
    """

    denoiser: float = 0.0
    decoder: float = 0.0
    scorer: float = 0.0
    surrogate: float = 0.0


@dataclass(frozen=True)
class Scene:
    """The objects that a guidance is opened with, besides its own files.

    Attributes:
        renderer: the sampler and decoder that it will steer.
        classes: class names, in the order of the labels.
        scorer: student and reference; None outside the loop of LGD.
        images: those that the method has made so far, with latents.
    """

    renderer: Renderer
    classes: Sequence[str]
    scorer: Scorer | None = None
    images: Sequence[ImageSet] = ()

    def latents(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Latents (N, C, h, w) and labels (N,) of each set of `images`, on the CPU."""
        import torch

        for images in self.images:
            flat = torch.from_numpy(images.columns["latent"].copy())
            shape = (self.renderer.codec.channels, self.renderer.size, self.renderer.size)
            yield flat.view(-1, *shape), torch.from_numpy(images.labels)


@runtime_checkable
class Remembers(Protocol):
    """A guidance whose shift depends on the images that were chosen before: slots are then sampled one by one."""

    def remember(self, latents: Tensor, labels: Tensor) -> None:
        """Latents (N, C, h, w) and labels (N,) of images that were chosen just now."""
        ...


class GuidanceBlock(Block):
    """Settings of one guidance."""

    needs_images: ClassVar[bool] = False
    """Whether `open` reads the images that the method has made so far."""

    @abstractmethod
    def guided_range(self, steps: int) -> list[int]:
        """First and last guided index of so many sampling steps."""

    @abstractmethod
    def resolved(self, steps: int, beside: list[int] | None) -> Self:
        """The settings with indices in place of defaults; `beside` is the range of the first guidance before it."""

    def at_increment(self, k: int) -> Self:
        """The settings of increment k, where they depend on it."""
        return self

    @abstractmethod
    def check(self, key: str, context: GuidanceContext) -> Iterator[str]:
        """The faults of these settings, one line each; `key` is the place of this block in the experiment file."""

    def passes(self, kept: int) -> Passes:
        """What a guided step costs beside a plain one.

        Args:
            kept: checkpoints of the surrogate, where there is one.
        """
        return Passes()

    def files(self, files: GuidanceFiles) -> list[str]:
        """The files that the guidance is opened from."""
        return []

    def check_sizes(self, key: str, sizes: Sequence[int], images: Mapping[str, int]) -> Iterator[str]:
        """Whether every class has the training images (`images`) that it asks for; `key` is that of the method."""
        yield from ()

    @abstractmethod
    def open(self, files: Sequence[Path], scene: Scene) -> Guidance | None:
        """The guidance of resolved settings, with its strength for the latents of the renderer; None: it is off.

        Raises:
            BadInput: the files do not fit the classes or the latents.
        """


class RangedBlock(GuidanceBlock):
    """Settings of a guidance that acts from one sampling index to another."""

    first: ClassVar[int] = 10
    """First guided index of 50 sampling steps where `range` is None; the last is 45."""

    follows: ClassVar[bool] = False
    """Whether `range` None means the range of the guidance beside this one, where there is one."""

    range: Range | None = None

    def guided_range(self, steps: int) -> list[int]:
        return self.range or [round(steps * self.first / 50), min(round(steps * 45 / 50), steps - 1)]

    def resolved(self, steps: int, beside: list[int] | None) -> Self:
        indices = beside if self.follows and beside and not self.range else self.guided_range(steps)
        return self.model_copy(update={"range": indices})

    def check(self, key: str, context: GuidanceContext) -> Iterator[str]:
        if self.range and self.range[1] >= context.sampling.steps:
            yield (
                f"{key}.range: {self.range[1]} lies beyond {context.steps}; allowed: 0 to {context.sampling.steps - 1}"
            )

    @property
    def indices(self) -> dict[str, int]:
        """First and last guided index of resolved settings, as a `RangedGuidance` takes them."""
        assert self.range is not None, "ranges are resolved when the settings of a stage are made"
        return {"first": self.range[0], "last": self.range[1]}


@dataclass(kw_only=True)
class RangedGuidance:
    """A guidance that acts at sampling indices `first` to `last`, both ends included, unless its strength is zero."""

    strength: float
    first: int
    last: int

    def active(self, index: int) -> bool:
        """Whether it acts at this sampling index."""
        return self.strength != 0 and self.first <= index <= self.last


B = TypeVar("B", bound=GuidanceBlock)


class GuidanceMapping(Block):
    """Guidances by name, in the order of the registry, which makes the fields. None: the guidance is absent.

    An absent guidance is left out of the JSON, so that a new entry of the registry changes no settings of jobs that
    do not use it.
    """

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: block for name, block in handler(self).items() if block is not None}

    def present(self) -> dict[str, GuidanceBlock]:
        """Name -> settings, of the guidances that are not absent."""
        return {name: block for name in type(self).model_fields if (block := getattr(self, name)) is not None}

    def get(self, kind: type[B]) -> B | None:
        """The settings of one kind of guidance."""
        return next((block for block in self.present().values() if isinstance(block, kind)), None)

    def replaced(self, **blocks: GuidanceBlock | None) -> Self:
        """The mapping with other settings for the guidances that are named."""
        return self.model_copy(update=blocks)

    @property
    def needs_images(self) -> bool:
        """Whether a guidance reads the images that the method has made so far."""
        return any(block.needs_images for block in self.present().values())

    @property
    def acting(self) -> list[str]:
        """The names of the guidances that are not absent and have a strength."""
        return [name for name, block in self.present().items() if getattr(block, "strength", None) != 0]

    @property
    def surrogates(self) -> list[str]:
        """The surrogates whose gradients guidances read."""
        return [name for block in self.present().values() if (name := getattr(block, "surrogate", None))]

    def resolved(self, steps: int) -> Self:
        """All settings with indices in place of defaults."""
        beside: list[int] | None = None
        blocks = {}
        for name, block in self.present().items():
            blocks[name] = block.resolved(steps, beside)
            beside = beside or blocks[name].guided_range(steps)
        return self.model_copy(update=blocks)

    def at_increment(self, k: int) -> Self:
        """All settings, of increment k where they depend on it."""
        return self.model_copy(update={name: block.at_increment(k) for name, block in self.present().items()})

    def check(self, key: str, context: GuidanceContext) -> Iterator[str]:
        """The faults of all guidances."""
        for name, block in self.present().items():
            yield from block.check(f"{key}.{name}", context)

    def check_sizes(self, key: str, sizes: Sequence[int], images: Mapping[str, int]) -> Iterator[str]:
        """Whether every class has the training images that the guidances ask for."""
        for block in self.present().values():
            yield from block.check_sizes(key, sizes, images)

    def files(self, files: GuidanceFiles) -> dict[str, list[str]]:
        """Name -> files, of the guidances that need any, in the order in which a stage takes them."""
        needed = {name: block.files(files) for name, block in self.present().items()}
        return {name: paths for name, paths in needed.items() if paths}

    def divided(self, paths: Sequence[Path] | None, counts: Mapping[str, int]) -> dict[str, list[Path]]:
        """The files of a stage by guidance, from all paths in the order of `files` and their number by guidance."""
        remaining = iter(paths or ())
        return {name: list(islice(remaining, counts.get(name, 0))) for name in self.present()}

    def open(self, files: Mapping[str, Sequence[Path]], scene: Scene) -> list[Guidance]:
        """The guidances that are on.

        Raises:
            BadInput: files do not fit the classes or the latents.
        """
        opened = (block.open(files.get(name, ()), scene) for name, block in self.present().items())
        return [guidance for guidance in opened if guidance is not None]


def counts(files: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many files belong to each guidance."""
    return {name: len(paths) for name, paths in files.items()}


def unguided_steps(guidances: Sequence[Guidance]) -> str | None:
    """How many gradients could not be used, in words; None where all could."""
    skipped = sum(getattr(guidance, "skipped", 0) for guidance in guidances)
    return f"{skipped} gradients were too small or not finite; those steps went unguided" if skipped else None
