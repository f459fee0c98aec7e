"""Published tables: each cell has an experiment file or a reason, and each published constant its value in the files.

Values are those that the stages get, with every default filled in.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from clone import PROJECT
from preset_folder import EXPERIMENTS, preset, stand_ins

from distillery.plan.experiment import Experiment
from distillery.plan.load import load
from distillery.plan.published_settings import BY_METHOD, Cell, answers_of, page, reason
from distillery.report.published import read_published

FILES = sorted(EXPERIMENTS.glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stand-ins for data and weights."""
    place = tmp_path_factory.mktemp("published")
    stand_ins(place)
    return place


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory is the folder with the stand-ins."""
    monkeypatch.chdir(folder)
    yield folder


# ---- cells -----------------------------------------------------------------------------------------------------------


def rows() -> list[dict[str, Any]]:
    """The published numbers."""
    return [{str(name): value for name, value in row.items()} for row in read_published().to_dict("records")]


@cache
def known() -> frozenset[Cell]:
    """The cells that an experiment file answers."""
    return frozenset(answers_of(FILES))


def test_the_page_of_published_numbers_is_up_to_date() -> None:
    assert (PROJECT / "docs/published.md").read_text("utf-8") == page(FILES)


def test_every_published_number_has_an_experiment_or_a_reason() -> None:
    for row in rows():
        assert Cell.of(row) in known() or reason(row)


def test_every_reason_is_that_of_some_number() -> None:
    left = [row["method"] for row in rows() if Cell.of(row) not in known()]
    for name in BY_METHOD:
        assert any(method == name or method.startswith((f"{name} ", f"{name}-")) for method in left), name


def test_a_number_that_nothing_accounts_for_is_an_error() -> None:
    row = {"method": "LGD", "dataset": "imagenette", "ipc": "7", "network": "ConvNet-6", "protocol": "igd"}
    with pytest.raises(LookupError, match="LGD on imagenette, IPC 7, ConvNet-6, igd"):
        reason({**row, "confidence": "paper"})


@pytest.mark.parametrize(
    ("source", "table", "left"),
    [
        ("LGD (arXiv 2604.00519)", "Table 1", set()),
        ("LGD (arXiv 2604.00519)", "Table 2", set()),
        ("LGD (arXiv 2604.00519)", "Table 3", set()),
        ("LGD (arXiv 2604.00519)", "Table 4", {"LGD (incremental training)"}),
        ("LD3M (arXiv 2403.03881)", "Table 4", {"GLaD-DC", "GLaD-DM"}),
        ("IGD (ICLR 2025", "Table 4", set()),
        ("IGD (ICLR 2025", "Table 5", set()),
        ("Minimax (arXiv 2311.15529)", "Table 1", {"DM", "GLaD"}),
        ("Minimax (arXiv 2311.15529)", "Table 2", {"DM"}),
        ("MGD3 (arXiv 2505.18963)", "Table 1", {"DiT + D4M"}),
        ("MGD3 (arXiv 2505.18963)", "Table 2", set()),
        ("MGD3 (arXiv 2505.18963)", "Table 5", set()),
        ("MGD3 (arXiv 2505.18963)", "Table 7", {"MGD3 (discovery: k-means, centroid)"}),
        ("MGD3 (arXiv 2505.18963)", "Table 8", set()),
    ],
)
def test_a_published_table_is_answered_but_for(source: str, table: str, left: set[str]) -> None:
    cells = [row for row in rows() if row["source"].startswith(source) and table in row["source"]]
    cells = [row for row in cells if row["confidence"] != "recalled" and row["dataset"] != "a-e"]
    assert cells
    assert {row["method"] for row in cells if Cell.of(row) not in known()} == left


# ---- constants -------------------------------------------------------------------------------------------------------

SAMPLED = {"run": "", "shard": "0"}

CONSTANTS: dict[str, tuple[str, str, dict[str, str], dict[str, Any]]] = {
    "plain DiT": (
        "imagenette",
        "sample",
        {"method": "dit", "ipc": "50", **SAMPLED},
        {
            "sampling.steps": 50,
            "sampling.guidance_scale": 4.0,
            "sampling.cfg_channels": 3,
            "sampling.solver": "ddpm",
        },
    ),
    "IGD on DiT": (
        "imagenette",
        "sample",
        {"method": "igd", "ipc": "50", **SAMPLED},
        {
            "guidance.influence.strength": 5.0,
            "guidance.influence.range": [30, 45],
            "guidance.influence.repeats": 1,
            "guidance.deviation.strength": 120.0,
            "guidance.deviation.range": [30, 45],
            "guidance.deviation.capacity": 64,
        },
    ),
    "IGD on Minimax": (
        "imagewoof",
        "sample",
        {"method": "minimax-igd", "ipc": "50", **SAMPLED},
        {"guidance.influence.strength": 10.0, "guidance.deviation.strength": 100.0, "guidance.deviation.capacity": 64},
    ),
    "MGD3": (
        "imagenette",
        "sample",
        {"method": "mgd3", "ipc": "50", **SAMPLED},
        {"guidance.mode.strength": 0.1, "guidance.mode.stop": 25},
    ),
    "MGD3's modes": (
        "imagenette",
        "discover_modes",
        {"run": "", "method": "mgd3", "modes": "50"},
        {"discovery": "centroid", "seed": 0, "pool": None},
    ),
    "LGD's increments": (
        "imagenette",
        "generate_increment",
        {"method": "lgd", "k": "2", **SAMPLED},
        {
            "guidance.learnability.strength": 15.0,
            "guidance.learnability.reference_weight": 0.5,
            "guidance.learnability.range": [10, 45],
            "guidance.learnability.direction": "ascend",
            "guidance.deviation.strength": 50.0,
            "guidance.deviation.range": [10, 45],
            "candidates": 3,
            "increment_size": 10,
        },
    ),
    "LGD's student": (
        "imagenette",
        "train_student",
        {"run": "", "method": "lgd", "k": "1"},
        {"network": "convnet6", "start": "fresh", "recipe.labels": "hard", "recipe.epochs": 2000},
    ),
    "LGD's student of table 4": (
        "imagenette-ablations",
        "train_student",
        {"run": "", "method": "lgd-continued", "k": "2"},
        {"network": "convnet6", "start": "continued"},
    ),
    "LGD's reference": (
        "imagenette",
        "train_reference",
        {"run": "", "reference": "real"},
        {
            "network": "convnet6",
            "recipe.epochs": 50,
            "recipe.optimizer": "sgd",
            "recipe.learning_rate": 0.01,
            "recipe.momentum": 0.9,
            "recipe.weight_decay": 5e-4,
            "recipe.cutmix": 0.0,
            "recipe.normalize": "half",
            "recipe.size": None,
        },
    ),
    "IGD's surrogate": (
        "imagewoof",
        "train_surrogate",
        {"run": "", "surrogate": "conv"},
        {"network": "convnet6", "recipe.epochs": 50, "recipe.learning_rate": 0.01, "recipe.cutmix": 0.0},
    ),
    "IGD's checkpoints on Woof": (
        "imagewoof",
        "select_checkpoints",
        {"run": "", "surrogate": "conv"},
        {"keep": [0, 5, 16, 40], "gradient_images": 200, "threshold": 0.7},
    ),
    "IGD's checkpoints on ImageNet-1K": (
        "imagenet1k",
        "select_checkpoints",
        {"run": "", "surrogate": "conv"},
        {"keep": [0, 5, 18, 52]},
    ),
    "IGD's checkpoints of ResNetAP-10": (
        "imagenette-ablations",
        "select_checkpoints",
        {"run": "", "surrogate": "resnet"},
        {"keep": [0, 6, 16, 39]},
    ),
    "Minimax": (
        "imagewoof",
        "finetune_generator",
        {"run": "", "generator": "minimax"},
        {
            "generator.objective.kind": "minimax",
            "generator.objective.memory_size": 64,
            "generator.objective.lambda_real": 0.002,
            "generator.objective.lambda_generated": 0.008,
            "generator.objective.reduction": "class_extreme",
            "generator.objective.policy_real": "fifo",
            "generator.objective.policy_generated": "fifo",
            "generator.trainable": "difffit",
            "generator.batch_size": 8,
            "generator.learning_rate": 1e-3,
            "generator.schedule": "constant",
            "generator.steps": 12_000,
            "generator.order": "shuffled",
            "generator.ema_decay": 0.9999,
            "generator.label_dropout": 0.1,
            "generator.precision": "float32",
            "generator.flip": True,
        },
    ),
    "self-adaptive memory": (
        "imagewoof",
        "finetune_generator",
        {"run": "", "generator": "memory"},
        {
            "generator.objective.kind": "memory",
            "generator.objective.policy_real": "max",
            "generator.objective.policy_generated": "max",
            "generator.objective.memory_size": 64,
            "generator.objective.lambda_real": 0.002,
            "generator.objective.lambda_generated": 0.008,
            "generator.steps": 12_000,
        },
    ),
    "Minimax on ImageNet-100": (
        "imagenet100",
        "finetune_generator",
        {"run": "", "generator": "minimax-group-0"},
        {"generator.groups": 5, "generator.epochs": 8, "generator.order": "shuffled"},
    ),
    "IDC-I": (
        "idc imagewoof",
        "match",
        {"run": "", "method": "idc", "ipc": "10", "shard": "0"},
        {"method.iterations": 500, "method.inner": 100, "method.batch_real": 64, "method.momentum": 0.5},
    ),
}
"""Name -> preset, stage, wildcards, and published values by key of the stage's settings."""


def value(settings: Any, path: str) -> Any:
    """What a dotted key of the settings holds."""
    held = settings.model_dump(mode="json")
    for part in path.split("."):
        assert part in held, f"{path}: {sorted(held)}"
        held = held[part]
    return held


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_preset_has_the_published_constants(name: str, inside: Path) -> None:
    file, stage, wildcards, published = CONSTANTS[name]
    settings = import_module(f"distillery.stages.{stage}").Settings.of(opened(file), **wildcards)
    assert {path: value(settings, path) for path in published} == published


def opened(name: str) -> Experiment:
    """The experiment of a preset."""
    return load(preset(name))


PROTOCOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "imagenette": (
        "minimax",
        {
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "batch_size": 64,
            "size": 224,
        },
    ),
    "imagewoof": ("igd", {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "batch_size": 64}),
    "imagenet1k": ("rded", {"optimizer": "adamw", "epochs": 300, "batch_size": 100, "temperature": 20.0}),
    "ld3m a": ("ld3m", {"optimizer": "sgd", "epochs": 1000, "batch_size": 256, "momentum": 0.9, "weight_decay": 5e-4}),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_preset_is_evaluated_by_the_published_recipe(name: str, inside: Path) -> None:
    experiment, (label, constants) = opened(name), PROTOCOLS[name]
    (protocol,) = [each for each in experiment.evaluation.protocols if each.preset == label]
    assert protocol.unmodified(experiment.classes)
    recipe = experiment.recipe(protocol, experiment.evaluation.networks[0], 10)
    assert {key: getattr(recipe, key) for key in constants} == constants
    students = {"minimax": 3, "igd": 5, "rded": 3, "ld3m": 5}[label]
    assert experiment.evaluation.students >= students
