"""Analyses that cannot be made are refused before anything runs, with the key and the way out."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml
from clone import PROJECT, SMOKE
from wildcards import Job

from distillery.errors import ExperimentError
from distillery.plan import layout, targets
from distillery.plan.analysis_inputs import AnalysisInputs
from distillery.plan.experiment import Experiment
from distillery.plan.load import load
from distillery.stages import measure_incremental_dynamics, measure_learning_dynamics

STARTER = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))
ASKED: dict[str, Any] = {
    "incremental_dynamics": {"methods": ["dit", "lgd"], "baseline": "dit", "increment_size": 1},
    "learning_dynamics": {"methods": ["random", "lgd"], "baseline": "random"},
    "validity": {"methods": ["lgd"], "judge": "real"},
}


def asked(analysis: str, **changes: Any) -> Experiment:
    """The smoke experiment with all three analyses, and changes of one."""
    config = deepcopy(STARTER)
    config["analysis"].update(deepcopy(ASKED))
    config["analysis"][analysis].update(changes)
    return load(config)


@pytest.mark.parametrize(
    ("analysis", "changes", "fault"),
    [
        ("incremental_dynamics", {"methods": ["igd"], "baseline": None}, ".methods: no method 'igd'; methods: lgd"),
        ("incremental_dynamics", {"methods": ["full"], "baseline": None}, ".methods: 'full' is all training images"),
        ("incremental_dynamics", {"baseline": "random"}, ".baseline: 'random' is none of"),
        ("incremental_dynamics", {"increment_size": 3}, ".increment_size: 3 does not divide the largest of ipc, 2"),
        ("incremental_dynamics", {"increment_size": 2}, ".increment_size: 2, but methods.lgd grows by 1; give 1"),
        ("incremental_dynamics", {"network": "convnet9"}, ".network: "),
        ("incremental_dynamics", {"epochs": 0}, ".epochs: "),
        ("learning_dynamics", {"methods": []}, ".methods: "),
        ("learning_dynamics", {"baseline": "dit"}, ".baseline: 'dit' is none of"),
        ("learning_dynamics", {"network": "convnet9"}, ".network: "),
        ("learning_dynamics", {"thresholds": {"easy": 0.3}}, "hard: 0.35 does not lie below easy, 0.3"),
        (
            "validity",
            {"methods": ["dit"]},
            ".methods: 'dit' draws no candidates, which are of methods of kind lgd",
        ),
        ("validity", {"judge": "nobody"}, ".judge: no reference 'nobody'; references: real"),
    ],
)
def test_what_cannot_be_measured_is_refused(analysis: str, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        asked(analysis, **changes)
    lines = [line for line in str(refused.value).splitlines() if f"analysis.{analysis}" in line]
    assert [line for line in lines if fault in line]


def test_each_analysis_is_a_table_and_a_figure_and_none_is_made_unasked() -> None:
    wanted = asked("validity")
    for name in ASKED:
        assert layout.table(name)["csv"] in targets.tables(wanted)
        assert layout.figure(name)["svg"] in targets.figures(wanted)
    unasked = load(deepcopy(STARTER))
    assert not [
        path for path in [*targets.tables(unasked), *targets.figures(unasked)] for name in ASKED if name in path
    ]


def test_measurements_are_made_for_each_seed_and_method() -> None:
    config = deepcopy(STARTER)
    config["seeds"] = [0, 4]
    config["analysis"].update(ASKED)
    inputs, nothing = AnalysisInputs(load(config)), Job()
    assert inputs.incremental_dynamics(nothing) == [
        f"<results>/{run}analysis/incremental_dynamics/{method}.parquet"
        for run in ("", "seed-4/")
        for method in ("dit", "lgd")
    ]
    assert inputs.learning_images(Job(run="seed-4/")) == [
        f"<results>/seed-4/distilled/{method}/ipc2.parquet" for method in ("random", "lgd")
    ]
    assert inputs.candidates(Job(run="", method="lgd")) == [
        f"<results>/distilled/lgd/increment-{k}/candidates-{shard}.parquet" for k in (1, 2) for shard in (0, 1)
    ]


def test_the_epochs_of_the_analysis_replace_those_of_the_protocol() -> None:
    experiment = asked("incremental_dynamics", epochs=7)
    increments = measure_incremental_dynamics.Settings.of(experiment, "", "lgd")
    assert [recipe.epochs for recipe in increments.recipes] == [7, 7]
    assert increments.increments
    experiment = asked("learning_dynamics", epochs=9, train_on="own")
    learning = measure_learning_dynamics.Settings.of(experiment, "")
    assert learning.recipe.epochs == 9
    assert learning.own_recipe is not None and learning.own_recipe.epochs == 9
