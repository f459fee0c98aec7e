"""How a distilled set is made: the stages behind it, each with its resolved settings."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from distillery.guidance.learnability import Learnability
from distillery.methods.lgd import LGD
from distillery.plan.rules import stage_module
from distillery.provenance import without_folders
from distillery.settings import canonical

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

_SPREAD = ("shard", "shards")
"""Settings that spread a stage over jobs; its images do not depend on them."""

_OF_MODELS = frozenset(
    {"train_reference", "extract_features", "train_surrogate", "select_checkpoints", "encode_latents", "train_experts"}
    | {"train_generator", "finetune_generator"}
)
"""Stages of models, which runs may share."""


def lineage(experiment: Experiment, run: str, method: str, ipc: int) -> dict[str, Any]:
    """What the file of a distilled set says of its making.

    Only what its images depend on is in it, and each part of it belongs to a job that the set is made of: when it
    changes, a job before the set runs again anyway.

    Returns:
        `experiment`, `method`, `kind`, `seed`; `nested`: whether it begins with the smaller sets; `stages`: in their
        order, each with the name of what it makes, where it makes several things; `settings`: by stage.
    """
    block = experiment.methods[method]
    settings = _Line(experiment, run, method, ipc).settings
    return {
        "experiment": experiment.name,
        "method": method,
        "kind": block.kind,
        "nested": block.nested,
        "seed": experiment.seed(run),
        "stages": list(settings),
        "settings": settings,
    }


class _Line:
    """The stages behind a set; to guidances it is what tells them the places of their files."""

    def __init__(self, experiment: Experiment, run: str, method: str, ipc: int) -> None:
        self.experiment, self.run, self.method, self.ipc = experiment, run, method, ipc
        self.settings: dict[str, dict[str, Any]] = {}
        parts = experiment.methods[method].parts(ipc, experiment.ipc)
        self.last = max((part.wildcards["k"] for part in parts if part.name == "increment"), default=0)
        self.add("ingest")
        self._needs()
        self._increments() if self.last else self._set()

    def add(self, stage: str, *names: str, **wildcards: object) -> None:
        """Note the settings of a stage, once."""
        key = ":".join([stage, *names])
        if key in self.settings:
            return
        block = stage_module(stage).Settings
        run = self.experiment.models_run(self.run) if stage in _OF_MODELS else self.run
        known = {"run": run, "method": self.method, "ipc": self.ipc, "shard": 0, **wildcards}
        asked = [name for name in _asked(stage) if name in known]
        settings = block.of(self.experiment, **{name: str(known[name]) for name in asked})
        content = json.loads(canonical(settings))
        self.settings[key] = without_folders({name: content[name] for name in content if name not in _SPREAD})

    # ---- the methods of `GuidanceFiles`, which a guidance asks for what it needs -------------------------------------

    def gradients(self, surrogate: str) -> str:
        self.add("train_surrogate", surrogate, surrogate=surrogate)
        self.add("select_checkpoints", surrogate, surrogate=surrogate)
        return ""

    def modes(self, count: int | None) -> str:
        self.latents()
        self.add("discover_modes", modes=count or self.experiment.modes(self.method, self.ipc))
        return ""

    def latents(self) -> list[str]:
        self._autoencoder("autoencoder")
        self.add("encode_latents")
        return []

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def _beginning(self) -> int:
        """How many increments at the beginning no student chooses; 0 where a method has no increments."""
        return self.experiment.loop(self.method).beginning if self.last else 0

    def _used(self, ipc: int) -> None:
        """The stages behind the sets that a method uses; those of one method have its name, in so many lines."""
        for name in self.experiment.methods[self.method].uses_sets_of:
            for key, value in _Line(self.experiment, self.run, name, ipc).settings.items():
                of_method = ":" not in key and "method" in _asked(key)
                self.settings.setdefault(f"{key}:{name}" if of_method else key, value)

    def _needs(self) -> None:
        """What the method is made with: networks, autoencoders, generators, experts, and those of its guidances."""
        needs = self.experiment.methods[self.method].needs
        first = 0 < self.last <= self._beginning  # the first increments have neither student nor reference
        reference = None if first else needs.reference
        for name in filter(None, [reference, needs.features]):
            self.add("train_reference", name, reference=name)
        if needs.features:
            self.add("extract_features", needs.features, reference=needs.features)
        if needs.autoencoder:
            self._autoencoder("autoencoder")
        if needs.generator:
            self._generator(needs.generator)
        if needs.modes:
            self.modes(self.ipc)
        if needs.experts:
            self.add("train_experts", needs.experts, experts=needs.experts)

    def _guidances(self) -> None:
        guidance = self.experiment.guidance(self.method)
        if guidance.present():
            if self.experiment.guidance_autoencoder is not None:
                self._autoencoder("guidance_autoencoder")
            guidance.files(self)

    def _autoencoder(self, key: str) -> None:
        block = getattr(self.experiment, key)
        run = self.run if key == "guidance_autoencoder" else self.experiment.autoencoder_run(self.run)
        if term := getattr(block, "perceptual_reference", None):
            self.add("train_reference", term, reference=term)
        self.add(block.stage, *([key] if key != "autoencoder" else []), opened=key, run=run)

    def _generator(self, name: str) -> None:
        block = self.experiment.generators[name]
        if block.starts_from:
            self._generator(block.starts_from)
        if not block.opened:
            self.latents()
        for part in self.experiment.generator_parts(name):
            self.add(block.stage, part, generator=part)

    def _set(self) -> None:
        """The stages of a set that is made size by size."""
        method = self.experiment.methods[self.method]
        if method.stage == "sample":
            self._guidances()
        self._used(self.ipc)
        if method.stage == "match" and self.experiment.dataset.zca is not None:
            self.add("fit_whitening")
        self.add(method.stage)
        if method.stage == "match":
            self.add("render")
            self.add("choose_snapshot")

    def _increments(self) -> None:
        """The stages of a set that grows in increments, as they are for the last of them."""
        loop = self.experiment.loop(self.method)
        stage, guided = loop.stage, loop.stage == "generate_increment"
        if not guided:
            self._used(loop.beginning * loop.increment_size)
        if self.last > loop.beginning:
            if teacher := self.experiment.student_teacher(self.method):
                self.add("train_reference", teacher, reference=teacher)
            self.add("train_student", k=self.last - 1)
        if guided:
            self._guided_increments(self.experiment.method_of(self.method, LGD))
            for k in range(2, self.last):  # the last increment before another strength
                if self._strength(k) != self._strength(k + 1):
                    self.add(stage, str(k), k=k)
        self.add(stage, k=self.last)

    def _strength(self, k: int) -> float | str | None:
        """The strength of learnability at increment k."""
        learnability = self.experiment.guidance(self.method).at_increment(k).get(Learnability)
        return None if learnability is None else learnability.resolved_strength

    def _guided_increments(self, method: LGD) -> None:
        for name in method.uses_sets_of:
            seed = _Line(self.experiment, self.run, name, method.increment_size)
            self.settings |= {key: value for key, value in seed.settings.items() if key not in self.settings}
        if self.last == 1:
            return
        self._guidances()
        if method.calibrates:
            judge = method.calibration.judge or method.reference
            self.add("train_reference", judge, reference=judge)
            self.add("calibrate_guidance")


def _asked(stage: str) -> list[str]:
    """The wildcards that the settings of a stage depend on."""
    return list(inspect.signature(stage_module(stage).Settings.of).parameters)
