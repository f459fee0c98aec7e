"""Train the students on the increments so far; they guide the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Student(Block):
    """A network beside the first one: the `number`-th of its architecture, counted from 0."""

    network: str
    number: int
    recipe: Recipe


class Settings(Block):
    """The first network, and the others.

    Attributes:
        checkpoints: epochs before the last one after which the weights of a network are kept too.
    """

    seed: int
    increment: int
    network: str
    start: Literal["fresh", "continued"]
    recipe: Recipe
    others: list[Student] = Field([])
    checkpoints: list[int] = Field([])

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Where there is one network, its settings alone: it is what it was before others could be asked for."""
        absent = {name for name in ("others", "checkpoints") if not getattr(self, name)}
        return {name: value for name, value in handler(self).items() if name not in absent}

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, k: str) -> Settings:
        loop = experiment.loop(method)
        protocol = loop.student.protocol or experiment.evaluation.protocols[0]
        students = [
            Student(
                network=network,
                number=number,
                recipe=experiment.recipe(protocol, network, int(k) * loop.increment_size, method),
            )
            for network in experiment.student_networks(method)
            for number in range(loop.student.students)
        ]
        first = students[0]
        return cls(
            seed=experiment.seed(run),
            increment=int(k),
            network=first.network,
            start=loop.student.start,
            recipe=first.recipe,
            others=students[1:],
            checkpoints=loop.student.checkpoint_epochs(first.recipe.epochs)[:-1],
        )


def run(
    settings: Settings,
    *,
    images: list[Input],
    previous: Input | None = None,
    previous_others: Input | None = None,
    teacher: Input | None = None,
    model: Output,
    others: Output | None = None,
    history: Output,
    job: Job,
) -> None:
    """Increments 1 to k to networks at the end of their schedules; no test images choose an epoch.

    `others` has the networks beside the first one, each after every checkpoint and at its end; before them it has the
    first one after every checkpoint. With soft labels `teacher` answers while networks are trained, also where the
    protocol stores its answers: each network sees images of its own.
    """
    import copy

    import torch

    from distillery.data.pixels import decoded
    from distillery.storage.history import History, write_history
    from distillery.storage.images import concatenate, read_images
    from distillery.students.networks import Classifier, Domain, load_networks, save_networks
    from distillery.students.soft_labels import online_answers
    from distillery.students.training import Checkpoints, train_network

    if (others is None) == bool(settings.others or settings.checkpoints):
        raise BadInput(
            "others: a file for the networks beside the first one; give it where there are some, and only there"
        )
    distilled = concatenate([read_images(path, "select_increment") for path in images])
    pixels, labels = decoded(distilled), torch.from_numpy(distilled.labels)
    first = Student(network=settings.network, number=0, recipe=settings.recipe)
    soft_labels = online_answers(teacher, distilled.classes, Domain.of(pixels, settings.recipe), job.device)
    continued: list[Classifier] = []
    if previous is not None:
        before = load_networks(previous_others, job.stage) if previous_others is not None else []
        each = len(settings.checkpoints) + 1
        continued = [Classifier.load(previous, job.stage), *before[2 * each - 2 :: each]]
    resumes, histories, states = [], list[History](), list[Classifier]()
    for number, student in enumerate([first, *settings.others]):
        key: tuple[int | str, ...] = (settings.seed, job.stage, settings.increment)
        if number:
            key = (*key, student.network, student.number)
        classifier = (
            continued[number]
            if continued
            else Classifier(student.network, distilled.classes, Domain.of(pixels, student.recipe), key)
        )
        resumes.append(job.resume(model.with_name(f"{model.stem}-{number}") if number else model))
        recorded = History(student.recipe.epochs, "epoch", [number] if settings.others else None)
        checkpoints = Checkpoints(frozenset(settings.checkpoints))
        train_network(
            classifier,
            pixels,
            labels,
            student.recipe,
            key=key,
            device=job.device,
            soft_labels=soft_labels,
            resume=resumes[-1],
            what=f"{job.stage}, {student.network} {student.number}" if number else job.stage,
            checkpoints=checkpoints,
            history=recorded,
        )
        histories.append(recorded)
        for state in checkpoints.states:
            states.append(copy.deepcopy(classifier))
            states[-1].load_state_dict(state)
        states.append(classifier)
    last = states.pop(len(settings.checkpoints))  # of the first network: it has a file of its own
    write_history(history, histories, job.provenance)
    if others is not None:
        save_networks(others, states, job.provenance)
    last.save(model, job.provenance)
    for resume in resumes:
        resume.finish()
