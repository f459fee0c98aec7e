"""Render the snapshots of optimised images: an image set with a column that says which iteration each is of.

A step size that was learned with them is a column, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.data.channels import Known
from distillery.job import Input, Job, Output
from distillery.methods.matched import Matched, Scene
from distillery.methods.matching import AnyMatched
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    method: AnyMatched
    normalization: Known = "imagenet"

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, shard: str) -> Settings:
        matched = experiment.method_of(method, Matched)
        return cls(
            seed=experiment.seed(run),
            method=matched.model_copy(update={"stream": None, "network": None}),
            normalization=experiment.dataset.normalization,
        )


def run(
    settings: Settings,
    *,
    snapshots: Input,
    whitening: Input | None = None,
    generator: list[Input] | None = None,
    autoencoder: list[Input] | None = None,
    images: Output,
    job: Job,
) -> None:
    """Snapshots to PNG images, iteration after iteration, each in the order class, slot."""
    import numpy as np
    import torch

    from distillery.data.pixels import to_bytes
    from distillery.data.whitening import opened_whitening
    from distillery.divergence import refuse_diverged
    from distillery.matching.build import Places
    from distillery.matching.loop import snapshots_of
    from distillery.progress import Progress
    from distillery.storage.images import LEARNED_RATE, ImageSet, concatenate, encode_png, write_images
    from distillery.storage.tensors import read_tensors
    from distillery.students.networks import Domain

    tensors, about = read_tensors(snapshots, "match")
    classes, labels, slots = about["classes"], about["labels"], about["slots"]
    places = Places(
        torch.tensor(labels), torch.tensor(slots), [(label, slot) for label, slot in zip(labels, slots, strict=True)]
    )
    map_of_images = opened_whitening(whitening, job.device)
    domain = Domain.named(settings.normalization, about["size"], about["channels"], map_of_images)
    folders = (files[0].parent if files else None for files in (generator, autoencoder))
    scene = Scene(classes, domain, settings.seed, job.device, *folders)
    space = settings.method.space(None, places, (settings.seed,), scene)
    names = [f"{classes[label]}/{slot:05d}.png" for label, slot in zip(labels, slots, strict=True)]
    sets = []
    states = snapshots_of(tensors)
    with Progress(job.stage, len(states) * len(labels), "image") as progress:
        for iteration, state in states.items():
            rendered = space.rendered({name: value.to(job.device) for name, value in state.items()})
            refuse_diverged([rendered], f"the images of iteration {iteration}", f"delete {snapshots} and run again")
            pixels = to_bytes(2 * rendered - 1).cpu().numpy()
            columns = {"slot": np.array(slots), "iteration": np.full(len(labels), iteration)}
            if LEARNED_RATE in state:
                columns[LEARNED_RATE] = np.full(len(labels), float(state[LEARNED_RATE]))
            sets.append(ImageSet([encode_png(image) for image in pixels], np.array(labels), classes, names, columns))
            progress.advance(len(labels))
    write_images(images, concatenate(sets), job.provenance)
