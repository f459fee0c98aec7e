"""Which files pictures are made of, and what a method's sets have cost: its own jobs, and those it shares."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from clone import PROJECT, SMOKE
from wildcards import Job

from distillery.errors import ExperimentError
from distillery.plan import layout, targets
from distillery.plan.experiment import Experiment
from distillery.plan.load import load
from distillery.plan.picture_inputs import PictureInputs


def smoke(**blocks: Any) -> Experiment:
    """The smoke experiment with other blocks."""
    config = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))
    config["methods"] |= blocks.pop("methods", {})
    return load(config | blocks)


def figures(experiment: Experiment) -> set[str]:
    """The names of the figures of the experiment."""
    return {path.removeprefix("<results>/").removesuffix(".png") for path in targets.figures(experiment)}


def test_every_method_but_full_has_a_contact_sheet_and_one_may_leave_them_out() -> None:
    names = {"figures/images-lgd", "figures/images-dit", "figures/images-random"}
    assert names <= figures(smoke()) and "figures/images-full" not in figures(smoke())
    without = figures(smoke(analysis={"pictures": {"contact_sheets": False, "cost": False}}))
    assert not any("images-" in name or "cost" in name for name in without)


def test_the_figure_of_costs_lies_among_the_costs() -> None:
    assert "cost/accuracy" in figures(smoke())
    assert layout.COST_TABLE.startswith("<results>/cost/")


def test_the_path_of_an_lgd_image_needs_what_its_last_increment_needed() -> None:
    experiment = smoke(ipc=[1, 3], analysis={"path": {"methods": ["lgd"]}})
    pictures, lgd = PictureInputs(experiment), Job(method="lgd")
    assert experiment.first_slot_of_last_part("lgd") == 2
    assert pictures.path_student(lgd) == ["<results>/distilled/lgd/increment-2/student.safetensors"]
    assert [path.split("/")[-2] for path in pictures.path_previous(lgd)] == ["increment-1", "increment-2"]
    assert pictures.path_calibrated(lgd) == ["<results>/distilled/lgd/guidance.json"]
    assert pictures.path_reference(lgd) == ["<results>/reference/real.safetensors"]
    assert experiment.path_classes == ["0", "1", "7"]


def test_the_path_of_a_sampled_image_needs_all_shards_of_the_smaller_sizes() -> None:
    guidance = {"influence": None, "deviation": {"strength": 1.0}}
    igd = {"kind": "igd", "generator": "dit", "guidance": guidance, "shards": 2}
    experiment = smoke(methods={"igd": igd}, analysis={"path": {"methods": ["igd"]}})
    pictures, job = PictureInputs(experiment), Job(method="igd")
    assert experiment.first_slot_of_last_part("igd") == 1
    assert pictures.path_previous(job) == [f"<results>/distilled/igd/sampled-1-{shard}.parquet" for shard in (0, 1)]
    assert pictures.path_student(job) == pictures.path_reference(job) == pictures.path_calibrated(job) == []


def test_sets_of_a_stated_size_are_cut_or_compared() -> None:
    analysis = {"neighbours": {"features": "real", "ipc": 1}, "redundancy": {"methods": ["full"], "increment_size": 1}}
    experiment = smoke(analysis=analysis)
    pictures = PictureInputs(experiment)
    assert pictures.neighbours_images(Job(method="dit")) == "<results>/distilled/dit/ipc1.parquet"
    assert pictures.largest_set(Job(method="dit")) == "<results>/distilled/dit/ipc2.parquet"
    assert pictures.redundancy_images(Job(method="full")) == layout.TRAIN
    assert pictures.redundancy_images(Job(method="dit")) == "<results>/distilled/dit/ipc2.parquet"


def test_sets_are_cut_by_slot_where_slots_are_increments_or_independent_draws() -> None:
    igd = {"kind": "igd", "generator": "dit", "guidance": {"influence": None}}
    experiment = smoke(methods={"igd": igd, "herd": {"kind": "herding", "features": "real"}})
    cuts = {name: experiment.cut(name) for name in experiment.methods}
    assert cuts == {
        **{"lgd": "slots", "dit": "slots", "random": "slots"},
        **{"igd": "random", "herd": "random", "full": "real"},
    }


def test_a_method_shares_the_jobs_behind_its_generator_and_its_networks() -> None:
    methods = {
        "seeded": {"kind": "lgd", "generator": "dit", "reference": "real", "increment_size": 1, "seed": "dit"},
        "herd": {"kind": "herding", "features": "real"},
    }
    methods["seeded"]["guidance"] = {"learnability": {"strength": 1.0}}
    experiment = smoke(methods=methods)
    generator = ["encode_latents-0", "train_autoencoder", "train_generator-dit"]
    assert experiment.shared_jobs("dit") == generator
    assert experiment.shared_jobs("seeded") == sorted([*generator, "dit/", "train_reference-real"])
    assert experiment.shared_jobs("herd") == ["extract_features-real", "train_reference-real"]
    assert experiment.shared_jobs("random") == []


def test_a_path_beside_a_source_that_is_missing_is_refused_for_the_source_alone() -> None:
    dataset = {"source": {"kind": "folder", "train": "nowhere", "test": "nowhere"}, "resolution": 16}
    with pytest.raises(ExperimentError, match="nowhere"):
        smoke(dataset=dataset, analysis={"path": {"methods": ["lgd"], "classes": ["cat"]}})
