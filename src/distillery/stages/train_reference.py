"""Train a reference network on all training images, or open pretrained weights as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block
from distillery.students.settings import Network, Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    name: str
    network: Network
    recipe: Recipe
    pretrained: bool
    rows: list[int] | None
    sha256: str | None = None

    @classmethod
    def of(cls, experiment: Experiment, run: str, reference: str) -> Settings:
        block = experiment.references[reference]
        return cls(
            seed=experiment.seed(run),
            name=reference,
            network=block.network,
            recipe=experiment.recipe(block.training, block.network, "full"),
            pretrained=block.weights is not None,
            rows=block.rows,
            sha256=block.sha256,
        )


def run(
    settings: Settings,
    *,
    images: Input,
    weights: Input | None = None,
    model: Output,
    by_class: Output,
    history: Output,
    job: Job,
) -> None:
    """Training images to a network with its domain and its accuracy on them, by class too.

    Pretrained weights whose outputs stand in another order than the classes are refused, with the order that fits.
    """
    from distillery.data.pixels import load_pixels
    from distillery.data.reading import ImageTable
    from distillery.diffusion.weights import file_digest
    from distillery.storage.atomic import write_bytes
    from distillery.storage.history import History, write_history
    from distillery.students.networks import Classifier, Domain
    from distillery.students.order import accuracy_by_class, better_order, compare_orders, count_answers
    from distillery.students.pretrained import open_pretrained
    from distillery.students.training import accuracy_of_table, train_network

    table = ImageTable(images)
    key = (settings.seed, job.stage, settings.name)
    domain = Domain.of(table.pixels([0]), settings.recipe)
    resume, rows, recorded = job.resume(model), list[int](), History(settings.recipe.epochs, "epoch")
    if settings.pretrained:
        if weights is not None and settings.sha256 not in (None, digest := file_digest(weights)):
            raise BadInput(
                f"references.{settings.name}.weights: {weights}: sha256 {digest}, and the experiment names "
                f"{settings.sha256}; download it again"
            )
        classifier, rows = open_pretrained(weights, settings.network, table.classes, domain, settings.rows)
    else:
        pixels, labels, classes, _ = load_pixels(images)
        classifier = Classifier(settings.network, classes, domain, key)
        train_network(
            classifier,
            pixels,
            labels,
            settings.recipe,
            key=key,
            device=job.device,
            resume=resume,
            what=job.stage,
            history=recorded,
        )
    counts = count_answers(classifier.to(job.device), table, key)
    if settings.pretrained and (order := better_order(counts)):
        raise BadInput(
            f"references.{settings.name}.weights: {weights or 'timm'}: {compare_orders(counts, order, table.classes)}. "
            f"Set references.{settings.name}.rows: {[rows[output] for output in order]}"
        )
    write_history(history, [recorded], job.provenance)
    write_bytes(by_class, accuracy_by_class(counts, table.classes))
    classifier.save(
        model,
        job.provenance,
        accuracy_on_training_images=accuracy_of_table(classifier, table),
    )
    resume.finish()
