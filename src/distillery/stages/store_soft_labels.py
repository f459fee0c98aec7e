"""Store the logits of a teacher for every augmented image of every epoch of a protocol."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output, need_room
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.plan.experiment import Experiment


class Settings(Block):
    """The recipe without the constants that only students read."""

    seed: int
    recipe: Recipe

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, protocol: str) -> Settings:
        named = experiment.evaluation.labelled(protocol)
        recipe = experiment.recipe(named, experiment.evaluation.networks[0], ipc, method)
        students = {
            "learning_rate": 1.0,
            "weight_decay": 0.0,
            "ema_decay": 0.0,
            "evaluations": 1,
            "evaluations_from": None,
        }
        return cls(seed=experiment.seed(run), recipe=recipe.model_copy(update=students))


def run(settings: Settings, *, images: Input, teacher: Input, soft_labels: Output, job: Job) -> None:
    """A distilled set to logits (epochs, images, classes) fp16, by place in the epoch."""
    import numpy as np

    from distillery.data.pixels import load_pixels
    from distillery.storage.tensors import growing_tensors, is_whole, partial_name
    from distillery.students.networks import Classifier, Domain
    from distillery.students.soft_labels import Teacher, store

    pixels, _, classes, _ = load_pixels(images, "collect")
    domain = Domain.of(pixels, settings.recipe)
    known = Teacher(Classifier.load(teacher, "train_reference"), classes, domain, job.device)
    shape = (settings.recipe.epochs, len(pixels), len(classes))
    resume, first = job.resume(soft_labels), 0
    if is_whole(partial_name(soft_labels)) and (checkpoint := resume.restore()):
        first = int(checkpoint[1]["epochs"])
    left = 2 * math.prod((settings.recipe.epochs - first, *shape[1:]))
    need_room(soft_labels, left, "say `soft_labels: online` in the protocol: the teacher answers again")
    tensors = {"logits": (np.dtype(np.float16), shape)}
    epochs = store(known, pixels, settings.recipe, (settings.seed, "soft_labels"), job.stage, first)
    with growing_tensors(soft_labels, tensors, job.provenance, first > 0, classes=classes) as writer:

        def state(done: int) -> tuple[dict[str, Tensor], dict[str, int]]:
            writer.flush()
            return {}, {"epochs": done}

        for epoch, logits in enumerate(epochs, first):
            writer.put("logits", epoch, logits[None].numpy())
            resume.checkpoint(lambda done=epoch + 1: state(done))  # type: ignore[misc]
    resume.finish()
