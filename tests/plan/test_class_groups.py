"""A generator that is fine-tuned in groups of classes: which files it is, and who reads which of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from edits import Config, changed, faults, put
from wildcards import Job

from distillery.plan.estimate import estimates
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.plan.trainings import trainings
from distillery.settings import canonical
from distillery.stages import finetune_generator

CLASSES = put("dataset.classes", ["0", "1", "2", "3", "4", "5"])
TUNED = {"kind": "finetune", "base": "dit", "batch_size": 4, "epochs": 2, "groups": 2}
PLAIN = {"kind": "plain", "generator": "tuned", "shards": 4}


def experiment(*edits: Callable[[Config], object], tuned: dict[str, Any] = TUNED) -> Experiment:
    def edit(config: Config) -> None:
        for one in (CLASSES, put("generators.tuned", {**tuned}), put("methods.tuned", {**PLAIN}), *edits):
            one(config)

    return load(changed(edit))


def test_each_shard_reads_the_generator_of_its_classes() -> None:
    inputs = Inputs(experiment())
    for shard in range(4):  # classes shard and shard + 4, which are of group shard % 2
        [index, *_] = inputs.generator(Job(method="tuned", ipc=2, shard=shard))
        assert index == f"<results>/generators/tuned-group-{shard % 2}/model_index.json"
        classes = range(6)[shard::4]
        assert {*classes} <= {*range(6)[shard % 2 :: 2]}
    assert inputs.generator(Job(method="dit", ipc=2, shard=0))[0] == "<results>/generators/dit/model_index.json"
    assert inputs.base(Job(generator="tuned-group-1"))[0] == "<results>/generators/dit/model_index.json"
    assert inputs.cards(Job(generator="tuned-group-1")) == 1


def test_groups_are_trainings_of_their_own_and_a_set_names_all_of_them() -> None:
    planned, groups = experiment(), ["tuned-group-0", "tuned-group-1"]
    one, other = (finetune_generator.Settings.of(planned, "", name) for name in groups)
    assert (one.group, other.group, one.generator) == (0, 1, other.generator)
    made = [training for training in trainings(planned, "") if training.panel == "generator tuned"]
    assert [(each.name, each.history) for each in made] == [
        (f"group {group}", f"<results>/generators/{name}/history.parquet") for group, name in enumerate(groups)
    ]
    stages = planned.lineage("", "tuned", 2)["stages"]
    assert [stage for stage in stages if stage.startswith("finetune")] == [
        f"finetune_generator:{name}" for name in groups
    ]
    assert {f"finetune_generator-{name}" for name in groups} <= {*planned.shared_jobs("tuned")}


def test_estimates_count_the_epochs_of_the_largest_group() -> None:
    planned = experiment()
    [estimate] = [each for each in estimates(planned) if each.stage == "finetune_generator"]
    largest = max(sum(list(planned.training_sizes.values())[group::2]) for group in (0, 1))
    assert estimate.steps == 2 * (largest // 4) == planned.generators["tuned"].steps_on(largest)  # type: ignore[union-attr]
    assert estimate.time_key == "generators.tuned.epochs"


def test_one_group_is_a_generator_as_before() -> None:
    planned = experiment(tuned={**TUNED, "groups": 1, "epochs": None, "steps": 5})
    settings = json.loads(canonical(finetune_generator.Settings.of(planned, "", "tuned")))
    assert settings.keys() == {"seed", "name", "generator"} and settings["generator"]["steps"] == 5
    assert not {"groups", "epochs", "order"} & settings["generator"].keys()
    assert Inputs(planned).generator(Job(method="tuned", ipc=2, shard=3))[0].startswith("<results>/generators/tuned/")


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (put("generators.tuned.groups", 7), "generators.tuned.groups: 7 groups of 6 classes; allowed: 1 to 6"),
        (put("methods.tuned.shards", 3), "methods.tuned.shards: 3 jobs, and each samples the classes of one group of "),
        (
            put("generators.more", {**TUNED, "base": "tuned"}),
            "generators.more.base: generators.tuned is 2 generators, ",
        ),
        (put("generators.tuned-group-1", {**TUNED, "groups": 1}), "generators.tuned-group-1: a group of "),
        (put("generators.tuned.steps", 9), "generators.tuned: steps and epochs both say how long it is trained; "),
        (put("analysis.path", {"methods": ["tuned"]}), "analysis.path.methods: "),
        (
            put(
                "methods.lgd",
                {"kind": "lgd", "generator": "tuned", "reference": "real", "shards": 2, "increment_size": 1},
            ),
            "methods.lgd.guidance.learnability: a pilot samples all classes with one generator, ",
        ),
        (
            put("methods.ld3m", {"kind": "ld3m", "generator": "tuned", "objective": "distribution"}),
            "methods.ld3m.generator: generators.tuned has groups of classes, ",
        ),
    ],
    ids=["classes", "shards", "base", "name", "length", "path", "pilot", "matching"],
)
def test_groups_that_cannot_be_are_refused_with_the_key(edit: Callable[[Config], object], line: str) -> None:
    lines = faults(CLASSES, put("generators.tuned", {**TUNED}), put("methods.tuned", {**PLAIN}), edit)
    assert any(found.startswith(line) for found in lines), lines
