"""Networks of timm: their names are understood or answered, and sides that they cannot take are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from clone import Clone
from tiny import job
from wildcards import Job as Wildcards

from distillery.errors import BadInput
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.plan.rules import checked
from distillery.stages import check_network
from distillery.students.foreign import network_fault
from distillery.students.names import (
    LEAST_TOKENS,
    OURS,
    TOKENS,
    cannot_compare,
    known_network,
    least_side,
    refused_side,
    timm_networks,
    timm_renamed,
    timm_tags,
    token_side,
)
from distillery.students.networks import Classifier, Domain

CLASSES = ["a", "b", "c"]


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k", "resnet50.tv_in1k"])
def test_a_network_with_the_tag_of_its_weights_is_known_and_built(name: str) -> None:
    assert known_network(name) == name
    with torch.device("meta"):
        classifier = Classifier(name, CLASSES, Domain(64, 1))
        assert classifier(torch.zeros(2, 1, 64, 64)).shape == (2, len(CLASSES))
    plain = name.partition(".")[0]
    assert (least_side(name), cannot_compare(name) is None) == (least_side(plain), cannot_compare(plain) is None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18.a9_in1k", r"timm knows no weights 'a9_in1k' of resnet18; allowed: resnet18 alone, or .*a1_in1k"),
        ("ssl_resnet18", r"timm has renamed ssl_resnet18: write resnet18\.fb_ssl_yfcc100m_ft_in1k$"),
        ("tf_efficientnet_b0_ns", r"write tf_efficientnet_b0\.ns_jft_in1k$"),
        ("ResNetAP10", r"unknown network 'ResNetAP10'; write resnet_ap10$"),
        ("ResNet-18", r"write resnet18$"),
        ("ConvNet3", r"write convnet3$"),
        ("timm/resnet18.a1_in1k", r"unknown network 'timm/resnet18.a1_in1k'; write resnet18$"),
        ("VGG11_IN", r"write vgg11_in$"),
    ],
)
def test_another_spelling_is_answered_with_the_same_network_alone(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        known_network(name)


@pytest.mark.parametrize("name", ["resnet18x", "resnet_ap18", "vit_tiny_patch16", "convnet0"])
def test_a_hint_is_a_network_and_not_the_word_that_was_typed(name: str) -> None:
    with pytest.raises(ValueError, match="unknown network") as refusal:
        known_network(name)
    hints = str(refusal.value).partition("; close: ")[2].split(", ")
    assert name not in hints
    assert [known_network(hint) for hint in hints] == hints


def test_tags_and_former_names_are_those_of_timm() -> None:
    assert set(timm_networks()) == set(timm.list_models())
    pretrained = [name for name in timm.list_pretrained() if "." in name]
    assert [known_network(name) for name in pretrained] == pretrained
    assert len({name.partition(".")[0] for name in pretrained} - timm_tags().keys()) < 20
    former = {name: new for name, new in timm.models.get_deprecated_models().items() if new}
    assert timm_renamed() == former


def test_none_of_them_needs_timm_or_torch() -> None:
    code = (
        "import sys; from distillery.students.names import *\n"
        "known_network('resnet18.a1_in1k'); refused_side('cait_s24_224', 16); timm_renamed()\n"
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- tokens ----------------------------------------------------------------------------------------------------------


def columnar() -> list[str]:
    """A small network of timm for each module and side of a token that the rule knows."""
    first: dict[tuple[str, int | None], str] = {}
    small = sorted(timm_networks(), key=lambda name: ("tiny" not in name and "small" not in name, len(name), name))
    for name in small:
        if timm_networks()[name] in TOKENS and name not in ("resmlp_big_24_224", "vit_base_mci_224"):
            first.setdefault((timm_networks()[name], token_side(name)), name)
    return [*sorted(first.values()), "resmlp_big_24_224", "vit_base_mci_224", "vit_tiny_r_s16_p8_224"]


@pytest.mark.parametrize("name", columnar())
def test_the_side_of_a_token_is_that_of_the_network(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    about = network.feature_info
    last = about[-1]["reduction"] if isinstance(about, list) else about.reduction()[-1]
    assert token_side(name) == last
    assert least_side(name) == 4 * last


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18", "convnext_atto", "pvt_v2_b0", "convnet3"])
def test_networks_that_halve_their_maps_have_no_such_side(name: str) -> None:
    assert token_side(name) is None
    assert bool(OURS.fullmatch(name)) == (name == "convnet3")


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("vit_tiny_patch16_224", 16, "16 pixels make 1 of them, and attention needs 16; take images of 64 or more"),
        ("vit_tiny_patch16_224", 48, "48 pixels make 9 of them, .*or a network of patches of 12 or fewer"),
        ("xcit_nano_12_p8_224", 16, "patches of 8 pixels: 16 pixels make 4 of them"),
        ("cait_xxs24_224", 32, "patches of 16 pixels: 32 pixels make 4 of them"),
        ("mixer_s32_224", 64, "patches of 32 pixels: 64 pixels make 4 of them"),
        ("vit_tiny_patch16_224.augreg_in21k", 32, "32 pixels make 4 of them"),
        ("vit_tiny_patch16_224", 40, "40 is no multiple of it, take 64"),
    ],
)
def test_a_transformer_of_few_tokens_is_refused_with_the_side_that_fits(name: str, side: int, words: str) -> None:
    refusal = refused_side(name, side)
    assert refusal is not None
    with pytest.raises(ValueError, match=words):
        Classifier(name, CLASSES, Domain(side, 3))
    assert refused_side(name, least_side(name)) is None


def test_a_transformer_is_built_at_the_least_side_with_so_many_tokens() -> None:
    name = "vit_tiny_patch16_224"
    with torch.device("meta"):
        network = Classifier(name, CLASSES, Domain(least_side(name), 3)).network
    assert network.patch_embed.num_patches == LEAST_TOKENS


# ---- sides, before anything is trained -------------------------------------------------------------------------------

OWN: dict[str, Any] = {
    "name": "own",
    "dataset": {"source": {"kind": "digits"}, "resolution": 64, "channels": "grey", "holdout": {"fraction": 0.5}},
    "generators": {},
    "methods": {"chance": {"kind": "random"}},
    "ipc": [3],
    "evaluation": {"networks": ["convnet1_w8", "resnet10t"]},
}


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("inception_v3", 64),
        ("coat_tiny", 48),
        ("crossvit_9_240", 64),
        ("efficientformer_l1", 64),
        ("vgg11", 16),
    ],
)
def test_a_network_that_cannot_take_the_side_is_told_by_building_it(name: str, side: int) -> None:
    why = network_fault(name, CLASSES, Domain(side, 3))
    assert why is not None and why.startswith(f"{name} cannot take images of {side} px: ") and "(timm: " in why


@pytest.mark.parametrize(
    ("name", "side"),
    [("resnet18.a1_in1k", 32), ("vit_tiny_patch16_224", 64), ("swin_tiny_patch4_window7_224", 64), ("pvt_v2_b0", 64)],
)
def test_a_network_that_takes_the_side_passes(name: str, side: int) -> None:
    assert network_fault(name, CLASSES, Domain(side, 1)) is None


def test_a_network_has_to_compare_and_to_have_features_where_it_is_asked_for_them() -> None:
    assert "has running statistics" in str(network_fault("resnet10t", CLASSES, Domain(32, 3), stateless=True))
    assert network_fault("convnext_atto", CLASSES, Domain(32, 3), stateless=True) is None
    assert network_fault("vit_tiny_patch16_224", CLASSES, Domain(64, 3), stateless=True) is None  # attention
    distilled = "deit_tiny_distilled_patch16_224"
    assert "does not end in one linear layer" in str(network_fault(distilled, CLASSES, Domain(64, 3), features=True))
    assert network_fault(distilled, CLASSES, Domain(64, 3)) is None


@pytest.mark.parametrize(
    ("network", "need", "words"),
    [
        ("vgg11", "trained", "vgg11 cannot take images of 16 px: .*; give another network, or another side"),
        ("resnet10t", "compared", "resnet10t has running statistics"),
        ("resnet10t", "trained", None),
        ("resnet10t", "features", None),
    ],
)
def test_the_stage_refuses_a_network_or_notes_it(network: str, need: str, words: str | None, tmp_path: Path) -> None:
    settings = check_network.Settings.of(load(OWN), foreign=network, side="16", need=need)
    assert (settings.channels, settings.classes) == (1, 10)
    out = tmp_path / "checked.csv"
    if words is None:
        check_network.run(settings, checked=out, job=job("check_network", settings))
        assert out.read_text("utf-8") == f"network,side,need\n{network},16,{need}\n"
        return
    with pytest.raises(BadInput, match=words):
        check_network.run(settings, checked=out, job=job("check_network", settings))
    assert not out.exists()


def test_every_stage_that_trains_asks_for_the_check_of_its_own_network() -> None:
    config = {**OWN, "evaluation": {"networks": ["resnet10t"], "protocol": {"preset": "small", "size": 32}}}
    config["references"] = {"real": {"network": "convnext_atto"}, "small": {"network": "convnet3"}}
    config["methods"] = {"dm": {"kind": "pixel", "objective": "distribution", "network": "convnext_atto", "ipc": None}}
    config["methods"]["dm"].pop("ipc")
    config["dataset"] = {**config["dataset"], "validation": {}}
    experiment = load(config)

    def files(stage: str, need: str = "trained", **wildcards: object) -> list[str]:
        return [Path(path).stem for path in checked(experiment, stage, need)(Wildcards(**wildcards))]

    method = {"method": "dm", "ipc": 3}
    assert files("train_reference", reference="real") == ["convnext_atto-64-trained"]
    assert files("train_reference", reference="small") == []
    protocol = experiment.evaluation.protocols[0].label
    assert files("evaluate", **method, network="resnet10t", protocol=protocol) == ["resnet10t-32-trained"]
    assert files("match", "compared", **method, shard=0) == ["convnext_atto-64-compared"]
    assert files("choose_snapshot", **method) == ["convnext_atto-32-trained"]
    features = Inputs(experiment).checked_features(Wildcards(reference="real"))
    assert features == ["<results>/networks/convnext_atto-64-features.csv"]


def planned(clone: Clone, networks: list[str]) -> Any:
    """What an experiment with these networks would run."""
    config = {**OWN, "evaluation": {"networks": networks}}
    (clone.folder / "experiments/own.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return clone.plan(experiment="experiments/own.yaml")


def test_networks_of_timm_are_checked_once_and_retrain_nothing(tmp_path: Path) -> None:
    """Outputs that are only touched stand for those of a finished run."""
    clone = Clone.of_project(tmp_path / "clone")
    assert "check_network" not in planned(clone, ["convnet1_w8"]).rules
    plan = planned(clone, ["convnet1_w8", "resnet10t"])
    assert plan.rules["check_network"] == 1
    file = "results/own/networks/resnet10t-64-trained.csv"
    assert {job.outputs[0].split("/")[-2] for job in plan.jobs if file in job.inputs} == {"resnet10t"}
    for output in plan.outputs:
        (clone.folder / output).parent.mkdir(parents=True, exist_ok=True)
        (clone.folder / output).touch()
    words = ("--touch", "--forceall", "--cores", "1", "--configfile", "experiments/own.yaml")
    touched = clone.run("snakemake", *words)
    assert touched.returncode == 0, touched.stdout
    assert planned(clone, ["convnet1_w8", "resnet10t"]).nothing
    plan = planned(clone, ["convnet1_w8", "resnet10t", "mobilenetv2_035"])
    trained = {output.split("/evaluation/")[1].split("/")[2] for output in plan.outputs if "/evaluation/" in output}
    assert (plan.rules["check_network"], trained) == (1, {"mobilenetv2_035"})
    assert not {"ingest", "select", "collect"} & set(plan.rules)


class Derivative(torch.autograd.Function):
    """The derivative of a kernel, which has none itself."""

    @staticmethod
    def forward(context: Any, gradient: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return gradient.clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        raise RuntimeError("the derivative of this kernel is not implemented")


class Kernel(torch.autograd.Function):
    """The identity, as a kernel that can be differentiated once."""

    @staticmethod
    def forward(context: Any, images: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(images)
        return images.clone()

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return Derivative.apply(gradients[0], *context.saved_tensors)


def test_a_network_without_a_second_derivative_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    built = timm.create_model

    def create(name: str, **options: Any) -> Any:
        network = built(name, **options)
        network.stem.register_forward_hook(lambda *seen: Kernel.apply(seen[-1]))
        return network

    assert network_fault("convnext_atto", CLASSES, Domain(32, 3), stateless=True) is None
    monkeypatch.setattr(timm, "create_model", create)
    fault = str(network_fault("convnext_atto", CLASSES, Domain(32, 3), stateless=True))
    assert fault == (
        "convnext_atto has no second derivative, by which gradients are compared: the derivative of this kernel is not "
        "implemented"
    )
    assert network_fault("convnext_atto", CLASSES, Domain(32, 3)) is None  # whoever only trains it needs none
