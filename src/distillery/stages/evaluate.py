"""Evaluate a distilled set: networks of one architecture, trained on it and tested on real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Protocol

if TYPE_CHECKING:
    from distillery.experiment import Experiment


class Settings(Block):
    """What the stage depends on."""

    seed: int
    method: str
    ipc: int
    network: str
    protocol: Protocol
    students: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, network: str) -> Settings:
        """The part of an experiment that this stage reads."""
        return cls(
            seed=experiment.seed(run),
            method=method,
            ipc=int(ipc),
            network=network,
            protocol=experiment.evaluation.protocol,
            students=experiment.evaluation.students,
        )


def run(settings: Settings, *, images: Input, test: Input, history: Output, job: Job) -> None:
    """A distilled set to the test accuracy of each network at every look, the last epoch included.

    Network number i starts from the same weights and sees the same random numbers whatever set it is trained on.
    """
    import pyarrow as pa
    import torch

    from distillery.artifacts import read_images, write_table
    from distillery.data.pixels import load_pixels
    from distillery.students.networks import Classifier, Domain
    from distillery.students.training import accuracy, train_network

    distilled = read_images(images, "collect")
    pixels, labels = torch.from_numpy(distilled.pixels()), torch.from_numpy(distilled.labels)
    test_pixels, test_labels, *_ = load_pixels(test)
    rows, resumes = [], []
    for student in range(settings.students):
        key = (settings.seed, job.stage, settings.network, student)
        classifier = Classifier(settings.network, distilled.classes, Domain(pixels.shape[-1], pixels.shape[1]), key)
        resumes.append(job.resume(history.with_name(f"{history.stem}.student-{student}")))
        looks = train_network(
            classifier,
            pixels,
            labels,
            settings.protocol,
            key=key,
            device=job.device,
            resume=resumes[-1],
            validate=lambda network: accuracy(network, test_pixels, test_labels),
            what=f"{settings.method} ipc {settings.ipc} {settings.network} {student + 1}/{settings.students}",
        )
        rows += [{"student": student, "epoch": epoch, "accuracy": percent} for epoch, percent in looks]
    common = {name: getattr(settings, name) for name in ("method", "ipc", "network", "seed")}
    protocol = {"protocol": settings.protocol.name}
    write_table(history, pa.Table.from_pylist([{**common, **protocol, **row} for row in rows]), job.provenance)
    for resume in resumes:
        resume.finish()
