"""Evaluate a distilled set: networks of one architecture, trained on it and tested on real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Recipe, Speed

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    method: str
    ipc: int | None
    network: str
    protocol: str
    recipe: Recipe
    students: int
    speed: Speed

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, network: str, protocol: str) -> Settings:
        """The part of an experiment that this stage reads; `ipc` is None for all training images."""
        return cls(
            seed=experiment.seed(run),
            method=method,
            ipc=None if ipc == "full" else int(ipc),
            network=network,
            protocol=protocol,
            recipe=experiment.recipe(experiment.evaluation.labelled(protocol), network, ipc, method),
            students=experiment.evaluation.students,
            speed=experiment.evaluation.speed,
        )


def run(
    settings: Settings,
    *,
    images: Input,
    test: Input,
    teacher: Input | None = None,
    soft_labels: Input | None = None,
    whitening: Input | None = None,
    evaluations: Output,
    history: Output,
    job: Job,
) -> None:
    """A distilled set to the test accuracies of each network, and the images that it classifies correctly at the end.

    Network number i starts from the same weights and sees the same random numbers whatever set it is trained on.
    """
    import numpy as np
    import pyarrow as pa
    import torch

    from distillery.data.pixels import load_pixels
    from distillery.data.whitening import opened_whitening
    from distillery.storage.history import History, write_history
    from distillery.storage.images import read_learned_rate, read_soft_labels
    from distillery.storage.tables import write_table
    from distillery.storage.tensors import opened_tensor
    from distillery.students.networks import Classifier, Domain
    from distillery.students.soft_labels import Teacher, stored
    from distillery.students.training import Trained, in_ensembles, networks_at_once, train_networks

    recipe = settings.recipe.for_set(read_learned_rate(images, "collect"))
    pixels, labels, classes, _ = load_pixels(images, "collect")
    tested, test_labels, tested_classes, _ = load_pixels(test)
    if tested_classes != classes:
        raise BadInput(f"{test}: has classes {', '.join(tested_classes)}, and {images} has {', '.join(classes)}")
    own_labels = read_soft_labels(images, "collect") if recipe.labels == "set" else None
    if own_labels is not None:
        labels = torch.from_numpy(own_labels)
    resumes, histories = [], list[History]()
    map_of_images = opened_whitening(whitening, job.device)

    def key(student: int) -> tuple[int | str, ...]:
        return (settings.seed, job.stage, settings.network, student)

    def network(student: int) -> Classifier:
        return Classifier(settings.network, classes, Domain.of(pixels, recipe, map_of_images), key(student))

    first = network(0)
    answers = None
    if soft_labels is not None:
        answers = stored(opened_tensor(soft_labels, "logits", "store_soft_labels"), job.device)
    elif teacher is not None:
        answers = Teacher(Classifier.load(teacher, "train_reference"), classes, first.domain, job.device).online()

    def train(ensemble: Sequence[int]) -> list[Trained]:
        span = f"{ensemble[0]}-{ensemble[-1]}" if len(ensemble) > 1 else f"{ensemble[0]}"
        resumes.append(job.resume(evaluations.with_name(f"{evaluations.stem}.student-{span}")))
        keys = [(settings.seed, "soft_labels") if soft_labels is not None else key(student) for student in ensemble]
        recorded = History(recipe.epochs, "epoch", ensemble)
        trained = train_networks(
            [network(student) for student in ensemble],
            pixels,
            labels,
            recipe,
            keys=keys,
            device=job.device,
            test=(tested, test_labels),
            soft_labels=answers,
            speed=settings.speed,
            resume=resumes[-1],
            what=f"{settings.method} ipc {settings.ipc or 'full'} {settings.network} {span} of {settings.students}",
            history=recorded,
        )
        histories.append(recorded)
        return trained

    at_once = networks_at_once(settings.speed, settings.students, job.device, first)
    trained = in_ensembles(range(settings.students), at_once, train)
    facts = {
        "method": settings.method,
        "ipc": settings.ipc or round(len(labels) / len(classes)),
        "network": settings.network,
        "seed": settings.seed,
        "protocol": settings.protocol,
        "images": len(labels),
        "test_images": len(test_labels),
        "parameters": sum(parameter.numel() for parameter in first.parameters()),
        "label_bytes": 0 if own_labels is None else own_labels.nbytes,
    }
    if soft_labels is not None:
        facts["label_bytes"] = soft_labels.stat().st_size
    rows = [
        {
            **facts,
            "student": student,
            "epoch": epoch,
            "accuracy": percent,
            # one bit per test image, for paired comparisons; of the last epoch alone
            "correct": np.packbits(result.correct.numpy()).tobytes() if epoch == recipe.epochs else None,
        }
        for student, result in enumerate(trained)
        for epoch, percent in result.evaluations
    ]
    write_history(history, histories, job.provenance)
    write_table(evaluations, pa.Table.from_pylist(rows), job.provenance)
    for resume in resumes:
        resume.finish()
