"""From an experiment file to an `Experiment`, or one error with every fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillery.errors import ExperimentError
from distillery.plan.checks import check_experiment
from distillery.plan.experiment import Experiment
from distillery.plan.files import read_file
from distillery.plan.messages import described, instead, one_line
from distillery.plan.size import check_size


def load(config: Mapping[str, Any]) -> Experiment:
    """Read an experiment file that YAML has parsed.

    Raises:
        ExperimentError: one line per fault, each with the path of the key and what is allowed.
    """
    experiment = unchecked(config)
    if faults := list(check_size(experiment)) or list(check_experiment(experiment)):
        raise ExperimentError("\n".join(map(one_line, faults)))
    return experiment


def unchecked(config: Mapping[str, Any]) -> Experiment:
    """The experiment of a file, without the checks that read its data and weights: nothing of it can be run.

    Raises:
        ExperimentError: one line per key that is unknown or has a wrong value.
    """
    config = _with_variant(config)
    try:
        return Experiment.model_validate(_with_yardsticks(config))
    except ValidationError as error:
        raise ExperimentError("\n".join(map(one_line, described(error.errors(), config, Experiment)))) from None


def load_files(paths: Sequence[Path], config: Mapping[str, Any]) -> Experiment:
    """Read the experiment of a run: what Snakemake made of its files, each of which is read here too.

    Raises:
        ExperimentError: as `load`; the message names the file.
    """
    for path in paths:
        read_file(path)
    try:
        return load(config)
    except ExperimentError as error:
        raise ExperimentError(f"{', '.join(map(str, paths)) or 'the experiment'} is wrong:\n{error}") from None


def _with_variant(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The experiment that the chosen variant makes of the file; faults of type are left to the check that follows.

    Raises:
        ExperimentError: no variant of that name.
    """
    variants, variant = config.get("variants", {}), config.get("variant")
    if not isinstance(variants, Mapping) or not isinstance(variant, str):
        return config
    if variant not in variants:
        raise ExperimentError(f"variant: no variant {variant!r}{instead(variant, list(variants) or ['none'])}")
    if not isinstance(variants[variant], Mapping):
        return config
    return _merged({key: config[key] for key in config if key not in ("variants", "variant")}, variants[variant])


def _merged(block: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A block with a change merged deep into it, as Snakemake merges one configuration file into another."""
    deeper = {
        key: _merged(block[key], value)
        for key, value in change.items()
        if isinstance(value, Mapping) and isinstance(block.get(key), Mapping)
    }
    return {**block, **change, **deeper}


def _with_yardsticks(config: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment with the rows that every table has: random real images of equal number, and all of them."""
    methods, evaluation = config.get("methods"), config.get("evaluation")
    if not isinstance(methods, Mapping) or not methods or not isinstance(evaluation, Mapping):
        return dict(config)
    kinds = [method.get("kind") for method in methods.values() if isinstance(method, Mapping)]
    wanted = ["random", *(["full"] if evaluation.get("full_data", True) is True else [])]
    added = {kind if kind not in methods else f"{kind}-real": {"kind": kind} for kind in wanted if kind not in kinds}
    return {**config, "methods": {**methods, **added}}
