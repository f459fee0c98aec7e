"""What surely cannot fit is refused at planning: memory, time and disk are estimated from below."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from clone import PROJECT
from edits import changed, faults, put
from snakemake.utils import update_config
from torch import nn

from distillery.counts import Counts
from distillery.diffusion.autoencoder import from_diffusers
from distillery.diffusion.counts import autoencoder_counts, transformer_counts
from distillery.diffusion.denoiser import build_transformer
from distillery.diffusion.settings import Pretrained
from distillery.errors import ExperimentError
from distillery.plan.check_limits import GB, Machine, check_limits, machine_memory, refuse_here
from distillery.plan.estimate import estimates
from distillery.plan.experiment import Experiment
from distillery.plan.load import load
from distillery.students.counts import network_counts
from distillery.students.networks import Classifier, Domain

DIT = "generators.dit"
XL = {f"{DIT}.num_layers": 28, f"{DIT}.num_attention_heads": 16, f"{DIT}.attention_head_dim": 72}
STORED = {"preset": "small", "labels": "soft", "teacher": "real", "soft_labels": "stored", "epochs": 100_000}
YEARS = {"preset": "small", "epochs": 100_000}

TOO_MUCH: dict[str, tuple[dict[str, Any], str, str]] = {
    "a batch of a generator": (
        {**XL, "dataset.resolution": 256, f"{DIT}.batch_size": 65_536},
        f"{DIT}.batch_size: train_generator takes ",
        "memory_gb",
    ),
    "a batch of an autoencoder": (
        {"dataset.resolution": 256, "autoencoder.block_out_channels": [1024, 512], "autoencoder.batch_size": 8192},
        "autoencoder.batch_size: train_autoencoder takes ",
        "memory_gb",
    ),
    "a batch of a network": (
        {
            "dataset.resolution": 256,
            "references.real": {"network": "resnet18_cifar_in_w2048", "training": {"batch_size": 256}},
        },
        "references.real.training.batch_size: train_reference takes ",
        "memory_gb",
    ),
    "steps of a generator": (
        {**XL, "dataset.resolution": 512, f"{DIT}.steps": 10_000_000, f"{DIT}.batch_size": 256},
        f"{DIT}.steps: train_generator takes ",
        "hours",
    ),
    "students and epochs": (
        {
            "dataset.resolution": 256,
            "evaluation": {"protocol": YEARS, "networks": ["resnet18_cifar_in_w128"], "students": 1000},
        },
        "evaluation.protocol.epochs: evaluate takes ",
        "hours",
    ),
    "more students than epochs": (
        {
            "dataset.resolution": 256,
            "evaluation": {"protocol": {**YEARS, "epochs": 900}, "networks": ["resnet18_cifar_in"], "students": 1000},
            "limits.hours": 1,
        },
        "evaluation.students: evaluate takes ",
        "hours",
    ),
    "epochs of a reference": (
        {"references.real.training.epochs": 100_000, "limits.hours": 24, "limits.teraflops": 0.0001},
        "references.real.training.epochs: train_reference takes ",
        "hours",
    ),
    "states of a surrogate": (
        {"surrogates.wide": {"network": "resnet18_in_w512", "training": {"epochs": 1000}}},
        "surrogates.wide.training.epochs: train_surrogate takes ",
        "memory_gb",
    ),
    "trajectories in memory": (
        {"experts.wide": {"network": "resnet18_in_w512", "per_shard": 100, "epochs": 10}},
        "experts.wide.per_shard: train_experts takes ",
        "memory_gb",
    ),
    "trajectories on the disk": (
        {"experts.many": {"network": "resnet18_in", "count": 10_000, "per_shard": 10, "epochs": 50}},
        "experts.many.count: its files take ",
        "disk_gb",
    ),
    "stored labels": (
        {"evaluation.protocol": STORED, "limits.disk_gb": 0.1},
        "evaluation.protocol.soft_labels: its files take ",
        "disk_gb",
    ),
    "snapshots": (
        {
            "dataset.resolution": 64,
            "methods.dm": {"kind": "pixel", "objective": "distribution", "iterations": 10_000_000},
            "matching": {"every": 1, "choose": "last"},
        },
        "matching.every: match takes ",
        "memory_gb",
    ),
}


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_too_much_is_refused_in_one_line_with_key_estimate_limit_and_way_out(kind: str) -> None:
    settings, words, limit = TOO_MUCH[kind]
    start = time.monotonic()
    lines = faults(*(put(key, value) for key, value in settings.items()))
    assert time.monotonic() - start < 5
    assert len(lines) == 1, lines
    assert lines[0].startswith(words) and lines[0].endswith(f"or raise limits.{limit}"), lines


# ---- nobody is refused wrongly ---------------------------------------------------------------------------------------

DIT_XL = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "patch_size": 2, "sample_size": 32}
AUTOENCODER = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "in_channels": 3}
SMALL_MACHINE = Machine(memory=16e9, disk=60e9)


def shipped() -> list[str]:
    """Every experiment file, with each choice that it offers."""
    names = []
    for path in [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("*.yaml"))]:
        variants = yaml.safe_load(path.read_text("utf-8")).get("variants", {})
        names += [f"{path.relative_to(PROJECT)} {variant}".strip() for variant in variants or [""]]
    return names


def of_full_size(name: str, monkeypatch: pytest.MonkeyPatch, **blocks: Any) -> Experiment:
    """An experiment with DiT-XL and as many images as ImageNet has, none of which are here."""
    monkeypatch.setattr(Pretrained, "config", lambda self, part=None: DIT_XL if "DiT" in self.weights else AUTOENCODER)
    file, _, variant = name.partition(" ")
    config = yaml.safe_load((PROJECT / file).read_text("utf-8"))
    update_config(config, config.pop("variants", {}).get(variant, {}))
    experiment = Experiment.model_validate({**config, **blocks})
    if experiment.dataset.source.kind != "digits":
        names = experiment.dataset.classes or ["a", "b"]
        experiment.__dict__.update(classes=len(names), training_sizes=dict.fromkeys(names, 1300))
    return experiment


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_experiment_fits_a_small_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = of_full_size(name, monkeypatch)
    assert list(check_limits(experiment, SMALL_MACHINE)) == []
    assert any(estimate.memory for estimate in estimates(experiment))


def test_terabytes_of_stored_labels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = {"preset": "rded", "teacher": "teacher", "soft_labels": "stored", "epochs": 3000}
    evaluation = {"protocol": protocol, "networks": ["resnet18"]}
    methods = {"full": {"kind": "full"}}
    experiment = of_full_size("experiments/imagenet1k.yaml", monkeypatch, evaluation=evaluation, methods=methods)
    lines = list(check_limits(experiment))
    assert len(lines) == 1
    assert lines[0].startswith("evaluation.protocol.soft_labels: its files take 7.8 TB of the disk at least")


# ---- counts ----------------------------------------------------------------------------------------------------------


def counted(network: nn.Module, *inputs: Any, **options: Any) -> Counts:
    """What convolutions and matrices of a network hold and do for one image."""
    products, kept = [], []

    def note(module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        vectors = output[0].numel() / (module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)
        products.append(module.weight.numel() * vectors)
        kept.append(arguments[0][0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    with torch.no_grad():
        network(*inputs, **options)
    return Counts(sum(value.numel() for value in network.parameters()), sum(products), sum(kept))


def below(estimated: Counts, real: Counts, least: float) -> bool:
    """Whether each count is at most the real one, and not far below."""
    pairs = zip(vars(estimated).values(), vars(real).values(), strict=True)
    return all(least * true <= guess <= true for guess, true in pairs)


@pytest.mark.parametrize("side", [32, 96, 160])
@pytest.mark.parametrize(
    "name",
    [
        "convnet3_w16",
        "convnet4_bn_w8",
        "resnet_ap10_w8",
        "resnet10_in_w8",
        "resnet18_in_w8",
        "resnet18_cifar_in_w8",
        "alexnet_small",
        "vgg11_in",
        "vit_ld3m",
    ],
)
def test_counts_of_networks_are_lower_bounds(name: str, side: int) -> None:
    network = Classifier(name, [str(label) for label in range(10)], Domain(side, 3)).network
    assert below(network_counts(name, side, 3, 10), counted(network, torch.zeros(1, 3, side, side)), 0.35)


def test_of_networks_of_timm_nothing_is_known() -> None:
    assert network_counts("resnet18", 224, 3, 1000) == Counts()


def test_counts_of_a_transformer_are_a_lower_bound() -> None:
    model = build_transformer(classes=10, channels=4, size=8, layers=3, heads=3, head_dim=32, patch_size=2)
    real = counted(model, torch.zeros(1, 4, 8, 8), timestep=torch.tensor([3]), class_labels=torch.tensor([1]))
    attention = Counts(0.0, 3 * 2.0 * 16**2 * 96, 3 * 3.0 * 16 * 96)  # between its matrices
    assert below(transformer_counts(3, 96, 16), real + attention, 0.7)


@pytest.mark.parametrize(("widths", "layers"), [([16, 32], 1), ([32, 16, 16], 2), ([8], 1)])
def test_counts_of_an_autoencoder_are_lower_bounds(widths: list[int], layers: int) -> None:
    model = from_diffusers("AutoencoderKL")(
        in_channels=3,
        out_channels=3,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        norm_num_groups=8,
    )
    real = counted(model, torch.zeros(1, 3, 32, 32))
    assert below(autoencoder_counts(widths, layers, 3, 32), real, 0.2)


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_stated_limits_hold_and_raise_those_of_the_machine() -> None:
    config = changed(put("limits", {"memory_gb": 1e-4}))
    with pytest.raises(ExperimentError, match=r"limits\.memory_gb is 0\.1 MB; lower it, or raise limits\.memory_gb"):
        load(config)
    tiny = Machine(memory=1e5, name="this machine has")
    assert "this machine has 0.1 MB" in next(check_limits(load(changed(put("limits", {}))), tiny))
    assert not list(check_limits(load(changed(put("limits", {"memory_gb": 16}))), tiny))


def test_jobs_that_are_done_or_run_elsewhere_are_not_compared_with_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillery.plan.check_limits.machine_memory", lambda: 1e5)
    monkeypatch.setattr("distillery.plan.check_limits.visible_cards", lambda: [])
    experiment = load(changed(put("limits", {})))
    refuse_here(experiment, [], tmp_path)
    refuse_here(experiment, ["tabulate_accuracy"], tmp_path)
    with pytest.raises(ExperimentError, match="train_generator takes"):
        refuse_here(experiment, ["train_generator"], tmp_path)
    monkeypatch.setattr("distillery.plan.check_limits.visible_cards", lambda: ["0"])
    refuse_here(experiment, ["train_generator"], tmp_path)


def test_the_disk_counts_with_what_a_run_has_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latents").write_bytes(bytes(5000))
    usage = json.loads('{"free": 1000}')
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), usage))
    assert Machine.here(tmp_path).disk == 6000
    assert Machine.here(tmp_path / "absent").disk == 1000


def test_a_machine_has_some_memory() -> None:
    assert GB / 2 < machine_memory() < 1e15


def test_students_are_trained_one_after_another_in_one_job() -> None:
    """Two of each architecture take twice what one of each takes; a network at a time is in memory."""
    student, names = "methods.lgd.student", ["convnet2_w8", "convnet2_w16"]

    def trained(networks: list[str], students: int) -> list[Any]:
        edits = {f"{student}.networks": networks, f"{student}.students": students}
        experiment = load(changed(lambda config: [put(key, value)(config) for key, value in edits.items()]))
        return [estimate for estimate in estimates(experiment) if estimate.stage == "train_student"]

    alone = [trained([name], 1)[0] for name in names]
    both = trained(names, 2)
    assert {each.operations for each in both} == {2 * sum(each.operations for each in alone)}
    assert {each.steps for each in both} == {2 * sum(each.steps for each in alone)}
    assert [each.memory for each in both] == [each.memory for each in alone]
    assert alone[0].operations < alone[1].operations
