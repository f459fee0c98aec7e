"""What a distilled set says of its making: every stage behind it, and nothing that its images do not depend on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edits import Config, changed, put
from tiny import MADE_BY, digits, image_set_of, job

from distillery.plan.load import load
from distillery.stages import collect
from distillery.storage.images import write_images
from distillery.storage.tables import read_table

OF_LGD = {
    *("ingest", "train_autoencoder", "encode_latents", "train_generator:dit", "train_reference:real"),
    *("train_student", "calibrate_guidance", "generate_increment"),
}


def made(*edits: Callable[[Config], object], method: str = "lgd", ipc: int = 2, run: str = "") -> dict[str, Any]:
    """What a set of the smoke experiment, changed so, says of its making."""

    def edit(config: Config) -> None:
        for one in edits:
            one(config)

    return load(changed(edit)).lineage(run, method, ipc)


def test_a_set_names_its_experiment_and_every_stage_behind_it() -> None:
    about = made()
    assert (about["experiment"], about["method"], about["kind"], about["seed"]) == ("smoke", "lgd", "lgd", 0)
    assert about["settings"].keys() == OF_LGD
    assert [*about["settings"]] == about["stages"] and about["stages"][-1] == "generate_increment"
    assert about["settings"]["generate_increment"]["guidance"]["learnability"]["reference_weight"] == 2.0
    assert about["settings"]["train_generator:dit"]["generator"]["steps"] == 40
    assert about["settings"]["ingest"]["dataset"]["classes"] == ["0", "1", "7"]
    assert made(method="random")["settings"].keys() == {"ingest", "select"}


def test_a_first_increment_comes_from_no_student_and_no_reference() -> None:
    left = {"train_reference:real", "train_student", "calibrate_guidance"}
    assert made(ipc=1)["settings"].keys() == OF_LGD - left


def test_the_stages_of_guidances_and_of_a_seed_are_named() -> None:
    mode = put("methods.igd", {"kind": "igd", "generator": "dit"})
    surrogate = put("surrogates.conv", {"network": "convnet2_w8"})
    influence = {"influence": {"surrogate": "conv"}, "deviation": {"strength": 0}}
    about = made(surrogate, mode, put("methods.igd.guidance", influence), put("methods.lgd.seed", "igd"))
    assert about["settings"].keys() == OF_LGD | {"train_surrogate:conv", "select_checkpoints:conv", "sample"}


def test_a_first_increment_names_its_guidances_where_it_has_some() -> None:
    mode = put("methods.lgd.guidance.mode", {"stop": 3})
    plain, guided = (made(mode, put("methods.lgd.seed", seed), ipc=1)["settings"] for seed in ("plain", "guided"))
    assert plain["generate_increment"]["guidance"] == {}
    assert {*guided["generate_increment"]["guidance"]} == {"mode", "deviation"}
    assert guided["generate_increment"]["guidance"]["mode"]["stop"] == 3


def test_a_set_names_every_strength_that_its_increments_had() -> None:
    """The last increment of each strength stands for the others."""
    by_increment = put("methods.lgd.guidance.learnability", {"strength": {2: 4.0, 4: 2.0}, "reference_weight": 1.0})
    sizes = put("ipc", [1, 2, 3, 4, 5])
    redundancy = put("analysis", {})

    def strengths(ipc: int) -> dict[str, float]:
        settings = made(by_increment, sizes, redundancy, ipc=ipc)["settings"]
        return {
            name: one["guidance"]["learnability"]["strength"]
            for name, one in settings.items()
            if name.startswith("generate_increment")
        }

    assert strengths(5) == {"generate_increment:3": 4.0, "generate_increment": 2.0}
    assert strengths(3) == {"generate_increment": 4.0}


@pytest.mark.parametrize(
    "edit",
    [
        put("evaluation.students", 3),
        put("methods.lgd.shards", 1),
        put("methods.other", {"kind": "random"}),
        put("analysis.redundancy.students", 2),
        put("references.judge", {"network": "convnet2_w8"}),
    ],
)
def test_a_set_says_nothing_that_its_images_do_not_depend_on(edit: Callable[[Config], object]) -> None:
    assert made(edit) == made()


def test_another_seed_is_another_making() -> None:
    seeds = put("seeds", [0, 3])
    assert made(seeds, run="seed-3/")["seed"] == 3
    assert made(seeds, run="seed-3/")["settings"]["train_generator:dit"]["seed"] == 3


@pytest.mark.parametrize("place", ["{tmp}/zaphod/train/", "../zaphod/train", "x/../../zaphod/train"])
def test_folders_outside_the_working_folder_are_left_out(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They name users and disks; such a path becomes its last part."""
    (tmp_path / "here" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    for name in "017":
        (tmp_path / "zaphod" / "train" / name).mkdir(parents=True)
        for number in range(9):
            (tmp_path / "zaphod" / "train" / name / f"{number}.png").write_bytes(b"")
    source = {"kind": "folder", "train": place.format(tmp=tmp_path)}
    about = made(put("dataset.source", source), method="random")
    assert about["settings"]["ingest"]["dataset"]["source"]["train"] == "train"
    assert "zaphod" not in json.dumps(about) and str(tmp_path) not in json.dumps(about)


def test_the_file_of_a_set_has_its_making_and_the_code_of_the_stages(tmp_path: Path) -> None:
    pixels, labels = (values[:4] for values in digits())
    write_images(tmp_path / "part.parquet", image_set_of(pixels, labels, slot=labels.numpy() * 0), MADE_BY)
    settings = collect.Settings(ipc=1, lineage=made(method="dit", ipc=1))
    paths = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path in paths:
        collect.run(settings, parts=[tmp_path / "part.parquet"], images=path, job=job("collect", settings))
    about = json.loads(read_table(paths[0], "collect").schema.metadata[b"distillery"])
    assert json.loads(about["settings"])["lineage"] == settings.lineage
    codes = json.loads(about["code_by_stage"])
    assert codes.keys() == {"ingest", "train_autoencoder", "encode_latents", "train_generator", "sample"}
    assert len({*codes.values()}) == len(codes) and all(len(code) == 16 for code in codes.values())
    assert paths[0].read_bytes() == paths[1].read_bytes()
