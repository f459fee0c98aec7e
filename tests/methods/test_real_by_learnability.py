"""What real images by learnability promise of their beginning: random, or the first images of another method's set."""

from __future__ import annotations

from typing import Any

import pytest
from edits import Config, Edit, changed, faults, put
from wildcards import Job

from distillery.plan import layout
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.plan.trainings import trainings
from distillery.settings import canonical
from distillery.stages import select_by_learnability, train_student

IPC = put("ipc", [1, 6])


def hybrid(**options: Any) -> Edit:
    """Add a method of this kind whose first four images per class are those of LGD; sets have one and six."""

    def edit(config: Config) -> None:
        IPC(config)
        block = {"kind": "real_by_learnability", "reference": "real", "increment_size": 1}
        config["methods"]["hybrid"] = {**block, "seed": "lgd", "seed_increments": 4, **options}

    return edit


def smoke(*edits: Edit) -> Experiment:
    """The smoke experiment with these changes."""

    def edit(config: Config) -> None:
        for one in edits:
            one(config)

    return load(changed(edit))


REAL = {"kind": "real_by_learnability", "reference": "real", "increment_size": 1}

REFUSED: dict[str, tuple[list[Edit], str]] = {
    "a method that is not there": (
        [hybrid(seed="lgdd")],
        "methods.hybrid.seed: no method 'lgdd'; allowed: lgd, dit, random",
    ),
    "a method of this kind": (
        [hybrid(seed="other"), put("methods.other", REAL)],
        "methods.hybrid.seed: 'other' is a real_by_learnability method; allowed: a method of another kind",
    ),
    "all real images": (
        [hybrid(seed="full"), put("methods.full", {"kind": "full"})],
        "methods.hybrid.seed: 'full' has no set of 4 images per class, but of full",
    ),
    "half an increment": (
        [hybrid(seed_increments=3), put("ipc", [2, 6]), put("methods.lgd.increment_size", 2)],
        "methods.hybrid.seed: 'lgd' has no set of 3 images per class, but of multiples of 2, its increment_size",
    ),
    "no real image": (
        [hybrid(seed_increments=6)],
        "methods.hybrid.seed_increments: 6 increments of 1 images per class leave no real image in sets of 6; take "
        "fewer, or add an ipc above 6",
    ),
    "increments of nobody": (
        [hybrid(seed=None)],
        "methods.hybrid.seed_increments: 4, but there is no seed; give one, or leave it out",
    ),
    "a set that begins with its own": (
        [hybrid(), put("methods.lgd.seed", "hybrid")],
        "methods.hybrid: hybrid -> lgd -> hybrid: its sets are made of its own; name another",
    ),
}


@pytest.mark.parametrize(("edits", "line"), REFUSED.values(), ids=REFUSED)
def test_a_beginning_that_cannot_be_had_is_refused_in_one_line(edits: list[Edit], line: str) -> None:
    found = faults(*edits)
    assert len(found) == 1, found
    assert found[0].startswith(line)


def test_without_a_seed_nothing_has_changed() -> None:
    """Settings have the text that results of earlier versions were made with."""
    experiment = smoke(IPC, put("methods.hybrid", REAL))
    first, second = (select_by_learnability.Settings.of(experiment, "", "hybrid", str(k)) for k in (1, 2))
    no_scores = '"min_reference_probability":0.0,"reference_weight":0.0,"seed":0'
    assert canonical(first) == f'{{"increment":1,"increment_size":1,{no_scores}}}'
    assert canonical(second) == canonical(first).replace('"increment":1,', '"increment":2,').replace(
        '"reference_weight":0.0', '"reference_weight":0.5'
    )
    inputs, place = Inputs(experiment), Job(method="hybrid", k=2)
    assert inputs.seed_images(Job(method="hybrid", k=1)) == inputs.seed_images(place) == []
    assert inputs.student_before(place) == ["<results>/distilled/hybrid/increment-1/student.safetensors"]
    about = experiment.lineage("", "hybrid", 6)
    assert about["stages"] == ["ingest", "train_reference:real", "train_student", "select_by_learnability"]


@pytest.mark.parametrize("k", [1, 4])
def test_increments_of_the_seed_read_its_set_and_no_network(k: int) -> None:
    inputs, place = Inputs(smoke(hybrid())), Job(method="hybrid", k=k)
    assert inputs.seed_images(place) == ["<results>/distilled/lgd/ipc4.parquet"]
    assert inputs.student_before(place) == inputs.reference_after_first(place) == inputs.increments_before(place) == []


def test_later_increments_read_the_student_of_all_before_them() -> None:
    inputs, place = Inputs(smoke(hybrid())), Job(method="hybrid", k=5)
    folder = "<results>/distilled/hybrid/increment-"
    assert inputs.seed_images(place) == []
    assert inputs.student_before(place) == [f"{folder}4/student.safetensors"]
    assert inputs.increments_before(place) == [f"{folder}{k}/images.parquet" for k in (1, 2, 3, 4)]
    assert inputs.reference_after_first(place) == ["<results>/reference/real.safetensors"]
    scores = select_by_learnability.Settings.of(inputs.experiment, "", "hybrid", "5")
    assert (scores.reference_weight, scores.increment) == (0.5, 5)


def test_students_that_choose_nothing_are_not_trained() -> None:
    students = {"start": "continued"}
    experiment = smoke(hybrid(student=students))
    assert [training.name for training in trainings(experiment, "") if training.panel == "students of hybrid"] == [
        "increment 4",
        "increment 5",
    ]
    inputs = Inputs(experiment)
    assert inputs.continued_from(Job(method="hybrid", k=4)) == []  # the first one starts from nothing
    assert inputs.continued_from(Job(method="hybrid", k=5)) == [
        layout.fill(layout.STUDENT, run="", method="hybrid", k=4)
    ]
    assert train_student.Settings.of(experiment, "", "hybrid", "4").recipe.epochs == 10


def test_the_networks_beside_a_student_follow_it() -> None:
    inputs = Inputs(smoke(hybrid(student={"start": "continued", "students": 2})))
    beside = [layout.fill(layout.OTHER_STUDENTS, run="", method="hybrid", k=4)]
    found = [inputs.other_students_before(Job(method="hybrid", k=k)) for k in (1, 2, 4, 5)]
    assert found == [[], [], [], beside]
    assert [inputs.others_continued_from(Job(method="hybrid", k=k)) for k in (4, 5)] == [[], beside]


def test_a_set_says_how_its_beginning_is_made() -> None:
    experiment = smoke(hybrid())
    about = experiment.lineage("", "hybrid", 6)
    assert about["stages"][-2:] == ["train_student", "select_by_learnability"]
    assert {"generate_increment:lgd", "train_student:lgd", "train_generator:dit"} <= {*about["stages"]}
    lgd = experiment.lineage("", "lgd", 4)["settings"]
    assert about["settings"]["generate_increment:lgd"] == lgd["generate_increment"]
    assert about["settings"]["train_student"]["increment"] == 5
    small = experiment.lineage("", "hybrid", 1)["stages"]
    assert "train_student" not in small and small[-1] == "select_by_learnability"
    assert {"lgd/", "train_generator-dit", "train_reference-real"} <= {*experiment.shared_jobs("hybrid")}
