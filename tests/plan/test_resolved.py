"""The resolved experiment is an experiment: it loads, and asks for the same jobs."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import PROJECT

from distillery.__main__ import main, stage_names
from distillery.plan.experiment import Experiment
from distillery.plan.files import read_file
from distillery.plan.load import load
from distillery.plan.rules import stage_module
from distillery.plan.targets import figures, tables
from distillery.settings import canonical

FILES = [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("digits-*.yaml"))]
FILES += sorted((PROJECT / "experiments").glob("smoke*.yaml"))


def jobs(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """The settings of every stage, for all values of its wildcards that make sense."""
    evaluation = experiment.evaluation
    values: dict[str, list[Any]] = {
        "run": experiment.runs[:1],
        "method": list(experiment.methods),
        "ipc": [str(experiment.ipc[0]), "full"],
        "k": ["1", "2"],
        "shard": ["0"],
        "network": evaluation.networks[:1],
        "protocol": [protocol.label for protocol in evaluation.protocols],
        "generator": list(experiment.generators),
        "reference": list(experiment.references),
        "surrogate": list(experiment.surrogates),
        "experts": list(experiment.experts),
        "opened": experiment.opened_autoencoders,
        "modes": ["2"],
        **{"foreign": ["resnet18"], "side": ["32"], "need": ["trained"]},
    }
    for stage in stage_names():
        block = stage_module(stage).Settings
        names = [name for name in inspect.signature(block.of).parameters if name in values]
        for chosen in itertools.product(*(values[name] for name in names)):
            try:
                yield f"{stage} {chosen}", canonical(block.of(experiment, **dict(zip(names, chosen, strict=True))))
            except (AssertionError, KeyError, ValueError, AttributeError, TypeError, NotImplementedError):
                continue  # this stage does not run for this method


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_resolved_experiment_asks_for_the_same_jobs(path: Path, tmp_path: Path) -> None:
    experiment = load(yaml.safe_load(path.read_text("utf-8")))
    file = tmp_path / "experiment.yaml"
    settings = json.dumps({"experiment": experiment.resolved})
    assert main(["write_experiment", "--settings", settings, "--experiment", str(file)]) == 0
    again = load(read_file(file))
    assert again.resolved == experiment.resolved
    asked = dict(jobs(experiment))
    assert len({name.split()[0] for name in asked}) > 15
    assert dict(jobs(again)) == asked
    assert (tables(again), figures(again)) == (tables(experiment), figures(experiment))


def test_defaults_are_filled_in_and_indices_resolved() -> None:
    config = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    resolved = load(config).resolved
    assert resolved["methods"]["full"] == {"kind": "full"}
    assert resolved["latents"]["shards"] == 1
    assert resolved["methods"]["lgd"]["guidance"]["learnability"]["range"] == [10, 45]


def test_a_guidance_that_is_switched_off_stays_off() -> None:
    config = yaml.safe_load((PROJECT / "experiments/digits-igd.yaml").read_text("utf-8"))
    influence = config["methods"]["igd"]["guidance"]["influence"]
    alone = {**config["methods"]["igd"], "guidance": {"deviation": None, "influence": influence}}
    config["methods"]["alone"] = alone
    experiment = load(config)
    assert experiment.guidance("alone").present().keys() == {"influence"}
    assert load(experiment.resolved).guidance("alone").present().keys() == {"influence"}


def test_the_chosen_variant_is_merged_in() -> None:
    config = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    varied = {**config, "variants": {"more": {"ipc": [20]}}, "variant": "more"}
    resolved = load(varied).resolved
    assert resolved["ipc"] == [20] and "variants" not in resolved
    assert load(resolved).ipc == [20]
