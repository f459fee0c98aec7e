"""Optimised images as a workflow: their sets and tables, what runs again, and what is refused before anything does."""

from __future__ import annotations

import csv
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import PROJECT, Clone
from diffusers import UNet2DModel

from distillery.errors import ExperimentError
from distillery.matching.settings import Experts
from distillery.plan.load import load
from distillery.storage.images import read_images
from distillery.storage.tables import read_table
from distillery.storage.tensors import described_tensors, write_tensors

SMOKE = "experiments/smoke-matching.yaml"
RESULTS = "results/smoke-matching"
MADE = ["ld3m", "mtt"]
TARGETS = [*(f"{RESULTS}/distilled/{method}/ipc1.parquet" for method in MADE), f"{RESULTS}/tables/gradients.csv"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tree of one real run; nobody changes it. What follows a set is the same for every method, and is planned."""
    clone = Clone.of_project(tmp_path_factory.mktemp("matching") / "finished")
    done = clone.run("snakemake", "--cores", "2", "--configfile", SMOKE, "--", *TARGETS)
    assert done.returncode == 0, done.stdout
    return clone


@pytest.mark.parametrize("method", MADE)
def test_a_method_has_its_set_and_its_choice(method: str, finished: Clone) -> None:
    folder = finished.folder / RESULTS / "distilled" / method
    images = read_images(folder / "ipc1.parquet", "collect")
    assert images.labels.tolist() == [0, 1] and images.pixels().shape == (2, 1, 16, 16)
    rows = read_table(folder / "choice-1.parquet", "choose_snapshot").to_pylist()
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    (kept,) = (row["iteration"] for row in rows if row["kept"])
    assert set(images.columns["iteration"].tolist()) == {kept}
    assert not list(folder.glob("*.resume.safetensors"))


def test_gradients_have_their_table_and_their_figure(finished: Clone) -> None:
    results = finished.folder / RESULTS
    with (results / "tables/gradients.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["residual"]) for row in rows] == [
        (steps, residual) for steps in ("2", "4") for residual in ("eq7", "none", "x0")
    ]
    assert "published, none" in (results / "tables/gradients.md").read_text("utf-8")
    assert (results / "figures/gradients.svg").read_text("utf-8").rstrip().endswith("</svg>")


def test_the_rest_takes_what_is_there(finished: Clone) -> None:
    plan = finished.plan(experiment=SMOKE)
    assert plan.rules == Counter(
        select=1,
        collect=1,
        evaluate=3,
        measure_autoencoder=1,
        tabulate_autoencoder=1,
        tabulate_accuracy=1,
        tabulate_statistics=1,
        plot_accuracy=1,
        plot_images=3,
        plot_cost=1,
        plot_steps=1,
        plot_training=1,
        write_experiment=1,
        write_report=1,
    )


def test_a_change_runs_what_it_changes(finished: Clone, tmp_path: Path) -> None:
    tree = finished.copy(tmp_path / "tree")
    tree.change(lambda config: config["methods"]["ld3m"]["chain"].update(residual="none"), SMOKE)
    rules = tree.plan("--", *TARGETS, experiment=SMOKE).rules
    assert rules["match"] == rules["render"] == 2 and rules["choose_snapshot"] == 1
    assert not {"train_generator", "train_experts", "train_autoencoder"} & set(rules)
    tree.change(lambda config: config["experts"]["conv"].update(count=11), SMOKE)
    rules = tree.plan(experiment=SMOKE).rules
    assert rules["train_experts"] == 2 and rules["match"] == 3  # ten in a shard: the first one trains more of them


def test_only_the_choice_and_the_report_read_validation_images(finished: Clone) -> None:
    jobs = finished.plan("--forceall", experiment=SMOKE).jobs
    readers = {job.rule for job in jobs if f"{RESULTS}/data/validation.parquet" in job.inputs}
    assert readers == {"choose_snapshot", "write_report"}


# ---- what is refused -------------------------------------------------------------------------------------------------

STARTER = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))
LD3M = "methods.ld3m"
STEPS = {
    9: "methods.ld3m.chain.steps: 9 steps do not divide a schedule of 1000: the highest level would be that of "
    "timestep 888; allowed: 4, 5, 8, 10, … (divisors of 1000), or uneven: true",
    1: "methods.ld3m.chain.steps: 1 step has no residual, and starts at the lowest level of all; allowed: 2, 4, 5, 8, "
    "…, or uneven: true; without diffusion: kind: autoencoder",
}


def faults(path: str, value: Any) -> list[str]:
    """The lines that the smoke experiment is refused with when one dotted key is changed."""
    config = deepcopy(STARTER)
    *blocks, last = path.split(".")
    block = config
    for name in blocks:
        block = block[name]
    block[last] = value
    with pytest.raises(ExperimentError) as refused:
        load(config)
    return str(refused.value).splitlines()


@pytest.mark.parametrize("steps", STEPS)
def test_steps_that_do_not_fit_the_schedule_are_refused(steps: int) -> None:
    assert faults(f"{LD3M}.chain.steps", steps) == [STEPS[steps]]
    config = deepcopy(STARTER)
    config["methods"]["ld3m"]["chain"] = {"steps": steps, "uneven": True}
    assert load(config).methods["ld3m"].kind == "ld3m"


REFUSED: dict[str, tuple[str, Any, str]] = {
    "an objective without experts": (
        f"{LD3M}.objective",
        "trajectory",
        "methods.ld3m.objective.experts: trajectories are matched, and none are named; allowed: one of experts (conv), "
        "for instance experts: {convnet: {}}",
    ),
    "experts that are not there": (
        "methods.mtt.objective.experts",
        "cnn",
        "methods.mtt.objective.experts: no experts 'cnn'; experts: conv",
    ),
    "experts of another network": (
        "methods.mtt.network",
        "convnet2",
        "methods.mtt.network: convnet2, but experts.conv are of convnet2_w8; allowed: convnet2_w8, or leave it out",
    ),
    "experts of too few epochs": (
        "experts.conv.epochs",
        1,
        "experts.conv.epochs: 1, but methods.mtt reads epoch 2 (epochs + max_start_epoch - 1); allowed: 2 or more, or "
        "leave it out",
    ),
    "an objective that is none": (
        f"{LD3M}.objective",
        "gradients",
        "methods.ld3m.objective.kind: no kind 'gradients'; did you mean 'gradient'?; allowed: gradient, distribution, "
        "trajectory",
    ),
    "a codebook that is not there": (
        f"{LD3M}.chain",
        {"steps": 2, "quantise": "vq"},
        "methods.ld3m.chain.quantise: vq asks for a VQModel, and the autoencoder is AutoencoderKL; allowed: none",
    ),
    "a generator that is not there": (
        f"{LD3M}.generator",
        "unet",
        "methods.ld3m.generator: no generator 'unet'; generators: dit",
    ),
    "more shards than classes": (f"{LD3M}.shards", 3, "methods.ld3m.shards: 3 jobs for 2 classes; allowed: 1 to 2"),
    "shards where classes act on each other": (
        "methods.mtt.shards",
        2,
        "methods.mtt.shards: networks learn from all classes together here; allowed: 1, or kind: distribution, or "
        "kind: gradient with outer: 1",
    ),
    "gradients of a method that has no chain": (
        "analysis.gradients.method",
        "mtt",
        "analysis.gradients.method: no method 'mtt' of kind ld3m; methods: ld3m",
    ),
    "steps of a method that has no chain": (
        "analysis.steps",
        {"methods": ["ld3m", "mtt"]},
        "analysis.steps.methods: no method 'mtt' of kind ld3m; methods: ld3m",
    ),
    "a learned step size of another optimizer": (
        "evaluation.protocol",
        {"preset": "small", "epochs": 3, "learned_rate": True},
        "evaluation.protocol.learned_rate: a step size is learned for sgd, and the optimizer is adamw",
    ),
    "gradients through more steps than there are": (
        "analysis.gradients.steps",
        [10, 1001],
        "analysis.gradients.steps[1]: input should be less than or equal to 1000 (given: 1001)",
    ),
    "a network too deep for the images": (
        "experts.conv.network",
        "convnet5",
        "experts.conv.network: convnet5 halves the image 5 times: 16 pixels are too few, it takes 32 or more, but "
        "dataset.resolution is 16",
    ),
    "a condition without diffusion": (
        "methods.mtt.learn",
        ["condition"],
        "methods.mtt.learn: no key of kind pixel; it belongs to kind ld3m",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_runs(what: str) -> None:
    path, value, message = REFUSED[what]
    assert any(line.startswith(message) for line in faults(path, value)), faults(path, value)


def test_a_learned_step_size_needs_a_method_that_learns_one() -> None:
    config = deepcopy(STARTER)
    config["evaluation"]["protocol"] = {"preset": "ld3m", "epochs": 3, "learned_rate": True}
    assert load(config).methods["mtt"].learns_rate and not load(config).methods["ld3m"].learns_rate
    del config["methods"]["mtt"]
    with pytest.raises(ExperimentError) as refused:
        load(config)
    assert str(refused.value) == (
        "evaluation.protocol.learned_rate: no method learns a step size; allowed: false, or a method with objective: "
        "{kind: trajectory, …}"
    )


def test_two_methods_of_as_many_steps_are_not_drawn_over_their_steps() -> None:
    config = deepcopy(STARTER)
    config["methods"]["again"] = deepcopy(config["methods"]["ld3m"])
    config["analysis"]["steps"] = {"methods": ["ld3m", "again"]}
    with pytest.raises(ExperimentError) as refused:
        load(config)
    assert str(refused.value) == ("analysis.steps.methods: 'ld3m' and 'again' both have 2 steps; name one of them")


def test_files_of_experts_are_looked_at_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "experts.safetensors"
    about = {"network": "convnet2_w8", "classes": ["0", "7"], "size": 16, "channels": 1, "data": "x", "epochs": 2}
    about["recipe"] = Experts().recipe(2).model_dump(mode="json")
    write_tensors(path, {}, {}, **about)
    assert described_tensors(path) == about
    config = deepcopy(STARTER)
    config["experts"]["conv"]["files"] = [str(path)]
    load(config)
    for change, words in (
        ({"network": "convnet3"}, "its experts are of convnet3, and convnet2_w8 is wanted"),
        ({"classes": ["0", "1"]}, "it knows the classes 0, 1, and the data have 0, 7"),
        ({"size": 32}, "its experts are of 32 px, and 16 is wanted"),
        ({"epochs": 1}, "its trajectories have 1 epochs, and epoch 2 is read"),
        (
            {"recipe": Experts(momentum=0.9).recipe(2).model_dump(mode="json")},
            "its experts were trained with momentum 0.9, and experts of 0.0 are asked for; give others, or leave files",
        ),
    ):
        write_tensors(path, {}, {}, **{**about, **change})
        (line,) = faults("experts.conv.files", [str(path)])
        assert line.startswith(f"experts.conv.files: {path}: {words}")
    path.write_bytes(b"nothing")
    assert "cannot be read" in faults("experts.conv.files", [str(path)])[0]


def test_a_unet_is_for_optimised_images_alone(tmp_path: Path) -> None:
    UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).save_pretrained(tmp_path / "unet")
    config = deepcopy(STARTER)
    config["generators"]["unet"] = {"kind": "pretrained", "network": "unet", "weights": str(tmp_path), "classes": "own"}
    config["methods"]["ld3m"] |= {"generator": "unet", "learn": ["latent"]}
    assert load(config).methods["ld3m"].kind == "ld3m"
    config["methods"]["ld3m"]["learn"] = ["condition"]
    config["methods"]["plain"] = {"kind": "plain", "generator": "unet"}
    with pytest.raises(ExperimentError) as refused:
        load(config)
    assert str(refused.value).splitlines() == [
        "methods.ld3m.learn: condition, and generators.unet knows no classes; allowed: [latent]",
        "methods.plain.generator: generators.unet is a UNet, which methods of kind ld3m alone take; give a DiT",
    ]
