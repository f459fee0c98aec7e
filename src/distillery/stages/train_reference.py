"""Train a reference network on all training images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Reference

if TYPE_CHECKING:
    from distillery.experiment import Experiment


class Settings(Block):
    """What the stage depends on."""

    seed: int
    name: str
    reference: Reference

    @classmethod
    def of(cls, experiment: Experiment, run: str, reference: str) -> Settings:
        """The part of an experiment that this stage reads."""
        return cls(seed=experiment.seed(run), name=reference, reference=experiment.references[reference])


def run(settings: Settings, *, images: Input, model: Output, job: Job) -> None:
    """Images to a network with its domain and its accuracy on them; the test images are not looked at."""
    from distillery.data.pixels import load_pixels
    from distillery.students.networks import Classifier, Domain
    from distillery.students.training import accuracy, train_network

    pixels, labels, classes, _ = load_pixels(images)
    key = (settings.seed, job.stage, settings.name)
    recipe = settings.reference
    domain = Domain(pixels.shape[-1], pixels.shape[1])
    classifier = Classifier(recipe.network, classes, domain, key)
    resume = job.resume(model)
    train_network(
        classifier, pixels, labels, recipe.training, key=key, device=job.device, resume=resume, what=job.stage
    )
    classifier.save(model, job.provenance, accuracy_on_training_images=accuracy(classifier, pixels, labels))
    resume.finish()
