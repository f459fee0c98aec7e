"""What a choice among sets promises: the best by validation images is kept, and what has no set is refused."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edits import Config, Edit, changed, faults, put
from tiny import CLASSES, MADE_BY, NETWORK, SIDE, digits, image_set_of, job, stopped_at
from wildcards import Job as Wildcards

from distillery.errors import BadInput
from distillery.plan.estimate import estimates
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.plan.rules import checked
from distillery.report.costs import MAKING
from distillery.stages import choose_set
from distillery.storage.images import ImageSet, read_images, write_images
from distillery.storage.tables import read_table
from distillery.students import set_accuracy
from distillery.students.settings import Recipe

COUNT = 4
VALIDATION = put("dataset.validation", {"fraction": 0.2})


def best(methods: Sequence[str] = ("dit", "random"), **options: Any) -> Edit:
    """Add a method of this kind, and validation images."""

    def edit(config: Config) -> None:
        VALIDATION(config)
        config["methods"]["best"] = {"kind": "best_of", "methods": [*methods], **options}

    return edit


def smoke(*edits: Edit) -> Experiment:
    """The smoke experiment with these changes."""

    def edit(config: Config) -> None:
        for one in edits:
            one(config)

    return load(changed(edit))


# ---- what is refused -------------------------------------------------------------------------------------------------


OTHER = put("methods.other", {"kind": "best_of", "methods": ["dit", "random"]})
SOFT = {"preset": "small", "labels": "soft", "teacher": "real"}

REFUSED: dict[str, tuple[list[Edit], str]] = {
    "a method that is not there": (
        [best(["dit", "dti"])],
        "methods.best.methods: no method 'dti'; allowed: lgd, dit, random",
    ),
    "itself": ([best(["dit", "best"])], "methods.best.methods: 'best' is this method itself; allowed: lgd, dit"),
    "a choice": (
        [best(["dit", "other"]), OTHER],
        "methods.best.methods: 'other' is a choice among sets itself; name the methods that it names",
    ),
    "all real images": (
        [best(["dit", "full"]), put("methods.full", {"kind": "full"})],
        "methods.best.methods: 'full' has no set of 1 images per class, but of full",
    ),
    "a method twice": ([best(["dit", "dit"])], "methods.best.methods: 'dit' stands there more than once"),
    "one method": ([best(["dit"])], "methods.best.methods: list should have at least 2 items"),
    "no validation images": (
        [best(), put("dataset.validation", None)],
        "methods.best: the best set is chosen on validation images, which the data set lacks; give dataset.validation",
    ),
    "soft labels": (
        [best(protocol=SOFT)],
        "methods.best.protocol: the student learns from hard labels, and small+labels=soft+teacher=real has soft ones",
    ),
    "a deep network": ([best(network="convnet5")], "methods.best.network: convnet5 halves the image 5 times"),
    "sets of its own": (
        [best(["lgd", "dit"]), put("methods.lgd.seed", "best")],
        "methods.best: best -> lgd -> best: its sets are made of its own; name another",
    ),
}


@pytest.mark.parametrize(("edits", "line"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(edits: list[Edit], line: str) -> None:
    found = faults(*edits)
    assert len(found) == 1, found
    assert found[0].startswith(line) and "full," not in found[0]


def test_a_set_that_begins_with_the_best_asks_for_a_size_of_each() -> None:
    hybrid = {"kind": "real_by_learnability", "reference": "real", "increment_size": 1, "seed": "best"}
    beginning = [best(["lgd", "dit"]), put("methods.hybrid", hybrid)]
    assert smoke(*beginning).methods["hybrid"].uses_sets_of == ["best"]
    assert faults(*beginning, put("ipc", [2, 4]), put("methods.lgd.increment_size", 2)) == [
        "methods.hybrid.seed: 'best' chooses among sets of 'lgd', which has no set of 1 images per class, but of "
        "multiples of 2, its increment_size"
    ]


# ---- what is planned -------------------------------------------------------------------------------------------------


def test_the_choice_reads_the_sets_of_its_methods_and_validation_images() -> None:
    inputs, place = Inputs(smoke(best(["lgd", "random"]))), Wildcards(method="best", ipc=2)
    assert inputs.compared_sets(place) == [f"<results>/distilled/{name}/ipc2.parquet" for name in ("lgd", "random")]
    assert inputs.parts(place) == ["<results>/distilled/best/chosen-2.parquet"]
    files = {name for name in signature(choose_set.run).parameters if name not in ("settings", "job")}
    assert files == {"sets", "validation", "images", "choice"}  # and no test images
    assert not inputs.experiment.methods["best"].nested


def test_network_and_protocol_are_those_of_the_evaluation_unless_it_has_its_own() -> None:
    plain = choose_set.Settings.of(smoke(best()), "", "best", "2")
    experiment = smoke(best())
    first = experiment.evaluation.networks[0]
    recipe = experiment.recipe(experiment.evaluation.protocols[0], first, 2)
    assert (plain.network, plain.recipe) == (first, recipe.model_copy(update={"evaluations": 1}))
    assert (plain.candidates, plain.students) == (["dit", "random"], 2)
    protocol = {"preset": "small", "epochs": 7}
    own = choose_set.Settings.of(smoke(best(network="convnet1_w8", protocol=protocol, students=3)), "", "best", "2")
    assert (own.network, own.recipe.epochs, own.recipe.evaluations, own.students) == ("convnet1_w8", 7, 1, 3)


def test_a_network_of_timm_is_checked_first() -> None:
    experiment = smoke(best(network="resnet10t", protocol={"preset": "small", "size": 32, "learning_rate": 0.01}))
    (path,) = checked(experiment, "choose_set")(Wildcards(method="best", ipc=2))
    assert Path(path).stem == "resnet10t-32-trained"


def test_a_set_says_how_each_of_the_compared_sets_is_made() -> None:
    igd = put("methods.igd", {"kind": "igd", "generator": "dit", "guidance": {"influence": None}})
    experiment = smoke(best(["igd", "dit", "lgd"]), igd)
    about = experiment.lineage("", "best", 2)
    assert {"sample:igd", "sample:dit", "generate_increment:lgd", "train_generator:dit"} <= {*about["stages"]}
    assert about["stages"][0] == "ingest" and about["stages"][-1] == "choose_set"
    for name in ("igd", "dit"):
        assert about["settings"][f"sample:{name}"] == experiment.lineage("", name, 2)["settings"]["sample"]
    assert about["settings"]["choose_set"]["candidates"] == ["igd", "dit", "lgd"]
    assert (about["kind"], about["nested"]) == ("best_of", False)


def test_it_bears_the_cost_of_all_compared_sets() -> None:
    experiment = smoke(best(["lgd", "random"]))
    assert {"lgd/", "random/", *experiment.shared_jobs("lgd")} == {*experiment.shared_jobs("best")}
    assert experiment.methods["best"].stage in MAKING


def test_its_networks_are_in_the_estimate() -> None:
    def operations(**options: Any) -> float:
        found = {estimate.stage: estimate for estimate in estimates(smoke(best(**options)))}
        return found["choose_set"].operations

    assert operations(students=3) == 3 * operations(students=1) > 0
    assert operations(methods=["dit", "random", "lgd"]) * 2 == operations(methods=["dit", "random"]) * 3


# ---- the stage -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a set of digits, a set of noise, the set of digits in another order, and validation images."""
    folder = tmp_path_factory.mktemp("sets")
    pixels, labels = digits()
    rows = torch.cat([(labels == label).nonzero()[:COUNT, 0] for label in range(len(CLASSES))])
    columns: dict[str, Any] = {"slot": np.tile(np.arange(COUNT), len(CLASSES)), "increment": np.ones(len(rows), int)}
    noise = torch.randint(
        0, 256, (len(rows), 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    write_images(folder / "digits.parquet", image_set_of(pixels[rows], labels[rows], **columns), MADE_BY)
    write_images(folder / "noise.parquet", image_set_of(noise, labels[rows], **columns), MADE_BY)
    later = torch.cat([(labels == label).nonzero()[20:40, 0] for label in range(len(CLASSES))])
    write_images(folder / "validation.parquet", image_set_of(pixels[later], labels[later]), MADE_BY)
    return folder


def chosen(sets: Path, out: Path, names: Sequence[str]) -> tuple[ImageSet, list[dict[str, Any]]]:
    """The set that is chosen among those of these files, and the table."""
    settings = choose_set.Settings(
        seed=0,
        method="best",
        candidates=[f"{name}-{place}" for place, name in enumerate(names)],
        ipc=COUNT,
        network=NETWORK,
        recipe=Recipe(epochs=15, batch_size=8, learning_rate=5e-3, evaluations=1),
        students=2,
    )
    images, choice = out / "images.parquet", out / "choice.parquet"
    files = [sets / f"{name}.parquet" for name in names]
    run = job("choose_set", settings)
    choose_set.run(settings, sets=files, validation=sets / "validation.parquet", images=images, choice=choice, job=run)
    return read_images(images, "choose_set"), read_table(choice, "choose_set").to_pylist()


@pytest.mark.parametrize("names", [("digits", "noise"), ("noise", "digits")])
def test_the_set_that_networks_learn_most_from_is_kept_as_it_is(
    names: tuple[str, str], sets: Path, tmp_path: Path
) -> None:
    kept, rows = chosen(sets, tmp_path, names)
    digits_set = read_images(sets / "digits.parquet", "test")
    assert [*kept.images] == [*digits_set.images] and kept.paths == digits_set.paths
    assert kept.columns.keys() == digits_set.columns.keys()
    assert kept.columns["slot"].tolist() == digits_set.columns["slot"].tolist()
    of_digits = f"digits-{names.index('digits')}"
    assert [(row["candidate"], row["student"], row["kept"]) for row in rows] == [
        (name, student, name == of_digits)
        for name in (f"{name}-{i}" for i, name in enumerate(names))
        for student in (0, 1)
    ]
    accuracies: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        accuracies[row["kept"]].append(row["accuracy"])
        assert (row["method"], row["ipc"], row["n"], row["validation_images"]) == ("best", COUNT, 2, 80)
    assert min(accuracies[True]) > max(accuracies[False])


@pytest.mark.parametrize(
    ("measured", "kept"),
    [
        ([[90.0, 10.0], [60.0, 50.0], [50.0, 50.0]], 1),  # the mean counts, not the best network
        ([[40.0, 60.0], [50.0, 50.0], [60.0, 40.0]], 0),
        ([[10.0, 10.0], [50.0, 50.0], [60.0, 40.0]], 1),
        ([[float("nan"), 60.0], [30.0, 31.0], [20.0, 20.0]], 1),  # a network that has diverged has learned nothing
    ],
    ids=["mean", "tie of all", "tie of the last", "diverged"],
)
def test_the_highest_mean_is_kept_and_of_equal_ones_the_first(
    measured: list[list[float]], kept: int, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(measured)
    monkeypatch.setattr(set_accuracy, "set_accuracies", lambda *_, **__: next(answers))
    _, rows = chosen(sets, tmp_path, ["digits", "noise", "digits"])
    assert [row["kept"] for row in rows] == [place == kept for place in range(3) for _ in range(2)]


def test_equal_sets_have_equal_networks(sets: Path, tmp_path: Path) -> None:
    """A candidate's place and name change nothing, so that the first of equal sets is kept."""
    _, rows = chosen(sets, tmp_path, ["digits", "digits"])
    assert [row["accuracy"] for row in rows[:2]] == [row["accuracy"] for row in rows[2:]]
    assert [row["kept"] for row in rows] == [True, True, False, False]


def test_a_killed_choice_goes_on_and_has_the_same_bytes(
    sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_request: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    chosen(sets, whole, ["noise", "digits"])
    with stopped_at(4, monkeypatch), pytest.raises(SystemExit):
        chosen(sets, killed, ["noise", "digits"])
    assert len(list(killed.glob("*.resume.safetensors"))) == 1
    capsys.readouterr()
    chosen(sets, killed, ["noise", "digits"])
    assert "resuming at" in capsys.readouterr().err
    for name in ("images.parquet", "choice.parquet"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not list(killed.glob("*.resume.safetensors"))


def test_validation_images_of_other_classes_are_refused(sets: Path, tmp_path: Path) -> None:
    other = read_images(sets / "validation.parquet", "test")
    other.classes = [f"not {name}" for name in other.classes]
    for name in ("digits", "noise"):
        (tmp_path / f"{name}.parquet").symlink_to(sets / f"{name}.parquet")
    write_images(tmp_path / "validation.parquet", other, MADE_BY)
    with pytest.raises(BadInput, match=r"has classes zero, one, two, three, and .* has not zero"):
        chosen(tmp_path, tmp_path, ["digits", "noise"])


def test_labels_that_come_with_a_set_are_learned_where_the_protocol_says_so(sets: Path, tmp_path: Path) -> None:
    """Soft labels of wrong classes beside right hard ones: only the protocol `set` learns the wrong ones."""
    soft = read_images(sets / "digits.parquet", "test")
    soft.columns["soft_label"] = np.roll(np.eye(len(CLASSES), dtype=np.float32)[soft.labels], 1, axis=1)
    write_images(tmp_path / "soft.parquet", soft, MADE_BY)
    for name in ("digits", "validation"):
        (tmp_path / f"{name}.parquet").symlink_to(sets / f"{name}.parquet")
    accuracies = {}
    for labels in ("hard", "set"):
        settings = choose_set.Settings(
            seed=0,
            method="best",
            candidates=["soft", "digits"],
            ipc=COUNT,
            network=NETWORK,
            recipe=Recipe(epochs=15, batch_size=8, learning_rate=5e-3, evaluations=1, labels=labels),
            students=1,
        )
        files = {"images": tmp_path / f"{labels}.parquet", "choice": tmp_path / f"{labels}-choice.parquet"}
        choose_set.run(
            settings,
            sets=[tmp_path / "soft.parquet", tmp_path / "digits.parquet"],
            validation=tmp_path / "validation.parquet",
            **files,
            job=job("choose_set", settings),
        )
        accuracies[labels] = [row["accuracy"] for row in read_table(files["choice"], "choose_set").to_pylist()]
        kept = read_images(files["images"], "choose_set")
        assert ("soft_label" in kept.columns) == (labels == "hard")  # of equal ones the first, and then the better one
    assert accuracies["hard"][0] == accuracies["hard"][1] == accuracies["set"][1] > accuracies["set"][0]
