"""Whether what an experiment names from elsewhere are files, and of a time that outputs can be newer than."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from distillery.plan.experiment import Experiment
from distillery.storage.files import no_file

CLOCK_SKEW = 5.0
"""Seconds by which the clocks of a network file system may differ."""


def check_inputs(experiment: Experiment) -> Iterator[str]:
    """Files that are none, and files from the future: Snakemake refuses outputs that are older than their input.

    That a file is absent is said where its block is checked.
    """
    for key, path in dict.fromkeys(files_from_elsewhere(experiment)):
        if what := no_file(path):
            if what != "no such file":
                yield f"{key}: {path}: {what}; give a file"
        elif (changed := Path(path).stat().st_mtime) > time.time() + CLOCK_SKEW:
            when = datetime.fromtimestamp(changed).isoformat(" ", "seconds")
            yield f"{key}: {path}: was changed in the future, at {when}; put its time right with `touch {path}`"


def files_from_elsewhere(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """The keys and paths of all files that no job makes, folders of images left out: no job has them as an input."""
    yield from (("dataset.source", path) for path in experiment.dataset.source.files)
    for key in experiment.opened_autoencoders:
        yield from ((f"{key}.weights", path) for path in getattr(experiment, key).files_here())
    for name, generator in experiment.generators.items():
        yield from ((f"generators.{name}.weights", path) for path in generator.files_here())
    for name, reference in experiment.references.items():
        if reference.weights not in (None, "timm"):
            yield f"references.{name}.weights", str(reference.weights)
    for name, surrogate in experiment.surrogates.items():
        if surrogate.checkpoints is not None:
            yield f"surrogates.{name}.checkpoints", surrogate.checkpoints
    for name, experts in experiment.experts.items():
        yield from ((f"experts.{name}.files", path) for path in experts.files or ())
    for name, method in experiment.methods.items():
        yield from ((f"methods.{name}.images", path) for path in method.files(experiment))
