"""Select the checkpoints of a surrogate at which learning turns, with the mean gradient of each class there (IGD)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.plan.experiment import Experiment


class Settings(Block):
    name: str
    external: bool
    threshold: float
    keep: list[int] | None
    gradient_images: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, surrogate: str) -> Settings:
        block = experiment.surrogates[surrogate]
        return cls(
            name=surrogate,
            external=block.checkpoints is not None,
            threshold=block.threshold,
            keep=block.keep,
            gradient_images=block.gradient_images,
        )


def run(settings: Settings, *, data: Input, checkpoints: Input, gradients: Output, by_class: Output, job: Job) -> None:
    """Training images and the states of a surrogate to the kept states and their gradients (kept, classes, parameters).

    The metadata hold the numbers of the kept states. External checkpoints whose outputs stand in another order than the
    classes that they name are refused.
    """
    import numpy as np
    import torch
    from torch import Tensor

    from distillery.data.reading import ImageTable
    from distillery.divergence import refuse_diverged
    from distillery.guidance.influence_gradients import choose_checkpoints, class_gradients, refuse_other_classes
    from distillery.progress import Progress
    from distillery.storage.atomic import write_bytes
    from distillery.storage.tensors import below, read_tensors, write_stacks
    from distillery.students.networks import Classifier
    from distillery.students.order import accuracy_by_class, better_order, compare_orders, count_answers

    table = ImageTable(data)
    classes = table.classes
    tensors, about = read_tensors(checkpoints, "train_surrogate")
    if "checkpoints" not in about:
        raise BadInput(f"{checkpoints}: holds no numbered checkpoints; give a file that `train_surrogate` wrote")
    refuse_other_classes(checkpoints, about["classes"], classes)
    refuse_diverged(tensors.values(), f"{checkpoints}: the weights", "train the surrogate at a lower learning_rate")
    classifier = Classifier.described(about).to(job.device).eval()
    classifier.load_state_dict(below(tensors, f"{about['checkpoints'] - 1}/"))
    counts = count_answers(classifier, table, (job.stage, settings.name))
    if settings.external and (order := better_order(counts)):
        right = {classes[output]: name for name, output in zip(classes, order, strict=True)}
        raise BadInput(
            f"surrogates.{settings.name}.checkpoints: {checkpoints}: {compare_orders(counts, order, classes)}. Give "
            f"checkpoints that name their outputs {', '.join(right[name] for name in about['classes'])}, or leave "
            "checkpoints out to train the surrogate here"
        )
    write_bytes(by_class, accuracy_by_class(counts, classes))
    most = settings.gradient_images
    rows = np.concatenate([np.flatnonzero(table.labels == label)[:most] for label in range(len(classes))])
    pixels = table.pixels(rows)
    own = torch.tensor([about["classes"].index(name) for name in classes])[table.labels[rows]]
    numbers = range(about["checkpoints"]) if settings.keep is None else sorted(set(settings.keep))
    if numbers[-1] >= about["checkpoints"]:
        raise BadInput(f"keep: no checkpoint {numbers[-1]}; {checkpoints} has 0 to {about['checkpoints'] - 1}")

    resume, start, chosen = job.resume(gradients), 0, dict[int, Tensor]()
    if state := resume.restore():
        start = int(state[1]["checkpoints"])
        chosen = {int(place): rows for place, rows in sorted(state[0].items(), key=lambda item: int(item[0]))}

    def walk() -> Iterator[Tensor]:
        with Progress(job.stage, len(numbers), "checkpoint", start) as progress:
            for place in range(start, len(numbers)):
                classifier.load_state_dict(below(tensors, f"{numbers[place]}/"))
                yield class_gradients(classifier, pixels, own, images=settings.gradient_images)
                progress.advance()
                resume.checkpoint(
                    lambda done=place + 1: (  # type: ignore[misc]
                        {str(place): rows for place, rows in chosen.items()},
                        {"checkpoints": done},
                    )
                )

    # No cosine reaches 2: every checkpoint of a list is kept.
    choose_checkpoints(walk(), settings.threshold if settings.keep is None else 2.0, chosen, start)
    kept = [numbers[place] for place in chosen]
    states = {name: value for name, value in tensors.items() if int(name.partition("/")[0]) in kept}
    print(f"kept the checkpoints {kept} of {about['checkpoints']}")
    stack = {"gradients": [*chosen.values()]}
    write_stacks(gradients, states, stack, job.provenance, **classifier.description, kept=kept)
    resume.finish()
