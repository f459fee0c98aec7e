"""The interface of methods: their properties answer every question, so that nobody asks for the kind of a method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from distillery.data.settings import Dataset
from distillery.diffusion.generators import AnyGenerator
from distillery.diffusion.settings import AnyAutoencoder
from distillery.guidance.settings import Surrogate
from distillery.matching.settings import Experts, Matching
from distillery.settings import Block
from distillery.students.settings import Evaluation, Reference
from distillery.students.settings import Protocol as StudentProtocol

RealImageUse = Literal["none", "any"]
PartName = Literal["increment", "sampled", "selected", "imported", "chosen"]


@dataclass(frozen=True)
class Part:
    """One file that a distilled set is collected from.

    Attributes:
        name: which files they are; `plan/layout.py` has their path.
        wildcards: values of the wildcards in that path, besides run and method.
    """

    name: PartName
    wildcards: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """The inputs of the sets of a method, besides the training images; None: the method has no such input.

    Attributes:
        generator: an entry of `generators`.
        autoencoder: whether latents are decoded or encoded.
        features: the entry of `references` whose features of the training images are read.
        reference: an entry of `references`.
        experts: an entry of `experts`.
        modes: whether modes of the training images are found, as many per class as a set has images.
    """

    generator: str | None = None
    autoencoder: bool = False
    features: str | None = None
    reference: str | None = None
    experts: str | None = None
    modes: bool = False


@dataclass(frozen=True)
class Trained:
    """A network that is trained, or that images are shown to, on behalf of a method.

    Attributes:
        key: of the experiment file, for messages.
        protocol: that trains it.
        ipc: images per class that it is trained on; None where no recipe is looked up.
        compares: whether gradients or features of it are compared, so that it must have no state but its weights.
        taught: whether a teacher can answer while it is trained, so that its labels may be soft.
    """

    key: str
    network: str
    protocol: StudentProtocol
    ipc: int | None = None
    compares: bool = False
    taught: bool = False


class Context(Protocol):
    """The experiment, as a method may ask it."""

    @property
    def ipc(self) -> Sequence[int]: ...
    @property
    def seeds(self) -> Sequence[int]: ...
    @property
    def dataset(self) -> Dataset: ...
    @property
    def autoencoder(self) -> AnyAutoencoder: ...
    @property
    def generators(self) -> Mapping[str, AnyGenerator]: ...
    @property
    def references(self) -> Mapping[str, Reference]: ...
    @property
    def surrogates(self) -> Mapping[str, Surrogate]: ...
    @property
    def experts(self) -> Mapping[str, Experts]: ...
    @property
    def matching(self) -> Matching: ...
    @property
    def methods(self) -> Mapping[str, Method]: ...
    @property
    def evaluation(self) -> Evaluation: ...
    @property
    def class_names(self) -> Sequence[str]:
        """The classes of the data, in the order of their labels."""
        ...

    @property
    def latent_side(self) -> int | None:
        """Side of the latents; None where nobody knows yet."""
        ...

    @property
    def plain_convnet(self) -> str:
        """ConvNet-d for the side of the data."""
        ...


class Method(Block):
    """A method and the parts of its sets.

    Attributes:
        stage: the stage that makes the parts of its sets.
        incremental: whether its sets grow in increments, each with a student.
        has_chain: whether gradients go through the steps of a diffusion.
        kind: its name in an experiment file.
    """

    stage: ClassVar[str]
    incremental: ClassVar[bool] = False
    has_chain: ClassVar[bool] = False
    if TYPE_CHECKING:
        kind: Any

    @property
    def real_images(self) -> RealImageUse:
        """Whether its sets hold or begin with training images; at most as many of each class as a set has.

        What the sets of other methods hold that it uses is left to those.
        """
        return "none"

    @property
    def learns_rate(self) -> bool:
        """Whether its sets come with a step size that was learned with them."""
        return False

    @property
    def nested(self) -> bool:
        """Whether its larger sets begin with the smaller ones."""
        return True

    @property
    def cut_by_slot(self) -> bool:
        """Whether consecutive slots of its sets are parts as they stand: increments, or independent random draws."""
        return self.incremental

    @property
    def judges(self) -> list[str]:
        """The networks of `references` that choose its settings, beside the one of `needs`."""
        return []

    @property
    def uses_sets_of(self) -> list[str]:
        """The methods whose sets its own begin with, or are chosen among."""
        return []

    @property
    def needs(self) -> Needs:
        """The inputs of its sets."""
        return Needs()

    def sizes(self, ipc: Sequence[int]) -> list[int] | list[str]:
        """The sizes that it is evaluated at: images per class, or `full`."""
        return sorted(ipc)

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        """The files that its set of one size is collected from; `sizes` are all of the experiment."""
        raise NotImplementedError

    def jobs(self, sizes: Sequence[int]) -> int:
        """How many jobs make its sets, about.

        Args:
            sizes: all sizes of the experiment.
        """
        return 2 * len(sizes)

    def increments(self, sizes: Sequence[int]) -> int:
        """How many increments its largest set has; 0 where it does not grow in increments."""
        return 0

    @property
    def asks_for_classes(self) -> bool:
        """Whether it asks its generator for every class of the data."""
        return True

    @property
    def draws_natively(self) -> bool:
        """Whether its generator draws at a side of its own, and images are resized."""
        return False

    def stream_of(self, name: str) -> str:
        """The name of the stream that it draws from, for the name of the method."""
        return getattr(self, "stream", None) or name

    def files(self, context: Context) -> list[str]:
        """The files from elsewhere that its sets are made of."""
        return []

    def check(self, key: str, context: Context) -> Iterator[str]:
        """The faults of its settings in this experiment, one line each; `key` is its place in the file."""
        yield from ()

    def check_set(self, where: str, ipc: int, context: Context) -> Iterator[str]:
        """Whether another method can use its set of this size, which need not be a size of the experiment.

        Args:
            where: begins each fault: a key, and this method.
        """
        sizes = self.sizes([ipc])
        if ipc not in sizes:
            yield f"{where} has no set of {ipc} images per class, but of {sizes[0]}"

    def check_groups(self, key: str, generator: str, groups: int) -> Iterator[str]:
        """Whether it takes its generator where that is several, one for each group of classes.

        Args:
            generator: its place in the file.
            groups: how many there are.
        """
        yield f"{key}.generator: {generator} has groups of classes, which methods that sample take"

    def check_sizes(self, key: str, sizes: Sequence[int], images: Mapping[str, int]) -> Iterator[str]:
        """Whether every class has enough training images (`images`) for all sizes, beyond those of `real_images`."""
        yield from ()

    def student_networks(self, key: str, context: Context) -> Iterator[Trained]:
        """The networks that are trained on its images while its sets are made, with the images per class."""
        yield from ()

    def networks(self, key: str, context: Context) -> Iterator[Trained]:
        """The networks that are trained for it, or that see its images."""
        yield from ()


def smaller(ipc: int, sizes: Sequence[int]) -> int:
    """The next smaller size, or 0: a set begins with the smaller ones, and a job makes only what it adds."""
    return max((size for size in sizes if size < ipc), default=0)


def check_named(key: str, word: str, name: str | None, block: Mapping[str, object]) -> Iterator[str]:
    """Whether a name is an entry of another block, which is called by the plural of `word`."""
    if name is not None and name not in block:
        yield f"{key}: no {word} {name!r}; {word}s: {', '.join(block) or 'none'}"


def check_shards(key: str, shards: int, classes: int) -> Iterator[str]:
    """Whether there are as many classes as jobs."""
    if 1 < classes < shards:
        yield f"{key}.shards: {shards} jobs for {classes} classes; allowed: 1 to {classes}"
