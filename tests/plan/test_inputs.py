"""From the wildcards of a job to its input files, in the experiments that are shipped."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import PROJECT
from edits import Edit, changed, put
from wildcards import Job

from distillery.plan import layout, targets
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.plan.picture_inputs import PictureInputs


@cache
def shipped(name: str) -> Experiment:
    """An experiment that needs no download."""
    return load(yaml.safe_load((PROJECT / name).read_text("utf-8")))


def default(**changes: Any) -> Inputs:
    """The input functions of the default experiment, with changes of top blocks."""
    return Inputs(load({**yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8")), **changes}))


def test_increment_1_has_no_student_and_each_later_one_has_all_before_it() -> None:
    inputs = default()
    first, third = Job(method="lgd", k=1), Job(method="lgd", k=3)
    assert inputs.student_before(first) == inputs.increments_before(first) == inputs.reference_after_first(first) == []
    folder = "<results>/distilled/lgd/increment-"
    assert inputs.student_before(third) == [f"{folder}2/student.safetensors"]
    assert inputs.increments_before(third) == [f"{folder}{k}/images.parquet" for k in (1, 2)]
    assert inputs.increments_up_to(third) == [f"{folder}{k}/images.parquet" for k in (1, 2, 3)]
    assert inputs.reference_after_first(third) == ["<results>/reference/real.safetensors"]


def test_several_students_are_files_beside_the_student(tmp_path: Path) -> None:
    second, pilot, folder = Job(method="lgd", k=2), Job(method="lgd"), "<results>/distilled/lgd/increment-1/"
    both = [f"{folder}student.safetensors", f"{folder}other-students.safetensors"]
    for edit in (
        put("methods.lgd.student.networks", ["convnet2_w8", "resnet_ap10_w4"]),
        put("methods.lgd.student.students", 2),
        put("methods.lgd.student.checkpoints", [0.5, 1.0]),
    ):
        inputs = smoke(edit)
        assert inputs.student_before(second) + inputs.other_students_before(second) == both
        assert inputs.first_other_students(pilot) == both[1:]
        assert inputs.other_students_before(Job(method="lgd", k=1)) == inputs.others_continued_from(second) == []
        continued = smoke(edit, put("methods.lgd.student.start", "continued"))
        assert continued.continued_from(second) + continued.others_continued_from(second) == both
        assert continued.others_continued_from(Job(method="lgd", k=1)) == []
        pictures = PictureInputs(inputs.experiment)
        assert pictures.path_student(pilot) + pictures.path_other_students(pilot) == both
    alone = smoke()
    assert alone.other_students_before(second) == alone.first_other_students(pilot) == []
    assert PictureInputs(alone.experiment).path_other_students(pilot) == []


def smoke(*edits: Edit) -> Inputs:
    """The input functions of the smoke experiment, whose pilot chooses a strength, with these changes."""

    def edit(config: dict[str, Any]) -> None:
        for one in edits:
            one(config)

    return Inputs(load(changed(edit)))


def test_a_guided_first_increment_has_the_files_of_all_guidances_but_learnability() -> None:
    first, second = Job(method="lgd", k=1), Job(method="lgd", k=2)
    surrogate, influence = put("surrogates.conv", {"network": "convnet2_w8"}), {"surrogate": "conv"}
    edits = [surrogate, put("methods.lgd.guidance.influence", influence), put("methods.lgd.guidance.mode", {})]
    files = ["<results>/surrogates/conv/gradients.safetensors", "<results>/distilled/lgd/modes-2.safetensors"]
    plain, guided = smoke(*edits), smoke(*edits, put("methods.lgd.seed", "guided"))
    assert plain.guidance_files(first) == []
    assert guided.guidance_files(first) == guided.guidance_files(second) == plain.guidance_files(second) == files
    assert guided.seed_images(first) == guided.student_before(first) == guided.calibrated(first) == []


def test_a_seed_that_is_sampled_is_read_with_its_latents_and_a_real_one_without() -> None:
    first, second = Job(method="lgd", k=1), Job(method="lgd", k=2)
    size = smoke().experiment.loop("lgd").increment_size
    mgd3 = smoke(
        put("methods.mgd3", {"kind": "mgd3", "generator": "dit", "shards": 2}), put("methods.lgd.seed", "mgd3")
    )
    folder = "<results>/distilled/mgd3/"
    assert mgd3.seed_parts(first) == [f"{folder}sampled-{size}-{shard}.parquet" for shard in range(2)]
    assert mgd3.seed_images(first) == [f"{folder}ipc{size}.parquet"]
    assert mgd3.seed_parts(second) == []
    real = smoke(put("methods.random", {"kind": "random"}), put("methods.lgd.seed", "random"))
    assert real.seed_parts(first) == smoke().seed_parts(first) == []


def test_an_increment_after_the_first_reads_what_a_pilot_chose() -> None:
    second, chosen = Job(method="lgd", k=2), ["<results>/distilled/lgd/guidance.json"]
    assert smoke().calibrated(second) == chosen
    by_hand = put("methods.lgd.guidance.learnability", {"strength": 1, "reference_weight": 2})
    assert smoke(by_hand).calibrated(second) == []
    modes = put("methods.lgd.guidance.mode", {})
    stops = put("methods.lgd.calibration", {"images": 3, "budget": 4, "mode_stops": [1, 3]})
    assert smoke(by_hand, modes, stops).calibrated(second) == chosen


def test_a_pilot_reads_validation_images_where_its_aim_is_accuracy() -> None:
    pilot, validation = Job(method="lgd"), put("dataset.validation", {"fraction": 0.2})
    aim = put("methods.lgd.calibration.aim", "accuracy")
    assert smoke(validation).pilot_validation(pilot) == []
    assert smoke(validation, aim).pilot_validation(pilot) == [layout.VALIDATION]


def test_files_of_another_seed_lie_below_its_folder() -> None:
    inputs = default(seeds=[0, 3])
    assert inputs.student_before(Job(run="seed-3/", method="lgd", k=2)) == [
        "<results>/seed-3/distilled/lgd/increment-1/student.safetensors"
    ]
    assert inputs.all_reconstructions(Job()) == [
        "<results>/analysis/autoencoder.parquet",
        "<results>/seed-3/analysis/autoencoder.parquet",
    ]


def test_an_opened_generator_is_the_same_for_every_seed() -> None:
    inputs = Inputs(shipped("experiments/smoke-matching.yaml"))
    trained = inputs.generator(Job(run="seed-1/", method="ld3m"))
    assert trained[0] == "<results>/seed-1/generators/dit/model_index.json"


@pytest.mark.parametrize(
    ("method", "part"),
    [("dit", "sampled-{ipc}-0"), ("random", "selected-{ipc}"), ("lgd", "increment-1/images")],
)
def test_a_set_is_collected_from_the_parts_of_its_kind(method: str, part: str) -> None:
    inputs = default()
    ipc = min(inputs.experiment.ipc)
    files = inputs.parts(Job(method=method, ipc=ipc))
    assert files[0] == f"<results>/distilled/{method}/{part.format(ipc=ipc)}.parquet"


def test_a_nested_set_is_collected_from_the_smaller_ones() -> None:
    inputs = default(ipc=[2, 10])
    files = inputs.parts(Job(method="dit", ipc=10))
    assert files == [f"<results>/distilled/dit/sampled-{ipc}-0.parquet" for ipc in (2, 10)]


def test_validation_images_are_an_input_where_the_data_set_has_some() -> None:
    inputs = default()
    assert inputs.validation(Job()) == targets.validation_images(inputs.experiment) == []
    dataset = inputs.experiment.dataset.model_dump(mode="json", exclude_none=True)
    assert default(dataset={**dataset, "validation": {}}).validation(Job()) == [layout.VALIDATION]


def test_networks_are_tested_on_the_images_of_the_split() -> None:
    inputs = default()
    assert inputs.tested_images == layout.TEST
    blocks = inputs.experiment.model_dump(mode="json", exclude_none=True)
    searching = {"dataset": {**blocks["dataset"], "validation": {}}}
    searching["evaluation"] = {**blocks["evaluation"], "split": "validation"}
    assert default(**searching).tested_images == layout.VALIDATION


def test_all_real_images_are_evaluated_from_the_training_table() -> None:
    assert default().evaluated_images(Job(method="full", ipc="full")) == layout.TRAIN


def test_targets_are_what_the_experiment_asks_for() -> None:
    experiment = default().experiment
    tables = {path.rpartition("/")[2] for path in targets.tables(experiment)}
    assert {"accuracy.csv", "statistics.csv", "increments.csv", "redundancy.csv"} <= tables
    assert "published.csv" not in tables and "front.csv" not in tables
    assert "<results>/figures/increments-lgd.png" in targets.figures(experiment)
    assert all("/full/" not in path for path in targets.distilled_sets(experiment))


def test_only_a_run_that_makes_the_page_notes_its_rules(tmp_path: Path) -> None:
    targets.note_rules({"ingest": {"jobs": 1, "from": []}}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    rules = {"write_report": {"jobs": 1, "from": []}}
    targets.note_rules(rules, tmp_path)
    noted = tmp_path / layout.RULES.removeprefix(layout.RESULTS)
    assert json.loads(noted.read_text("utf-8")) == rules
    (tmp_path / "file").write_text("", "utf-8")
    targets.note_rules(rules, tmp_path / "file")  # no folder can be made there: the run goes on
