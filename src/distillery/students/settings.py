"""Settings of networks and of how they are trained and tested."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    create_model,
    model_validator,
)

from distillery.data.channels import Known
from distillery.settings import (
    Batch,
    BelowOne,
    Block,
    Decay,
    Epochs,
    Exponent,
    Fraction,
    Images,
    InputPath,
    Name,
    Positive,
    Rate,
    Repeats,
    Side,
)
from distillery.students.names import known_network
from distillery.students.presets import DSA, FULL, NO_AUGMENTATION, PRESETS, preset_constants

Size = Annotated[
    Images | Literal["full"],
    BeforeValidator(
        lambda key: int(key) if isinstance(key, str) and key.isdecimal() else key
    ),  # JSON has no other keys
]
LONGEST_LABEL = 64
"""Letters of a protocol that files are named by, with method, network and size; file systems take 255 bytes."""

Network = Annotated[str, AfterValidator(known_network)]


def _ascending(interval: list[float]) -> list[float]:
    if interval[0] > interval[1]:
        raise ValueError(f"{interval[0]} lies above {interval[1]}; allowed: the smaller one first")
    return interval


Shares = Annotated[
    list[Annotated[float, Field(gt=0, le=1), Exponent]], Field(min_length=2, max_length=2), AfterValidator(_ascending)
]
Ratios = Annotated[
    list[Annotated[float, Field(ge=0.01, le=100), Exponent]],
    Field(min_length=2, max_length=2),
    AfterValidator(_ascending),
]
Strength = Annotated[float, Field(ge=0, le=10), Exponent]
Shift = Annotated[int, Field(ge=0, lt=2_048)]


class Recipe(Block):
    """How networks are trained on a set of images and tested, to the last constant.

    Fields without a default are those that a preset may give by IPC or by network.
    """

    epochs: Epochs
    batch_size: Batch
    learning_rate: Rate
    learned_rate: bool = Field(
        False,
        exclude_if=lambda learned: not learned,
        description="Take the step size that trajectory matching learned with a set as the learning rate of `sgd`; a "
        "set without one keeps `learning_rate`.",
    )
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: BelowOne = Field(0.9, description="Of `sgd`; without Nesterov.")
    betas: list[BelowOne] = Field([0.9, 0.999], min_length=2, max_length=2, description="Of `adamw`.")
    weight_decay: Decay = 0.01
    decay_vectors: bool = Field(True, description="Whether weight decay acts on biases and norms too.")
    schedule: Literal["cosine", "half_cosine", "step", "step_at_half", "warmup_cosine", "constant"] = Field(
        "cosine",
        description="Per epoch. `half_cosine`: to one half, 0.5 (1 + cos(pi e / 2E)); `step`: times 0.2 after 2/3 and "
        "5/6 of the epochs; `step_at_half`: times 0.1 after epoch E // 2 + 1, counted from 0; `warmup_cosine`: up over "
        "the first half of the epochs, down over the second.",
    )
    ema_decay: BelowOne = Field(0.0, description="Average of the weights, once per epoch, which is tested; 0: none.")

    size: Side | None = Field(None, description="Side of the images that networks see; none: as they are stored.")
    normalize: Known | Literal["dataset"] = Field(
        "half", description="Mean and standard deviation of the channels; `dataset`: those of `dataset.normalization`."
    )
    svhn_mean: bool = Field(
        False,
        description="As LD3M's public code: images of a set that a generator made are standardised with the mean of "
        "SVHN while networks are trained on them; real images and test images are not.",
    )
    resize_first: bool = Field(True, description="Resize the whole image to `size` before any random crop.")
    test_scale: Annotated[float, Field(ge=1, le=4), Exponent] = Field(
        1.0, description="Test images are resized to so many times `size`, then cropped."
    )

    augment: bool = Field(True, description="False: none of the augmentations that follow, whatever they say.")
    shift: Shift = Field(0, description="Random translation of at most this many pixels, black comes in.")
    crop_scale: Shares | None = Field(None, description="Share of the area that RandomResizedCrop keeps.")
    crop_ratio: Ratios = Field([3 / 4, 4 / 3], description="Width by height of RandomResizedCrop.")
    strip_shuffle: Side = Field(1, description="RDED: cut into so many strips and shuffle them, each way; 1: off.")
    flip: bool = Field(False, description="Horizontal mirror with probability 1/2.")
    color_jitter: Strength = Field(0.0, description="Brightness, contrast, saturation: U(-this, this), no clamp.")
    lighting: Strength = Field(0.0, description="Standard deviation of PCA lighting (AlexNet).")
    dsa: str = Field("", description="Operations of DSA, of which one is drawn per batch: color_crop_cutout_flip_…")
    dsa_align_corners: bool = Field(
        True, description="Of scale and rotate in DSA: LD3M's code aligns the corners, that of DSA does not."
    )
    cutmix: Fraction = Field(0.0, description="Share of the batches that CutMix acts on.")
    double_batchnorm_update: bool = Field(
        False,
        description="As RDED's public code: a second pass of each batch through the network, so that running "
        "statistics of batch norm move twice in a step.",
    )

    labels: Literal["hard", "soft", "set"] = Field(
        "hard",
        description="`soft`: a teacher's; `set`: soft ones that come with a set, hard where none do.",
    )
    teacher: Name | None = Field(None, description="Network of `references` that gives soft labels.")
    temperature: Positive = Field(20.0, description="Of both softmaxes with soft labels.")
    soft_labels: Literal["online", "stored"] = Field(
        "online", description="`stored`: the teacher's answers to every augmented image, once, in fp16."
    )

    evaluations: Epochs = Field(
        10, description="Tests on the test set, evenly spread over the epochs; the last epoch always."
    )
    evaluations_from: Fraction | None = Field(
        None, description="Share of the epochs before the first look; none: 1/evaluations."
    )

    def for_set(self, learned_rate: float | None) -> Self:
        """The recipe for a set that comes with a step size, or with none."""
        if not self.learned_rate or learned_rate is None:
            return self
        return self.model_copy(update={"learning_rate": learned_rate})


def _known_preset(name: str) -> str:
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; allowed: {', '.join(PRESETS)}")
    return name


def _known_operations(name: str) -> str:
    if unknown := [part for part in filter(None, name.split("_")) if part not in DSA]:
        raise ValueError(f"dsa: no operation {unknown[0]!r}; allowed: {', '.join(DSA)}")
    return name


def _constants() -> dict[str, Any]:
    """Every constant of a recipe as a key that may be left to the preset; three may depend on IPC or network."""
    tables: dict[str, Any] = {
        "epochs": Epochs | Annotated[dict[Size, Epochs], Field(min_length=1)],
        "batch_size": Batch | Annotated[dict[Size, Batch], Field(min_length=1)],
        "learning_rate": Rate | Annotated[dict[Name, Rate], Field(min_length=1)],
        "dsa": Annotated[str, AfterValidator(_known_operations)],
    }
    words = {
        "epochs": "A number, or {from this IPC on: epochs, full: epochs on the whole data set}.",
        "batch_size": "A number, or {from this IPC on: images, full: images}.",
        "learning_rate": "A number, or {default: rate, beginning of a network's name: rate}.",
    }
    constants = {}
    for name, field in Recipe.model_fields.items():
        kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        sentences = [words.get(name, field.description), "None: the preset's."]
        constants[name] = (tables.get(name, kind) | None, Field(None, description=" ".join(filter(None, sentences))))
    return constants


_Constants: Any = create_model("_Constants", __base__=Block, **_constants())


class Protocol(_Constants):
    """A named preset of the field, and what an experiment sets otherwise; a name alone stands for `{preset: name}`."""

    preset: Annotated[str, AfterValidator(_known_preset)] = Field(
        "small", description=f"One of: {', '.join(PRESETS)}. Its constants hold unless set here."
    )
    epochs_fraction: Annotated[float, Field(gt=0, le=1), Exponent] = Field(
        1.0, description="Share of the epochs that is trained, for a quick look; the label says so."
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"preset": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(PRESETS), "type": "string"}, handler(core_schema)]}

    @property
    def constants(self) -> list[str]:
        """Every constant that differs from the preset, as `name=value`."""
        set_here = {
            name: getattr(self, name)
            for name in sorted(type(self).model_fields)
            if name != "preset" and getattr(self, name) != type(self).model_fields[name].default
        }
        return [f"{name}={_text(value)}" for name, value in set_here.items()]

    @property
    def label(self) -> str:
        """Name in tables and paths: the preset, and every constant that differs from it; of many, their digest."""
        label = "+".join([self.preset, *self.constants])
        if len(label) <= LONGEST_LABEL:
            return label
        return f"{self.preset}+{hashlib.sha256(label.encode()).hexdigest()[:12]}"

    def unmodified(self, classes: int) -> bool:
        """Whether every constant is that of the preset; a teacher is none, for a preset of soft labels names nobody."""
        preset = preset_constants(self.preset, classes)
        own = {name: getattr(self, name) for name in Recipe.model_fields if name != "teacher"}
        return self.epochs_fraction == 1 and all(
            value is None or value == preset.get(name, Recipe.model_fields[name].default) for name, value in own.items()
        )

    def side(self, classes: int) -> int | None:
        """The side of the images that networks see, where the protocol sets one."""
        own: Any = self
        side: int | None = own.size or preset_constants(self.preset, classes).get("size")
        return side

    def recipe(self, *, network: str, ipc: int | Literal["full"], classes: int) -> Recipe:
        """The constants for one network, one size (images per class, or `full`) and one number of classes."""
        set_here = {name: getattr(self, name) for name in Recipe.model_fields if getattr(self, name) is not None}
        constants = {**preset_constants(self.preset, classes), **set_here}
        constants["epochs"] = max(1, round(_by_size(constants["epochs"], ipc) * self.epochs_fraction))
        constants["batch_size"] = _by_size(constants["batch_size"], ipc)
        constants["learning_rate"] = _by_name(constants["learning_rate"], network)
        if ipc == "full" and "evaluations" not in set_here and "full_evaluations" in constants:
            constants["evaluations"] = constants["full_evaluations"]
        constants.pop("full_evaluations", None)
        if not constants.get("augment", True):
            constants.update(NO_AUGMENTATION)
        return Recipe(**constants)

    def augments(self, classes: int) -> bool:
        """Whether any augmentation acts."""
        own = {name: getattr(self, name) for name in NO_AUGMENTATION if getattr(self, name) is not None}
        acting = {**NO_AUGMENTATION, **preset_constants(self.preset, classes), **own}
        chosen: Any = self
        return chosen.augment is not False and any(acting[name] != off for name, off in NO_AUGMENTATION.items())

    @property
    def treats_generated_apart(self) -> bool:
        """Whether generated images are seen otherwise than real ones."""
        chosen: Any = self
        return bool(chosen.svhn_mean)

    @property
    def without_augmentation(self) -> Protocol:
        """The same protocol without its augmentations; its label says so."""
        return self.model_copy(update={"augment": False})


def _text(value: object) -> str:
    if isinstance(value, dict):
        ordered = sorted(value.items(), key=lambda pair: (isinstance(pair[0], str), pair[0]))
        return "_".join(f"{_text(item)}@{key}" for key, item in ordered)
    if isinstance(value, list):
        return "_".join(_text(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _by_size(table: Any, ipc: int | Literal["full"]) -> int:
    """The entry of the largest key that is not above the size; the smallest one below all keys."""
    if not isinstance(table, dict):
        return int(table)
    numbers = sorted(key for key in table if key != FULL)
    if ipc == FULL or not numbers:
        return int(table[FULL] if FULL in table else table[numbers[-1]])
    below = [key for key in numbers if key <= ipc]
    return int(table[below[-1] if below else numbers[0]])


def _by_name(table: Any, network: str) -> float:
    """The entry of the longest key that the name begins with, or `default`."""
    if not isinstance(table, dict):
        return float(table)
    fits = sorted((key for key in table if network.startswith(key)), key=len)
    if not fits and "default" not in table:
        raise ValueError(f"learning_rate: no entry fits {network!r}, and there is no default")
    return float(table[fits[-1] if fits else "default"])


def of_reference(value: object) -> object:
    """For a validator: constants without a preset lie on top of the preset `reference`."""
    return {"preset": "reference", **value} if isinstance(value, dict) else value


class Reference(Block):
    """A network that knows the real images: trained here on all of them, or opened from a file."""

    network: Network
    training: Annotated[Protocol, BeforeValidator(of_reference)] = Protocol(preset="reference")
    weights: InputPath | None = Field(
        None,
        description="None: trained here. `timm`: the pretrained weights of timm's hub. A path: a safetensors file of "
        "this project, or a state dict of the network.",
    )
    origin: str | None = Field(None, description="What to download and where to put it, for whoever has no such file.")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="The digest that the file of weights must have."
    )
    rows: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, description="Which outputs of pretrained weights are the classes, in their order; none: all of them."
    )


def _once_each(networks: list[str]) -> list[str]:
    if several := [name for name in dict.fromkeys(networks) if networks.count(name) > 1]:
        raise ValueError(f"{several[0]!r} stands there more than once; give it once, and students: 2 or more")
    return networks


def _to_the_end(shares: list[float]) -> list[float]:
    if shares[-1] != 1 or sorted({*shares}) != shares:
        raise ValueError("allowed: shares of the epochs in ascending order, the last of them 1")
    return shares


class Student(Block):
    """The networks that are trained on the increments so far; S has the mean of their cross-entropies."""

    networks: Annotated[list[Network], Field(min_length=1), AfterValidator(_once_each)] | None = Field(
        None, description="Architectures. None: the network of the reference."
    )
    students: Repeats = Field(1, description="Networks of each architecture, with other initial weights and orders.")
    checkpoints: Annotated[
        list[Annotated[float, Field(gt=0, le=1), Exponent]], Field(min_length=1), AfterValidator(_to_the_end)
    ] = Field([1.0], description="Shares of the epochs after which the weights of a network take part; the last is 1.")
    start: Literal["fresh", "continued"] = "fresh"
    protocol: Protocol | None = Field(None, description="None: the first protocol of the evaluation.")

    @property
    def several(self) -> bool:
        """Whether the mean is over more than the weights of one network at its end."""
        return len(self.networks or [""]) * self.students * len(self.checkpoints) > 1

    def checkpoint_epochs(self, epochs: int) -> list[int]:
        """The epochs after which weights take part, in ascending order; the last is `epochs`."""
        return [max(1, round(share * epochs)) for share in self.checkpoints]


class Speed(Block):
    """How the same training is done faster; the result depends on it by rounding alone."""

    networks_at_once: Repeats | Literal["auto"] = Field(
        "auto", description="Networks trained at once, with stacked weights; auto: all on a GPU, one on a CPU."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of forward and backward passes; auto: bfloat16 on a GPU, and for images of 32 px and more on a "
        "CPU that has instructions for it; else float32.",
    )
    channels_last: bool = Field(False, description="On a GPU, and with `compile` on a CPU; elsewhere it does nothing.")
    compile: bool = Field(False, description="torch.compile; on a CPU it needs a C++ compiler.")


class Evaluation(Block):
    """What a distilled set is worth: networks trained on it from nothing, tested on real images."""

    protocol: Annotated[
        Annotated[Protocol, Tag("one")] | Annotated[list[Protocol], Field(min_length=1), Tag("several")],
        Discriminator(lambda value: "several" if isinstance(value, list) else "one"),
    ] = Field(Protocol(), description="A preset, {preset: …, constant: …}, or a list of them.")
    networks: list[Network] = Field(min_length=1)
    students: Repeats = Field(3, description="Networks trained per method, size and architecture.")
    without_augmentation: bool = Field(
        False,
        description="Whether every protocol is run once more without its augmentations, which the augmentation-robust "
        "score (ARS) of DD-Ranking asks for. It doubles the work of the evaluation.",
    )
    full_data: bool = Field(True, description="Whether all training images are a row of the tables too.")
    split: Literal["test", "validation"] = Field(
        "test",
        description="The images that networks are tested on. An experiment that searches settings takes `validation`, "
        "the images of `dataset.validation`, and another one with the settings found then takes `test`.",
    )
    baseline: Name | None = Field(None, description="Method that the others are compared with, pair by pair.")
    speed: Speed = Speed()

    @property
    def protocols(self) -> list[Protocol]:
        """One or several, as a list; behind them those without augmentation, where they are asked for."""
        own = self.stated
        labels = [protocol.label for protocol in own]
        added = [protocol.without_augmentation for protocol in own] if self.without_augmentation else []
        return [*own, *(protocol for protocol in added if protocol.label not in labels)]

    @property
    def stated(self) -> list[Protocol]:
        """Those that the file names."""
        return self.protocol if isinstance(self.protocol, list) else [self.protocol]

    @property
    def plain_of(self) -> dict[str, str]:
        """Label of a protocol -> that of the same one without augmentation, where both are run."""
        labels = {protocol.label for protocol in self.protocols}
        pairs = {protocol.label: protocol.without_augmentation.label for protocol in self.protocols}
        return {label: plain for label, plain in pairs.items() if plain in labels and plain != label}

    @property
    def abbreviated(self) -> dict[str, str]:
        """Label -> the constants that it stands for, of protocols whose label is a digest."""
        digests = (protocol for protocol in self.protocols if "=" not in protocol.label and protocol.constants)
        return {protocol.label: ", ".join(protocol.constants) for protocol in digests}

    def labelled(self, label: str) -> Protocol:
        """The protocol of a label."""
        return next(protocol for protocol in self.protocols if protocol.label == label)
