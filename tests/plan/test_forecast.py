"""The forecast of a run: its jobs are those of the workflow, its work follows the settings, and its faults are told."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import PROJECT, Clone

from distillery.plan import forecast
from distillery.plan.forecast import BANDWIDTH, BF16_PEAK, CORE, FLOAT32_PEAK, card, here, main, table
from distillery.plan.load import load
from distillery.plan.work import SMALL_JOBS, Work, codec_counts, images_tested, work

DEFAULT = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
SMOKE = ["config.yaml", "experiments/smoke.yaml", "experiments/smoke-family.yaml", "experiments/smoke-matching.yaml"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the project."""
    return Clone.of_project(tmp_path_factory.mktemp("forecast") / "clone")


def works(config: dict[str, Any]) -> dict[str, Work]:
    """The work of an experiment by stage."""
    return {part.stage: part for part in work(load(config))}


def changed(**blocks: Any) -> dict[str, Any]:
    """The default experiment with other blocks."""
    return {**deepcopy(DEFAULT), **blocks}


@pytest.mark.parametrize("file", SMOKE)
def test_the_jobs_of_a_forecast_are_those_of_the_workflow(file: str, clone: Clone) -> None:
    counted = clone.plan(experiment=file).rules
    for stage, part in works(yaml.safe_load((PROJECT / file).read_text("utf-8"))).items():
        if stage != SMALL_JOBS:
            assert part.jobs == counted[stage], stage


def test_twice_the_steps_are_twice_the_work() -> None:
    longer = deepcopy(DEFAULT["generators"])
    longer["dit"]["steps"] *= 2
    once, twice = works(DEFAULT), works(changed(generators=longer))
    assert twice["train_generator"].operations == 2 * once["train_generator"].operations
    assert twice["train_generator"].steps == 2 * once["train_generator"].steps
    assert twice["evaluate"] == once["evaluate"]


def test_seeds_that_share_their_models_train_them_once() -> None:
    once, apart = works(changed(seeds=[0])), works(changed(seeds=[0, 1, 2]))
    shared = works(changed(seeds=[0, 1, 2], shared_models=True))
    assert apart["train_generator"].jobs == 3 and apart["train_generator"].operations == pytest.approx(
        3 * once["train_generator"].operations
    )
    assert shared["train_generator"] == once["train_generator"]
    assert shared["evaluate"] == apart["evaluate"]


def test_guidance_through_the_denoiser_costs_more_than_past_it_and_both_more_than_none() -> None:
    methods = {"lgd": deepcopy(DEFAULT["methods"]["lgd"]), "dit": DEFAULT["methods"]["dit"]}
    analysis: dict[str, Any] = {}
    through = works(changed(methods=deepcopy(methods), analysis=analysis))["generate_increment"]
    methods["lgd"]["guidance"]["learnability"]["through_denoiser"] = False
    fixed = works(changed(methods=deepcopy(methods), analysis=analysis))["generate_increment"]
    methods["lgd"]["guidance"]["learnability"] = {"strength": 0}
    plain = works(changed(methods=methods, analysis=analysis))["generate_increment"]
    assert through.operations > fixed.operations > plain.operations
    assert through.jobs == fixed.jobs == plain.jobs


def test_images_that_are_tested_are_those_of_the_source_or_the_holdout() -> None:
    assert images_tested(load(DEFAULT)) == pytest.approx(451, rel=0.02)  # a quarter of 1,797


def test_an_autoencoder_of_unknown_shape_has_no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load(DEFAULT)
    assert codec_counts(experiment).products > 0
    monkeypatch.setattr(type(experiment.autoencoder), "blocks", None)
    assert codec_counts(experiment).products == 0


def test_the_table_names_every_stage_and_the_whole() -> None:
    experiment = load(DEFAULT)
    text = table(experiment, CORE, 2)
    for part in work(experiment):
        assert f"| {part.stage} | {part.jobs} |" in text
    assert "one after another on one core of the reference" in text and "2 at once" in text


def test_more_workers_take_no_longer_and_never_less_than_the_longest_job() -> None:
    experiment = load(DEFAULT)
    assert (
        forecast.hours(experiment, CORE, 1) > forecast.hours(experiment, CORE, 2) > forecast.hours(experiment, CORE, 99)
    )
    longest = max(CORE.seconds(part) / part.jobs for part in work(experiment)) / 3600
    assert forecast.hours(experiment, CORE, 10_000) >= longest


def test_every_card_has_all_its_rates_and_is_faster_than_a_core() -> None:
    assert set(BF16_PEAK) == set(FLOAT32_PEAK) == set(BANDWIDTH)
    large = Work("train_generator", 1, 1e18, 1e13, 1e4)
    for name in BF16_PEAK:
        assert card(name).seconds(large) < CORE.seconds(large)


def test_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "probe", lambda bfloat16: 2 * forecast.PROBE_SECONDS)
    assert here(16).operations == CORE.operations / 2 and here(16).start == 2 * CORE.start


def test_the_command_prints_a_table_or_the_faults_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(PROJECT / "config.yaml"), "--gpu", "H100"])
    assert "| train_generator | 1 |" in capsys.readouterr().out
    main([str(PROJECT / "config.yaml"), "--results"])
    assert capsys.readouterr().out == "results/digits\n"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: a\nmethod: {}\n", "utf-8")
    with pytest.raises(SystemExit) as ended:
        main([str(wrong)])
    assert "method: no such key; did you mean 'methods'?" in str(ended.value)
