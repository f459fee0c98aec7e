"""Runs of several seeds that share their models: trained once, with the first seed, and read by all."""

from __future__ import annotations

import pytest
import yaml
from clone import PROJECT, Clone, Plan

from distillery.plan.lineage import lineage
from distillery.plan.load import load

MODELS = ("train_autoencoder", "encode_latents", "train_generator", "train_reference", "measure_autoencoder")


def seeds(clone: Clone, *, shared: bool) -> Plan:
    """The jobs of the smoke experiment with two seeds."""
    clone.change(lambda config: config.update(seeds=[3, 5], shared_models=shared))
    return clone.plan()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone.of_project(tmp_path_factory.mktemp("shared") / "clone")


def test_shared_models_are_trained_once_and_everything_else_for_each_seed(clone: Clone) -> None:
    own, shared = seeds(clone, shared=False).rules, seeds(clone, shared=True).rules
    assert all(own[rule] == 2 * shared[rule] for rule in MODELS), (own, shared)
    assert {rule: count for rule, count in own.items() if rule not in MODELS} == {
        rule: count for rule, count in shared.items() if rule not in MODELS
    }


def test_runs_that_share_models_read_those_of_the_first_seed(clone: Clone) -> None:
    plan = seeds(clone, shared=True)
    second = [job for job in plan.jobs if any("/seed-5/" in output for output in job.outputs)]
    assert second
    read = {path for job in second for path in job.inputs}
    models = [path for path in read if any(f"/{part}/" in path for part in ("autoencoder", "generators", "reference"))]
    assert models and not [path for path in models if "/seed-5/" in path]


def test_a_set_says_that_its_models_have_the_first_seed() -> None:
    config = yaml.safe_load((PROJECT / "experiments/smoke.yaml").read_text("utf-8"))
    for shared, seed in ((False, 5), (True, 3)):
        experiment = load({**config, "seeds": [3, 5], "shared_models": shared})
        stages = lineage(experiment, "seed-5/", "lgd", max(experiment.ipc))["settings"]
        of_models = {stage: settings["seed"] for stage, settings in stages.items() if stage.startswith("train_")}
        students = {stage: of_models.pop(stage) for stage in list(of_models) if stage.startswith("train_student")}
        assert set(of_models.values()) == {seed}, of_models
        assert set(students.values()) == {5}
