"""The export of a distilled set: a folder that others open with their own tools and train the same networks from."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
import yaml
from edits import STARTER
from finished_run import CLASSES, SLOTS, finished_run, place, write_final_table, write_set
from hub import Hub, serving
from huggingface_hub import constants
from PIL import Image
from private_facts import private_facts, private_words
from tiny import CPU, NETWORK, SIDE
from torch import Tensor

from distillery import __main__ as command_line
from distillery.data.pixels import load_pixels
from distillery.plan import layout
from distillery.report.export import as_png, write_parquet, write_shards
from distillery.storage.images import ImageSet, encode_png, read_images
from distillery.storage.tensors import load_tensors, write_tensors
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import train_network

ALL_FORMS = ("--class-folders", "--webdataset")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; nobody changes it."""
    return finished_run(tmp_path_factory.mktemp("results"))


def export(results: Path, destination: Path, *options: str, method: str = "lgd", ipc: int = SLOTS) -> int:
    return command_line.main(["export", str(results), method, str(ipc), str(destination), *options])


@pytest.fixture(scope="module")
def exported(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set of the run in all forms; nobody changes it."""
    folder = tmp_path_factory.mktemp("exported") / "set"
    assert export(results, folder, *ALL_FORMS) == 0
    return folder


def snippet(folder: Path, tool: str) -> dict[str, Any]:
    """What the code of a data card for a tool leaves behind, run in the folder."""
    card = (folder / "README.md").read_text("utf-8")
    [code] = re.findall(rf"With `?{tool}`?[^\n]*\n\n```python\n(.*?)```", card, re.DOTALL)
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder.parent / "cache")
        exec(code, found)
    return found


# ---- every form trains the same network ------------------------------------------------------------------------------


def pictures(images: Any) -> Tensor:
    """Pictures of Pillow as (N, 1, H, W) uint8; those that a tool has made coloured are grey again."""
    return torch.from_numpy(np.stack([np.asarray(image.convert("L"))[None] for image in images]))


def of_datasets(folder: Path) -> tuple[Tensor, Tensor]:
    found = snippet(folder, "datasets")
    assert found["names"] == CLASSES
    return pictures(found["images"]), torch.tensor(list(found["labels"]))


def of_torchvision(folder: Path) -> tuple[Tensor, Tensor]:
    found = snippet(folder, "torchvision")
    return pictures(found["images"]), torch.tensor(found["labels"])


def of_pandas(folder: Path) -> tuple[Tensor, Tensor]:
    found = snippet(folder, "pandas")
    assert found["names"] == CLASSES
    return pictures(found["images"]), torch.tensor(found["labels"].tolist())


def of_webdataset(folder: Path) -> tuple[Tensor, Tensor]:
    found = snippet(folder, "webdataset")
    return pictures(found["images"]), torch.tensor(found["labels"])


@pytest.mark.parametrize("read", [of_datasets, of_torchvision, of_pandas, of_webdataset])
def test_every_form_trains_the_network_that_the_set_itself_trains(
    read: Callable[[Path], tuple[Tensor, Tensor]], results: Path, exported: Path, tmp_path: Path
) -> None:
    def trained(pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        classifier = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("export",))
        recipe = Recipe(epochs=3, batch_size=4, learning_rate=2e-3)
        train_network(classifier, pixels, labels, recipe, key=("export",), device=CPU)
        return classifier.state_dict()

    pixels, labels, _, _ = load_pixels(place(results, layout.DISTILLED, run="", method="lgd", ipc=SLOTS), "collect")
    read_pixels, read_labels = read(exported)
    assert torch.equal(read_pixels, pixels) and torch.equal(read_labels, labels)
    own, theirs = trained(pixels, labels), trained(read_pixels, read_labels)
    assert all(torch.equal(own[name], theirs[name]) for name in own)


def test_without_class_folders_torchvision_decodes_the_table(results: Path, exported: Path, tmp_path: Path) -> None:
    assert export(results, tmp_path / "set") == 0
    found = snippet(tmp_path / "set", "torchvision")
    pixels, labels = of_datasets(exported)
    assert torch.equal(found["images"], pixels) and torch.equal(found["labels"], labels)


def test_stored_soft_labels_are_exported_as_they_are(results: Path, tmp_path: Path) -> None:
    other = finished_run(tmp_path / "results")
    names = {"run": "", "method": "lgd", "ipc": SLOTS, "protocol": "rded+epochs=2"}
    path = place(other, layout.SOFT_LABELS, **names)
    logits = torch.arange(2 * 12 * 4, dtype=torch.float16).view(2, 12, 4)
    write_tensors(path, {"logits": logits}, {"stage": "test"})
    assert export(other, tmp_path / "set", "--soft-labels") == 0
    assert torch.equal(load_tensors(tmp_path / "set/soft_labels/rded+epochs=2.safetensors")[0]["logits"], logits)
    assert "soft_labels/rded+epochs=2.safetensors" in (tmp_path / "set/SHA256SUMS").read_text("utf-8")


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_per_class_begins_with_its_label_where_names_are_not_sorted(exported: Path) -> None:
    assert sorted(path.name for path in (exported / "images").iterdir()) == ["0-zero", "1-one", "2-two", "3-three"]
    assert sorted(path.name for path in (exported / "images/0-zero").iterdir()) == [
        f"0000{n}.png" for n in range(SLOTS)
    ]


def test_checksums_cover_every_file(exported: Path) -> None:
    lines = (exported / "SHA256SUMS").read_text("utf-8").splitlines()
    stated = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert stated.keys() == files - {"SHA256SUMS"}
    assert all(hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest for name, digest in stated.items())


def test_the_same_set_gives_the_same_bytes(results: Path, exported: Path, tmp_path: Path) -> None:
    assert export(results, tmp_path / "again", *ALL_FORMS) == 0
    assert (tmp_path / "again/SHA256SUMS").read_bytes() == (exported / "SHA256SUMS").read_bytes()


def test_the_table_says_how_it_was_made_and_by_which_commit(exported: Path) -> None:
    about = json.loads(pq.read_schema(exported / "data/train.parquet").metadata[b"distillery"])
    beside = json.loads((exported / "provenance.json").read_text("utf-8"))
    assert about["commit"] == beside["commit"] == "c0ffee1"
    lineage = json.loads(about["settings"])["lineage"]
    assert lineage == beside["settings"]["lineage"]
    assert lineage["experiment"] == "smoke" and "generate_increment" in lineage["stages"]
    assert json.loads(about["code_by_stage"]).keys() >= {"generate_increment", "train_generator"}


def test_nothing_private_is_published(results: Path, exported: Path) -> None:
    assert private_facts(exported, private_words(results, exported)) == []


def test_the_resolved_experiment_goes_along_without_folders_of_this_machine(tmp_path: Path) -> None:
    results = finished_run(tmp_path / "results")
    content = {"name": "smoke", "dataset": {"source": {"kind": "folder", "train": f"{tmp_path}/pictures/train"}}}
    (results / "experiment.yaml").write_text(yaml.safe_dump(content), "utf-8")
    assert export(results, tmp_path / "set") == 0
    copied = yaml.safe_load((tmp_path / "set/experiment.yaml").read_text("utf-8"))
    assert copied == {"name": "smoke", "dataset": {"source": {"kind": "folder", "train": "train"}}}


def test_a_further_seed_has_a_set_of_its_own(tmp_path: Path) -> None:
    results = finished_run(tmp_path / "results")
    write_set(results, run="seed-3/", seed=3)
    for seed in (0, 3):
        assert export(results, tmp_path / str(seed), "--seed", str(seed)) == 0
        beside = json.loads((tmp_path / str(seed) / "provenance.json").read_text("utf-8"))
        assert beside["settings"]["lineage"]["seed"] == seed


# ---- the card --------------------------------------------------------------------------------------------------------


def head(folder: Path) -> dict[str, Any]:
    """The YAML at the head of a data card."""
    _, front, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    return dict(yaml.safe_load(front))


def test_the_card_has_what_a_reader_asks_for(exported: Path) -> None:
    card = (exported / "README.md").read_text("utf-8")
    assert head(exported)["license"] == "unknown" and "dataset-distillation" in head(exported)["tags"]
    for words in (
        "12 images of 4 classes, 3 per class, 16 x 16 pixels, grey",
        "experiment smoke, method lgd of kind lgd, seed 0",
        "scikit-learn ships",
        "50 % of each class, held out",
        "train_autoencoder, encode_latents, train_generator dit, train_student",
        "c0ffee1",
        "The calibration chose strength 0.75.",
        "Generator dit: trained on the source data.",
        "Licence of this set: not filled in yet",
        "## Intended use",
        "## Limits",
        "The first n images of each class are the set of n images per class.",
        "\n\nexperiment.yaml is missing: the run has not made it.\n\n",
        "further columns `slot`.",
    ):
        assert words in card, words


def test_the_card_has_accuracy_with_n_and_protocol_and_redundancy(exported: Path) -> None:
    card = (exported / "README.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    protocol = "small+epochs=10"
    assert ["lgd", "3", "convnet2_w8", protocol, "4", "81.3 ± 0.3"] in rows
    assert ["lgd", "3", "mean of networks", protocol, "4", "82.3"] in rows
    assert ["dit", "3", "mean of networks", protocol, "4", "71.2 ± 0.5"] in rows
    assert ["full", "70", "mean of networks", protocol, "4", "98.0 ± 0.1"] in rows
    assert not [row for row in rows if "12.5" in row[-1]]  # of another size
    assert ["lgd", "3", "2", "71.1 ± 2.5"] in rows


def test_a_step_size_that_was_learned_with_the_set_is_in_the_card_and_in_the_file(tmp_path: Path) -> None:
    results = tmp_path / "smoke"
    write_set(results, rate=0.0125)
    assert export(results, tmp_path / "set") == 0
    assert "Step size that was learned with the set: 0.0125" in (tmp_path / "set/README.md").read_text("utf-8")
    assert json.loads((tmp_path / "set/provenance.json").read_text("utf-8"))["learning_rate"] == "0.0125"
    assert set(pq.read_table(tmp_path / "set/data/train.parquet")["learning_rate"].to_pylist()) == {0.0125}
    write_set(results)
    assert export(results, tmp_path / "other") == 0
    assert "Step size" not in (tmp_path / "other/README.md").read_text("utf-8")


def test_licences_are_filled_in(results: Path, tmp_path: Path) -> None:
    assert export(results, tmp_path / "set", "--license", "cc-by-4.0") == 0
    assert head(tmp_path / "set")["license"] == "cc-by-4.0"
    assert "Licence of this set: cc-by-4.0." in (tmp_path / "set/README.md").read_text("utf-8")


HOSTILE = ["a|b", "<script>alert(1)</script>", "line\nbreak", "```\n# head"]


def test_class_names_are_text_in_the_card_and_come_back_from_every_form(tmp_path: Path) -> None:
    results = tmp_path / "smoke"
    write_set(results, classes=HOSTILE)
    assert export(results, tmp_path / "set", *ALL_FORMS) == 0
    card = (tmp_path / "set/README.md").read_text("utf-8")
    assert not re.search(r"(?<!\\)<script", card) and "\n# head" not in card and "a\\|b" in card
    assert snippet(tmp_path / "set", "datasets")["names"] == HOSTILE
    assert snippet(tmp_path / "set", "pandas")["names"] == HOSTILE
    assert snippet(tmp_path / "set", "torchvision")["labels"] == [label for label in range(4) for _ in range(SLOTS)]


def test_settings_end_no_block_of_code_and_open_no_markup(tmp_path: Path) -> None:
    results = tmp_path / "smoke"
    write_set(results, origin="a\n```\n# head\n<script>alert(1)</script> `````")
    assert export(results, tmp_path / "set") == 0
    card = (tmp_path / "set/README.md").read_text("utf-8")
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", card, flags=re.MULTILINE | re.DOTALL)
    assert "resolution: 16" in card and "resolution: 16" not in re.sub(r"^- .*$", "", outside, flags=re.MULTILINE)
    assert "\n# head" not in outside and not re.search(r"(?<!\\)<script", outside)


# ---- bad use ---------------------------------------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], status: int) -> str:
    """The one line of a command that ended with a status of 1."""
    assert status == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_a_set_that_is_not_there_is_told_the_command_that_makes_it(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, export(results, tmp_path / "set", ipc=2))
    assert (
        "`snakemake results/smoke/distilled/lgd/ipc2.parquet --cores all --configfile experiments/smoke.yaml`" in line
    )
    assert "there are: lgd 3" in line
    assert "no set of method '../x'" in refusal(capsys, export(results, tmp_path / "set", method="../x"))
    assert "no such folder; give that of a run" in refusal(capsys, export(tmp_path / "none", tmp_path / "set"))
    assert "seed-7/distilled" in refusal(capsys, export(results, tmp_path / "set", "--seed", "7"))
    assert "set `soft_labels: stored`" in refusal(capsys, export(results, tmp_path / "set", "--soft-labels"))
    assert [*tmp_path.iterdir()] == []


def test_a_destination_is_not_overwritten_without_force(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(results, tmp_path / "set") == 0
    (tmp_path / "set/old").write_text("", "utf-8")
    capsys.readouterr()
    assert "--force to replace" in refusal(capsys, export(results, tmp_path / "set"))
    assert (tmp_path / "set/old").exists()
    assert export(results, tmp_path / "set", "--force") == 0
    assert not (tmp_path / "set/old").exists() and (tmp_path / "set/README.md").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_force_replaces_nothing_but_an_export(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine", "utf-8")
    assert "is no earlier export" in refusal(capsys, export(results, tmp_path / "mine", "--force"))
    assert "is no earlier export" in refusal(capsys, export(results, tmp_path / "mine/thesis.txt", "--force"))
    assert (tmp_path / "mine/thesis.txt").read_text("utf-8") == "mine"


@pytest.mark.parametrize("name", ["distilled/lgd/ipc3", "tables/accuracy", "tables/redundancy"])
@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b"", lambda content: b"x" * 200])
def test_a_damaged_file_is_named(
    name: str, damage: Callable[[bytes], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished_run(tmp_path) / f"{name}.parquet"
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path}: cannot be read" in refusal(capsys, export(tmp_path / "smoke", tmp_path / "set"))
    assert not (tmp_path / "set").exists()


def test_the_card_of_an_unfinished_run_names_the_missing_table(tmp_path: Path) -> None:
    results = tmp_path / "smoke"
    write_set(results)
    assert export(results, tmp_path / "set") == 0
    card = (tmp_path / "set/README.md").read_text("utf-8")
    assert "tables/accuracy.parquet is missing: the run has not made it." in card
    assert "tables/redundancy.parquet is missing: the run has not made it, or does not measure it." in card
    assert "Commit of the code: not recorded." in card


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_card_says_which_images_its_accuracies_are_of(split: str, tmp_path: Path) -> None:
    results = tmp_path / "smoke"
    write_set(results)
    settings = json.dumps({"about": {"split": split}})
    write_final_table(results, "accuracy", pd.DataFrame(finished_rows("lgd")), settings=settings)
    assert export(results, tmp_path / "set") == 0
    assert f"\n{split.capitalize()} accuracy in percent" in (tmp_path / "set/README.md").read_text("utf-8")


def test_a_set_that_the_tables_lack_is_told_so(tmp_path: Path) -> None:
    results = tmp_path / "smoke"
    write_set(results, method="random")
    write_final_table(results, "accuracy", pd.DataFrame(finished_rows("lgd")))
    assert export(results, tmp_path / "set", method="random") == 0
    card = (tmp_path / "set/README.md").read_text("utf-8")
    assert "The table of accuracies has no row of this set." in card
    assert "Training images of the source data." in card


DRAWN = "Images drawn from a generative model."
REAL = "Training images of the source data."


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("hybrid", f"{REAL} The first images of each class: {DRAWN}"),
        ("random", REAL),
        (
            "best",
            "One of several sets, chosen by the accuracy of networks on validation images. The sets: "
            f"{DRAWN[:-1]}, increment by increment. {DRAWN}",
        ),
    ],
)
def test_the_card_says_what_a_set_is_made_of_and_the_sets_behind_it(method: str, words: str, tmp_path: Path) -> None:
    """A calibration of one of these sets is none of the set itself, and no file of it is looked for."""
    results = tmp_path / "smoke"
    hybrid = {"kind": "real_by_learnability", "reference": "real", "increment_size": 1, "seed": "dit"}
    methods = {"hybrid": hybrid, "best": {"kind": "best_of", "methods": ["lgd", "dit"]}}
    dataset = {**STARTER["dataset"], "validation": {}}
    write_set(results, method=method, methods={**STARTER["methods"], **methods}, dataset=dataset)
    assert export(results, tmp_path / "set", method=method) == 0
    card = (tmp_path / "set/README.md").read_text("utf-8")
    assert f"\n{words} {SLOTS * 4} images of" in card and "The calibration chose" not in card


def finished_rows(method: str) -> dict[str, list[Any]]:
    """One row of the table of accuracies."""
    row = {"method": method, "ipc": SLOTS, "network": "mean", "protocol": "p", "n": 1}
    return {name: [value] for name, value in {**row, "accuracy_mean": 1.0, "accuracy_std": 0.0}.items()}


def test_images_that_are_no_png_keep_their_pixels(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(buffer, "JPEG", quality=50)
    with Image.open(io.BytesIO(as_png(buffer.getvalue()))) as made, Image.open(buffer) as given:
        assert made.format == "PNG" and np.array_equal(np.asarray(made), np.asarray(given))


def test_soft_labels_of_a_set_go_along(tmp_path: Path) -> None:
    soft = np.full((2, 4), 0.25, dtype=np.float32)
    pictures_of = [as_png(encode_png(np.zeros((1, 8, 8), dtype=np.uint8)))] * 2
    images = ImageSet(pictures_of, np.array([0, 1]), CLASSES, ["a", "b"], {"soft_label": soft})
    write_shards(images, tmp_path)
    shard = webdataset.WebDataset(str(tmp_path / "webdataset/train-000000.tar"), shardshuffle=False).decode()
    assert [sample["soft_label.json"] for sample in shard] == soft.tolist()
    write_parquet(images, tmp_path, {})
    assert pd.read_parquet(tmp_path / "data/train.parquet")["soft_label"][0].tolist() == soft[0].tolist()


def test_the_exported_table_is_an_image_set_of_this_project(results: Path, exported: Path) -> None:
    own = read_images(place(results, layout.DISTILLED, run="", method="lgd", ipc=SLOTS), "collect")
    back = read_images(exported / "data/train.parquet", "export")
    assert list(back.images) == list(own.images) and back.classes == own.classes
    assert back.columns.keys() == own.columns.keys()


# ---- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub's client of this process has a hub on loopback, and a token for it."""
    with serving({}) as served:
        served.uploads = tmp_path / "uploads"
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield served


@pytest.mark.parametrize("private", [False, True])
def test_an_export_is_uploaded_as_it_is(private: bool, hub: Hub, results: Path, tmp_path: Path) -> None:
    options = ["--push", "someone/tiny", *ALL_FORMS, *(["--private"] if private else [])]
    assert export(results, tmp_path / "set", *options) == 0
    assert hub.uploads is not None
    there, here = hub.uploads / "someone/tiny", tmp_path / "set"
    names = sorted(path.relative_to(here) for path in here.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(there) for path in there.rglob("*") if path.is_file())
    assert all((there / name).read_bytes() == (here / name).read_bytes() for name in names)
    assert hub.private == {"someone/tiny": private}
    assert 'load_dataset("someone/tiny", split="train")' in (there / "README.md").read_text("utf-8")


def test_a_hub_that_refuses_leaves_the_folder_and_says_how_to_go_on(
    hub: Hub, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.uploads = None
    line = refusal(capsys, export(results, tmp_path / "set", "--push", "someone/tiny"))
    assert "someone/tiny: not uploaded: " in line
    assert f"`hf upload someone/tiny {tmp_path / 'set'} --repo-type dataset`" in line
    assert (tmp_path / "set/README.md").exists()
    line = refusal(capsys, export(results, tmp_path / "other", "--push", "a name/with/slashes"))
    assert "--push: a name/with/slashes" in line and not (tmp_path / "other").exists()
