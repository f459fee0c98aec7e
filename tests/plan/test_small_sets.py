"""The presets of the small data sets: each plans where its Parquet files are, with the constants of its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from clone import PROJECT

from distillery.errors import ExperimentError
from distillery.methods.matching import Pixels
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.stages import evaluate, fit_whitening, match, tabulate_statistics

CLASSES = {"cifar10": 10, "cifar100": 100, "tinyimagenet": 200}
IPCS = (1, 10, 50)


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((PROJECT / "experiments" / f"{name}.yaml").read_text("utf-8"))
    return config


def preset(name: str, variant: str | None = None, **changes: Any) -> Experiment:
    config = read(name)
    for block, values in changes.items():
        config[block] = {**config[block], **values}
    return load({**config, "variant": variant} if variant else config)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parquet files of the names and columns that the presets have, with labels and nothing in their images."""
    monkeypatch.chdir(tmp_path)
    for name, classes in CLASSES.items():
        source = read(name)["dataset"]["source"]
        for path in [*source["train"], *source["test"]]:
            labels = [label for label in range(classes) for _ in range(50 if path in source["train"] else 1)]
            images = [{"bytes": bytes([label % 256]) * 8, "path": f"{row}.png"} for row, label in enumerate(labels)]
            columns = {source.get("image_column", "image"): images, source.get("label_column", "label"): labels}
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns), path)
    return tmp_path


def variants() -> list[tuple[str, str]]:
    return [(name, variant) for name in CLASSES for variant in read(name)["variants"]]


@pytest.mark.parametrize(("name", "variant"), variants())
def test_every_choice_of_a_small_set_plans_and_is_evaluated_by_the_published_recipe(
    name: str, variant: str, data: Path
) -> None:
    experiment = preset(name, variant)
    (ipc,) = experiment.ipc
    assert experiment.name == f"{name}-{variant}" and variant.endswith(f"ipc{ipc}")
    assert (experiment.dataset.zca is not None) == variant.startswith("zca-")
    label = experiment.evaluation.stated[0].label
    network = "convnet4" if name == "tinyimagenet" else "convnet3"
    settings = evaluate.Settings.of(experiment, "", "pixel-mtt", str(ipc), network, label)
    assert label == "dsa" and settings.students == 5 and settings.recipe.epochs == 1000
    assert settings.recipe.normalize == {"tinyimagenet": "imagenet"}.get(name, name)
    assert experiment.comparing("pixel-dsa") == network == experiment.experts_network("conv")


@pytest.mark.parametrize("name", CLASSES)
def test_each_size_has_the_published_loops_of_gradient_matching(name: str, data: Path) -> None:
    """(outer, inner) of the public code of DC: 1 -> (1, 1), 10 -> (10, 50), 50 -> (50, 10)."""
    for ipc, loops in zip(IPCS, ((1, 1), (10, 50), (50, 10)), strict=True):
        method = match.Settings.of(preset(name, f"ipc{ipc}"), "", "pixel-dsa", str(ipc), "0").method
        assert isinstance(method, Pixels) and method.objective.kind == "gradient"
        assert (method.objective.outer, method.objective.inner) == loops
        assert method.optimiser_options(ipc, 32, 10)["rates"] == {"pixels": 0.1}


@pytest.mark.parametrize("name", CLASSES)
def test_a_small_set_without_its_files_says_where_they_are_from(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError, match=r"dataset\.source\.train: data/.*hf download"):
        preset(name)


def test_whitening_is_fitted_once_and_read_by_matching_and_evaluation_alike(data: Path) -> None:
    plain, whitened = Inputs(preset("cifar10", "ipc1")), Inputs(preset("cifar10", "zca-ipc1"))
    assert plain.whitening(None) == []  # type: ignore[arg-type]
    assert whitened.whitening(None) == ["<results>/data/whitening.safetensors"]  # type: ignore[arg-type]
    settings = fit_whitening.Settings.of(whitened.experiment)
    assert (settings.normalization, settings.zca.eps) == ("cifar10", 0.1)
    stages = whitened.experiment.lineage("", "pixel-mtt", 1)["stages"]
    assert stages.index("ingest") < stages.index("fit_whitening") < stages.index("match")
    assert "fit_whitening" not in plain.experiment.lineage("", "pixel-mtt", 1)["stages"]
    assert "fit_whitening" in whitened.experiment.shared_jobs("pixel-mtt")
    assert "fit_whitening" not in whitened.experiment.shared_jobs("random")
    assert whitened.experiment.about.dataset == "cifar10 (10 classes of 32 px, ZCA)"


def test_one_key_asks_for_the_accuracies_without_augmentation(data: Path) -> None:
    experiment = preset("cifar10")
    assert [protocol.label for protocol in experiment.evaluation.protocols] == ["dsa", "dsa+augment=False"]
    assert tabulate_statistics.Settings.of(experiment).plain == {"dsa": "dsa+augment=False"}
    with_it, without = (
        evaluate.Settings.of(experiment, "", "random", "1", "convnet3", label).recipe
        for label in ("dsa", "dsa+augment=False")
    )
    assert with_it.dsa == "color_crop_cutout_flip_scale_rotate"
    assert without == with_it.model_copy(update={"dsa": "", "augment": False})
    assert len(preset("cifar100").evaluation.protocols) == 1


def test_a_protocol_without_augmentation_has_none_to_leave_out(data: Path) -> None:
    with pytest.raises(ExperimentError, match=r"evaluation\.without_augmentation: protocol reference has no augm"):
        preset("cifar10", evaluation={"protocol": "reference"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"evaluation": {"protocol": "ld3m"}},
            "dataset.zca: fitted on images standardised as cifar10, and protocol ld3m",
        ),
        ({"evaluation": {"protocol": {"preset": "dsa", "size": 64}}}, "has size: 64; allowed: 32"),
        ({"matching": {"choose": "last", "protocol": "small"}}, "protocol small has normalize: half"),
    ],
)
def test_networks_that_would_see_other_images_are_refused_where_images_are_whitened(
    changes: dict[str, Any], words: str, data: Path
) -> None:
    with pytest.raises(ExperimentError) as refused:
        preset("cifar10", "zca-ipc1", **changes)
    assert words in str(refused.value)


def test_images_of_too_many_values_are_not_whitened(data: Path) -> None:
    with pytest.raises(ExperimentError, match=r"dataset\.zca: an image of 64 px has 12,288 values.*36 px here"):
        preset("tinyimagenet", dataset={**read("tinyimagenet")["dataset"], "zca": {}})


def test_test_images_that_are_held_out_have_the_filter_of_the_others() -> None:
    config = yaml.safe_load((PROJECT / "experiments/smoke.yaml").read_text("utf-8"))
    config["dataset"]["resample"] = {"test": "bilinear"}
    with pytest.raises(ExperimentError, match=r"dataset\.resample\.test: bilinear, but the test images are held out"):
        load(config)


SMOKE: dict[str, Any] = {
    "name": "x",
    "dataset": {
        "source": {"kind": "digits"},
        "resolution": 16,
        "channels": "grey",
        "holdout": {"fraction": 0.25},
        "zca": {},
    },
    "generators": {"dit": {}},
    "references": {"real": {"network": "convnet3"}},
    "methods": {"random": {"kind": "random"}},
    "ipc": [2],
    "evaluation": {"protocol": "ld3m", "networks": ["convnet3"]},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"methods": {"lgd": {"kind": "lgd", "generator": "dit", "reference": "real", "increment_size": 1}}},
            "dataset.zca: the networks of methods.lgd do not see whitened images",
        ),
        (
            {"analysis": {"redundancy": {"methods": ["random"], "increment_size": 1}}},
            "dataset.zca: the networks of analysis.redundancy do not see whitened images",
        ),
        (
            {
                "evaluation": {
                    "protocol": {"preset": "ld3m", "labels": "soft", "teacher": "real"},
                    "networks": ["convnet3"],
                }
            },
            "dataset.zca: a teacher cannot answer to whitened images",
        ),
        (
            {"references": {"real": {"network": "convnet3", "training": {"preset": "ld3m", "svhn_mean": True}}}},
            "references.real.training.svhn_mean: it learns from real images; allowed: false",
        ),
    ],
)
def test_what_is_not_whitened_or_not_generated_is_refused_by_its_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        load({**SMOKE, **changes})
    assert words in str(refused.value)
