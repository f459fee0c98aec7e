"""Under a protocol of soft labels every network learns from the teacher: students of LGD and measured ones too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from clone import PROJECT
from edits import Config, changed, put
from tiny import CLASSES, CPU, NETWORK, SIDE, World, digits, image_set_of, job, stopped_at
from wildcards import Job

from distillery.data.reading import ImageTable
from distillery.guidance.increment import Candidates
from distillery.guidance.pilot import student_accuracy
from distillery.plan.estimate import estimates
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.settings import canonical
from distillery.stages import calibrate_guidance, measure_redundancy, train_student
from distillery.storage.images import ImageSet, write_images
from distillery.storage.tables import read_table
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.soft_labels import Teacher
from distillery.students.training import accuracy, train_networks

SOFT = Recipe(epochs=12, batch_size=8, learning_rate=4e-3, labels="soft", teacher="real", temperature=1.0)


def wrongly_labelled() -> ImageSet:
    """Ten images of each class with the label of the next one: a network of hard labels would learn that."""
    pixels, labels = digits()
    slots = torch.arange(40) // 4
    rows = torch.stack([(labels == label).nonzero()[:10, 0] for label in range(4)], 1).flatten()
    return image_set_of(pixels[rows], (labels[rows] + 1) % 4, slot=slots.numpy())


def test_redundancy_is_measured_with_the_labels_of_the_teacher(world: World, tmp_path: Path) -> None:
    write_images(tmp_path / "set.parquet", wrongly_labelled(), {})

    def diagonal(recipe: Recipe, teacher: Path | None) -> list[float]:
        settings = measure_redundancy.Settings(
            seed=0, method="m", ipc=10, increment_size=5, cut="slots", network=NETWORK, recipe=recipe, students=1
        )
        out = tmp_path / f"{recipe.labels}.parquet"
        inputs = [tmp_path / "set.parquet", *filter(None, [teacher])]
        run = job("measure_redundancy", settings, inputs)
        measure_redundancy.run(settings, images=inputs[0], teacher=teacher, matrix=out, job=run)
        rows = read_table(out, "measure_redundancy").to_pylist()
        return [row["accuracy"] for row in rows if row["trained_on"] == row["tested_on"]]

    hard = SOFT.model_copy(update={"labels": "hard", "teacher": None})
    assert min(diagonal(hard, None)) > 80
    assert max(diagonal(SOFT, world.networks["reference"])) < 20
    stored = SOFT.model_copy(update={"soft_labels": "stored"})
    assert max(diagonal(stored, world.networks["reference"])) < 20


def test_redundancy_is_measured_with_the_soft_labels_of_the_set(tmp_path: Path) -> None:
    """The soft labels say little of the class, and networks are asked for the class of the largest."""
    pixels, labels = digits()
    slots = torch.arange(40) // 4
    rows = torch.stack([(labels == label).nonzero()[:10, 0] for label in range(4)], 1).flatten()
    recipe = SOFT.model_copy(update={"labels": "set", "teacher": None})

    def diagonal(certainty: float) -> float:
        soft = (certainty * torch.eye(4)[labels[rows]] + (1 - certainty) * torch.eye(4)[(labels[rows] + 1) % 4]).numpy()
        path = tmp_path / f"{certainty}.parquet"
        write_images(path, image_set_of(pixels[rows], labels[rows], slot=slots.numpy(), soft_label=soft), {})
        settings = measure_redundancy.Settings(
            seed=0, method="m", ipc=10, increment_size=5, cut="slots", network=NETWORK, recipe=recipe, students=1
        )
        run = job("measure_redundancy", settings, [path])
        measure_redundancy.run(settings, images=path, matrix=tmp_path / "matrix.parquet", job=run)
        rows_of = read_table(tmp_path / "matrix.parquet", "measure_redundancy").to_pylist()
        return float(min(row["accuracy"] for row in rows_of if row["trained_on"] == row["tested_on"]))

    assert diagonal(1.0) > 80
    assert diagonal(0.51) < 80


def test_the_rule_gives_the_teacher_to_the_stage() -> None:
    config = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    wildcards = Job(run="", method=next(iter(config["methods"])))
    assert Inputs(load(config)).redundancy_teacher(wildcards) == []
    teacher = next(iter(config["references"]))
    for answers in ("online", "stored"):
        soft = {"preset": "small", "labels": "soft", "teacher": teacher, "soft_labels": answers}
        config["evaluation"]["protocol"] = [soft, "small"]
        assert Inputs(load(config)).redundancy_teacher(wildcards) == [f"<results>/reference/{teacher}.safetensors"]


def trained_student(world: World, folder: Path, recipe: Recipe, teacher: Path | None) -> Classifier:
    """A student of the set in the folder, saved there."""
    settings = train_student.Settings(seed=0, increment=1, network=NETWORK, start="fresh", recipe=recipe)
    out, images = folder / "student.safetensors", folder / "increment.parquet"
    run = job("train_student", settings, [images, *filter(None, [teacher])])
    history = folder / "history.parquet"
    train_student.run(settings, images=[images], teacher=teacher, model=out, history=history, job=run)
    return Classifier.load(out, "train_student")


@pytest.mark.parametrize("answers", ["online", "stored"])
def test_a_student_of_lgd_learns_the_labels_of_the_teacher(answers: str, world: World, tmp_path: Path) -> None:
    write_images(tmp_path / "increment.parquet", wrongly_labelled(), {})
    recipe = SOFT.model_copy(update={"soft_labels": answers})
    assert accuracy(trained_student(world, tmp_path, recipe, world.networks["reference"]), *digits()) > 80
    hard = SOFT.model_copy(update={"labels": "hard", "teacher": None})
    assert accuracy(trained_student(world, tmp_path, hard, None), *digits()) < 20


def test_a_student_with_a_teacher_that_was_stopped_and_resumed_has_the_same_bytes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "increment.parquet", wrongly_labelled(), {})
    recipe = SOFT.model_copy(update={"cutmix": 0.5, "shift": 1})
    teacher, out = world.networks["reference"], tmp_path / "student.safetensors"
    trained_student(world, tmp_path, recipe, teacher)
    whole = out.read_bytes()
    out.unlink()
    with stopped_at(5, monkeypatch), pytest.raises(SystemExit):
        trained_student(world, tmp_path, recipe, teacher)
    assert not out.exists()
    trained_student(world, tmp_path, recipe, teacher)
    assert out.read_bytes() == whole


def test_students_of_a_pilot_learn_the_labels_of_the_teacher(world: World) -> None:
    """The images of the pilot have wrong labels too."""
    wrong, table = wrongly_labelled(), ImageTable(world.data)
    pixels, labels = torch.from_numpy(wrong.pixels()), torch.from_numpy(wrong.labels)
    drawn = Candidates(**dict.fromkeys(Candidates.__dataclass_fields__))
    drawn.pixels, drawn.labels, drawn.chosen = pixels, labels, torch.ones(len(labels), dtype=torch.bool)

    def reached(recipe: Recipe, taught: bool) -> float:
        answers = Teacher(world.reference, CLASSES, Domain.of(pixels, recipe), CPU).online() if taught else None
        return student_accuracy(NETWORK, wrong, table, recipe, 1, ("pilot",), CPU, answers)(drawn)[0]

    assert reached(SOFT, True) > 0.8
    assert reached(SOFT.model_copy(update={"labels": "hard", "teacher": None}), False) < 0.2


PROTOCOL = {"preset": "small", "epochs": 10, "labels": "soft", "teacher": "teacher"}


def test_the_jobs_of_students_read_their_teacher_and_sets_say_so() -> None:
    """Nothing changes for a student of hard labels, also under an evaluation with a teacher."""
    teacher, k = {"network": "convnet1_w8", "training": {"epochs": 2}}, Job(method="lgd", k=1)

    def experiment(protocol: object, aim: str = "overlap") -> Experiment:
        def edit(config: Config) -> None:
            for key, value in (
                ("references.teacher", teacher),
                ("evaluation.protocol", PROTOCOL),
                ("methods.lgd.student.protocol", protocol),
                ("methods.lgd.calibration.aim", aim),
                ("dataset.validation", {"fraction": 0.2}),
            ):
                put(key, value)(config)

        return load(changed(edit))

    path = "<results>/reference/teacher.safetensors"
    for soft in (PROTOCOL, None):  # None: that of the evaluation
        taught = experiment(soft)
        assert Inputs(taught).student_teacher(k) == [path]
        assert Inputs(taught).pilot_teacher(k) == []
        assert Inputs(experiment(soft, "accuracy")).pilot_teacher(k) == [path]
        assert calibrate_guidance.Settings.of(experiment(soft, "accuracy"), "", "lgd").student_recipe is not None
        assert train_student.Settings.of(taught, "", "lgd", "1").recipe.teacher == "teacher"
        stages = taught.lineage("", "lgd", 2)["stages"]
        assert stages.index("train_reference:teacher") < stages.index("train_student")
        assert "train_reference:teacher" not in taught.lineage("", "lgd", 1)["stages"]
    hard = experiment({"preset": "small", "epochs": 10})
    assert Inputs(hard).student_teacher(k) == Inputs(experiment("small", "accuracy")).pilot_teacher(k) == []
    assert "train_reference:teacher" not in hard.lineage("", "lgd", 2)["stages"]
    before = load(changed(lambda config: None))
    assert canonical(train_student.Settings.of(hard, "", "lgd", "1")) == canonical(
        train_student.Settings.of(before, "", "lgd", "1")
    )


def test_the_time_of_a_student_has_that_of_its_teacher() -> None:
    def operations(protocol: dict[str, object]) -> float:
        config = changed(put("methods.lgd.student.protocol", protocol))
        return max(each.operations for each in estimates(load(config)) if each.stage == "train_student")

    soft = {**PROTOCOL, "teacher": "real"}
    assert (
        operations({**soft, "soft_labels": "stored"})
        == operations(soft)
        > operations({"preset": "small", "epochs": 10})
    )


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_nothing_trains_on_labels_of_the_other_kind(labels: str) -> None:
    recipe = SOFT if labels == "soft" else SOFT.model_copy(update={"labels": "hard", "teacher": None})
    teacher = None if labels == "soft" else lambda epoch, places, images: torch.zeros(1, 8, 4)
    network = Classifier(NETWORK, CLASSES, Domain(SIDE, 1))
    pixels, labels_of = (values[:8] for values in digits())
    with pytest.raises(ValueError, match=f"the labels are {labels}, and there is"):
        train_networks([network], pixels, labels_of, recipe, keys=[("k",)], device=CPU, soft_labels=teacher)
