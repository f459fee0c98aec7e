"""The experiment file: each kind of mistake is refused with the path of its key and what is allowed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from clone import PROJECT, SMOKE

from distillery.data.identity import class_lists
from distillery.errors import ExperimentError
from distillery.guidance.base import GuidanceBlock
from distillery.guidance.deviation import Deviation
from distillery.guidance.influence import Influence
from distillery.guidance.learnability import Learnability
from distillery.guidance.mode import Mode
from distillery.methods.lgd import LGD
from distillery.plan.experiment import Experiment, schema
from distillery.plan.files import read_file
from distillery.plan.load import load
from distillery.settings import canonical
from distillery.stages import generate_increment, trace_sample, train_student

SCHEMA = PROJECT / "workflow/schemas/experiment.schema.json"
SHIPPED = [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("*.yaml"))]
STARTER = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))

Config = dict[str, Any]
Edit = Callable[[Config], object]
B = TypeVar("B", bound=GuidanceBlock)


def changed(edit: Edit) -> Config:
    """The smoke experiment with one change."""
    config = deepcopy(STARTER)
    edit(config)
    return config


def faults(edit: Edit) -> list[str]:
    """The lines that the change is refused with."""
    with pytest.raises(ExperimentError) as refused:
        load(changed(edit))
    return str(refused.value).splitlines()


def at(path: str, value: Any) -> Edit:
    """Set the value of a dotted key; blocks on the way are made."""

    def edit(config: Config) -> None:
        *blocks, last = path.split(".")
        for block in blocks:
            config = config.setdefault(block, {})
        config[last] = value

    return edit


def matched(**options: Any) -> Edit:
    """Add a method that optimises images, and validation images to choose a snapshot by."""

    def edit(config: Config) -> None:
        config["methods"]["dm"] = {"kind": "pixel", "objective": "distribution", **options}
        config["dataset"]["validation"] = {}

    return edit


def both(*edits: Edit) -> Edit:
    """Change one after another."""

    def edit(config: Config) -> None:
        for one in edits:
            one(config)

    return edit


SOFT = {"preset": "small", "labels": "soft", "teacher": "real"}
NETTE = {"dataset": "imagenette", "methods": {"dit": "DiT"}}


def without(path: str) -> Edit:
    """Leave a dotted key out."""

    def edit(config: Config) -> None:
        *blocks, last = path.split(".")
        for block in blocks:
            config = config[block]
        del config[last]

    return edit


def test_a_surrogate_of_other_classes_is_refused(tmp_path: Path) -> None:
    about = json.dumps({"classes": ["0", "1", "8"]})
    header = json.dumps({"__metadata__": {"about": about}}).encode()
    path = tmp_path / "checkpoints.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    edit = at("surrogates.conv", {"network": "convnet2_w8", "checkpoints": str(path)})
    assert faults(edit) == [
        "surrogates.conv.checkpoints: trained on the classes 0, 1, 8, but the data have 0, 1, 7;"
        " give one of these classes, or none to train it here"
    ]
    path.write_bytes(b"no tensors at all")
    assert "cannot be read (not a safetensors file)" in faults(edit)[0]


def test_a_surrogate_of_the_same_classes_by_other_names_is_taken(tmp_path: Path) -> None:
    about = json.dumps({"classes": ["n01440764", "n03028079"]})
    header = json.dumps({"__metadata__": {"about": about}}).encode()
    path = tmp_path / "checkpoints.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    for name in ("n01440764", "n03028079"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(9):
            (tmp_path / "pictures" / name / f"{number}.png").touch()

    def edit(config: Config) -> None:
        config["dataset"]["source"] = {"kind": "folder", "train": str(tmp_path / "pictures")}
        config["dataset"]["classes"] = ["church", "tench"]
        at("surrogates.conv", {"network": "convnet2_w8", "checkpoints": str(path)})(config)

    load(changed(edit))


def test_a_class_of_one_training_image_has_none_for_validation(tmp_path: Path) -> None:
    for name, count in (("a", 9), ("b", 1)):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                (tmp_path / part / name / f"{number}.png").touch()

    def edit(config: Config) -> None:
        source = {"kind": "folder", "train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
        config["dataset"].update(source=source, classes=["a", "b"], holdout=None, validation={})
        config["ipc"], config["analysis"] = [1], {}

    assert faults(edit) == [
        "dataset.validation: class 'b' has 1 image, and none is left to train on; give it more, or leave it out with"
        " dataset.classes"
    ]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_experiment_loads(file: Path) -> None:
    config = yaml.safe_load(file.read_text("utf-8"))
    source = config["dataset"]["source"]
    if source["kind"] != "digits" and not all(Path(path).exists() for path in _paths(source)):
        with pytest.raises(ExperimentError) as refused:
            load(config)
        assert all("no such f" in line for line in str(refused.value).splitlines())
    else:
        load(config)


def _paths(source: Config) -> list[str]:
    named = [source[split] for split in ("train", "test") if source.get(split)]
    return [path for paths in named for path in (paths if isinstance(paths, list) else [paths])]


# ---- one key ---------------------------------------------------------------------------------------------------------

ONE_KEY = {
    "a misspelt key of the top": (
        at("method", {}),
        "method: no such key; did you mean 'methods'?; allowed: analysis, autoencoder, dataset, evaluation, experts,"
        " generators, guidance_autoencoder, ipc, latents, limits, matching, methods, name, references, seeds,"
        " shared_models, surrogates, tracking, variant, variants",
    ),
    "a misspelt key in a block": (
        at("analysis.redundancy.student", 2),
        "analysis.redundancy.student: no such key; did you mean 'students'?; allowed: baseline, increment_size,"
        " ipc, methods, network, students",
    ),
    "a misspelt key of a method": (
        at("methods.dit.genrator", "dit"),
        "methods.dit.genrator: no such key; did you mean 'generator'?; allowed: generator, guidance, kind, shards,"
        " stream",
    ),
    "a misspelt key deep in a method": (
        at("methods.lgd.student.netwrk", "convnet2"),
        "methods.lgd.student.netwrk: no such key; did you mean 'networks'?; allowed: checkpoints, networks, protocol,",
    ),
    "a misspelt key of a generator": (
        at("generators.dit.sampling.guidance", 4),
        "generators.dit.sampling.guidance: no such key; did you mean 'guidance_scale'?; allowed: batch_size,"
        " cfg_channels, decoder_precision, guidance_scale, precision, solver, steps",
    ),
    "a key that resembles none": (at("dataset.source.q", 1), "dataset.source.q: no such key; allowed: kind"),
    "a missing block": (without("evaluation"), "evaluation: field required"),
    "a missing key of a method": (
        without("methods.lgd.reference"),
        "methods.lgd.reference: missing; allowed: one of references (real)",
    ),
    "a method without its generator": (
        without("methods.dit.generator"),
        "methods.dit.generator: missing; allowed: one of generators (dit)",
    ),
    "a network where there is none": (
        lambda e: (e["methods"].update(herding={"kind": "herding"}), e.pop("references")),
        "methods.herding.features: missing; allowed: one of references (none yet)",
    ),
    "a block that is empty": (
        at("methods.dit", None),
        "methods.dit: a block is wanted (given: None); kinds: best_of, external, real_by_learnability, lgd, ld3m",
    ),
    "a number for a block": (
        at("dataset.holdout", 0.2),
        "dataset.holdout: a block is wanted (given: 0.2); its keys: fraction, seed",
    ),
    "a key of another kind": (
        at("autoencoder", {"weights": "./vae"}),
        "autoencoder.weights: no key of kind train; it belongs to kind pretrained",
    ),
    "a key of another kind of method": (
        at("methods.dit.candidates", 3),
        "methods.dit.candidates: no key of kind plain; it belongs to kind lgd",
    ),
    "a name that YAML takes for yes": (
        at("methods.lgd.seed", True),
        "methods.lgd.seed: text is wanted (given: True); YAML reads on, off, yes and no as true and false",
    ),
    "a kind that does not exist": (
        at("methods.random.kind", "rndom"),
        "methods.random.kind: no kind 'rndom'; did you mean 'random'?; allowed: best_of, external, "
        "real_by_learnability, lgd, ld3m, autoencoder, pixel, idc, ",
    ),
    "a method without its kind": (
        without("methods.random.kind"),
        "methods.random.kind: missing; allowed: best_of, external, real_by_learnability, lgd, ld3m, autoencoder, "
        "pixel, idc, ",
    ),
    "a source without its kind": (
        without("dataset.source.kind"),
        "dataset.source.kind: missing; allowed: digits, folder, parquet",
    ),
    "a name with a blank": (
        at("methods.my method", {"kind": "random"}),
        "methods.my method: 'my method' is no name; allowed: letters, digits and _ . + -, a letter or a digit first",
    ),
    "a name that leaves the results": (
        at("name", "../elsewhere"),
        "name: '../elsewhere' is no name; allowed: letters, digits and _ . + -, a letter or a digit first",
    ),
    "a name that is a number": (at("name", 5), "name: input should be a valid string (given: 5)"),
    "a word for a number": (
        at("evaluation.protocol.learning_rate", "abc"),
        "evaluation.protocol.learning_rate: input should be a valid number or a valid dictionary (given: 'abc')",
    ),
    "text for a number": (
        at("evaluation.protocol.learning_rate", "5"),
        "evaluation.protocol.learning_rate: input should be a valid number or a valid dictionary (given: '5')",
    ),
    "text for a whole number": (at("ipc", ["2"]), "ipc[0]: input should be a valid integer (given: '2')"),
    "a broken number for a whole one": (
        at("evaluation.protocol.epochs", 10.5),
        "evaluation.protocol.epochs: input should be a valid integer or a valid dictionary (given: 10.5)",
    ),
    "yes for a whole number": (
        at("evaluation.protocol.epochs", True),
        "evaluation.protocol.epochs: input should be a valid integer or a valid dictionary (given: True)",
    ),
    "a number for yes or no": (
        at("evaluation.protocol.flip", 1),
        "evaluation.protocol.flip: input should be a valid boolean (given: 1)",
    ),
    "not a number": (
        at("evaluation.protocol.learning_rate", float("nan")),
        "evaluation.protocol.learning_rate: input should be a finite number or a valid dictionary (given: nan)",
    ),
    "one size without a list": (at("ipc", 2), "ipc: a list is wanted; write [2]"),
    "no size": (at("ipc", []), "ipc: list should have at least 1 item"),
    "no method": (at("methods", {}), "methods: dictionary should have at least 1 item"),
    "a size of zero": (at("ipc", [0]), "ipc[0]: input should be greater than or equal to 1 (given: 0)"),
    "a share above one": (
        at("dataset.holdout.fraction", 1.5),
        "dataset.holdout.fraction: input should be less than or equal to 1 (given: 1.5)",
    ),
    "a word that is no choice": (
        at("evaluation.protocol.optimizer", "adam"),
        "evaluation.protocol.optimizer: input should be 'adamw' or 'sgd' (given: 'adam')",
    ),
    "neither a number nor auto": (
        at("methods.lgd.guidance.learnability.strength", "automatic"),
        "methods.lgd.guidance.learnability.strength: input should be a valid number or 'auto' or a valid dictionary",
    ),
    "a negative number where auto is allowed": (
        at("methods.lgd.guidance.learnability.strength", -1),
        "methods.lgd.guidance.learnability.strength: input should be greater than or equal to 0 or 'auto' or a valid",
    ),
    "an element of a list": (
        at("methods.lgd.calibration.relative_strengths", [0.1, "a"]),
        "methods.lgd.calibration.relative_strengths[1]: input should be a valid number (given: 'a')",
    ),
    "a number as the name of a class": (
        at("dataset.classes", ["0", 1]),
        "dataset.classes[1]: input should be a valid string (given: 1)",
    ),
    "a reversed range": (
        at("methods.lgd.guidance.learnability.range", [6, 2]),
        "methods.lgd.guidance.learnability.range: the first index, 6, lies above the last, 2",
    ),
    "half a range": (
        at("methods.lgd.guidance.deviation.range", [2]),
        "methods.lgd.guidance.deviation.range: list should have at least 2",
    ),
    "a network that nobody knows": (
        at("evaluation.networks", ["convnet2_w8", "resnet_18"]),
        "evaluation.networks[1]: unknown network 'resnet_18'; write resnet18",
    ),
    "a memory smaller than one": (
        at("generators.dit.objective", {"kind": "minimax", "memory_size": 0}),
        "generators.dit.objective.memory_size: input should be greater than or equal to 1 (given: 0)",
    ),
    "a policy without a memory": (
        at("generators.dit.objective", {"kind": "plain", "policy_real": "max"}),
        "generators.dit.objective.policy_real: no key of kind plain; it belongs to kind minimax and memory",
    ),
    "classes that are counted where there are none": (
        at("generators.dit.objective", {"kind": "memory", "multiplicity": "cumulative", "reduction": "sample_mean"}),
        "generators.dit.objective: multiplicity: cumulative counts classes, and sample_mean has none; allowed: once",
    ),
    "an objective that nobody knows": (
        at("generators.dit.objective", "minmax"),
        "generators.dit.objective.kind: no kind 'minmax'; did you mean 'minimax'?; allowed: plain, minimax, memory",
    ),
    "a guidance where it stood before": (
        at("methods.lgd.learnability", {"strength": 1}),
        "methods.lgd.learnability: is called guidance.learnability now",
    ),
    "a speed by its former name": (
        at("evaluation.speed.together", 2),
        "evaluation.speed.together: is called networks_at_once now",
    ),
    "evaluations by their former name": (
        at("evaluation.protocol.looks", 2),
        "evaluation.protocol.looks: is called evaluations now",
    ),
    "the start of evaluations by its former name": (
        at("evaluation.protocol.looks_from", 0.5),
        "evaluation.protocol.looks_from: is called evaluations_from now",
    ),
    "a kind by its former name": (
        at("methods.other", {"kind": "given"}),
        "methods.other.kind: 'given' is called external now",
    ),
    "a former name where there was no such key": (
        at("methods.random.learnability", {"strength": 1}),
        "methods.random.learnability: no such key; allowed:",
    ),
    "a student by a former name": (
        at("methods.lgd.student.network", "convnet2_w8"),
        "methods.lgd.student.network: is called networks now",
    ),
    "one student that is no list": (
        at("methods.lgd.student.networks", "convnet2_w8"),
        "methods.lgd.student.networks: a list is wanted; write [convnet2_w8]",
    ),
    "a student twice": (
        at("methods.lgd.student.networks", ["convnet2_w8", "convnet3_w8", "convnet2_w8"]),
        "methods.lgd.student.networks: 'convnet2_w8' stands there more than once; give it once, and students: 2",
    ),
    "a student that is never trained to its end": (
        at("methods.lgd.student.checkpoints", [0.25, 0.5]),
        "methods.lgd.student.checkpoints: allowed: shares of the epochs in ascending order, the last of them 1",
    ),
    "checkpoints out of order": (
        at("methods.lgd.student.checkpoints", [0.5, 0.25, 1.0]),
        "methods.lgd.student.checkpoints: allowed: shares of the epochs in ascending order, the last of them 1",
    ),
    "a checkpoint before training": (
        at("methods.lgd.student.checkpoints", [0, 1]),
        "methods.lgd.student.checkpoints[0]: input should be greater than 0 (given: 0)",
    ),
    "a strength of no increment 2": (
        at("methods.lgd.guidance.learnability", {"strength": {3: 1.0, 5: 2.0}}),
        "methods.lgd.guidance.learnability.strength: the first increment is 3, so increment 2 has no strength",
    ),
    "a strength of some increments left to a pilot": (
        at("methods.lgd.guidance.learnability", {"strength": {2: 1.0, 3: "auto"}}),
        "methods.lgd.guidance.learnability.strength: 'auto' in a mapping: a pilot measures one strength; give numbers,",
    ),
    "a guidance that nobody knows": (
        at("methods.lgd.guidance.influense", {"surrogate": "conv"}),
        "methods.lgd.guidance.influense: no such key; did you mean 'influence'?; allowed: deviation, influence,",
    ),
    "influence of nobody": (
        at("methods.igd", {"kind": "igd", "generator": "dit"}),
        "methods.igd.guidance.influence.surrogate: missing; allowed: one of surrogates (none yet)",
    ),
    "no mode at all": (
        at("methods.lgd.guidance.mode", {"count": 0}),
        "methods.lgd.guidance.mode.count: input should be greater than or equal to 1 (given: 0)",
    ),
    "the network of a reference that nobody knows": (
        at("references.real.network", "convnet"),
        "references.real.network: unknown network 'convnet'; allowed: convnet1 to convnet9, resnet_ap10",
    ),
}


@pytest.mark.parametrize(("edit", "line"), ONE_KEY.values(), ids=ONE_KEY)
def test_a_wrong_key_or_value_is_refused_in_one_line(edit: Edit, line: str) -> None:
    found = faults(edit)
    assert len(found) == 1, found
    assert found[0].startswith(line)


def test_an_unknown_network_is_shown_what_comes_close() -> None:
    [line] = faults(at("evaluation.networks", ["resnet_81"]))
    assert "close: resnet" in line


def test_several_faults_are_reported_together() -> None:
    def edit(config: Config) -> None:
        at("ipc", ["2"])(config)
        at("seed", 1)(config)
        at("evaluation.protocol.epochs", 0)(config)

    assert {line.partition(":")[0] for line in faults(edit)} == {"ipc[0]", "seed", "evaluation.protocol.epochs"}


# ---- what goes together ----------------------------------------------------------------------------------------------

TOGETHER = {
    "a range beyond the sampling steps": (
        at("methods.lgd.guidance.learnability.range", [2, 8]),
        "methods.lgd.guidance.learnability.range: 8 lies beyond the 8 sampling steps of generators.dit.sampling.steps;"
        " allowed: 0 to 7",
    ),
    "another range beyond the sampling steps": (
        at("methods.lgd.guidance.deviation.range", [2, 45]),
        "methods.lgd.guidance.deviation.range: 45 lies beyond the 8 sampling steps of generators.dit.sampling.steps;"
        " allowed: 0 to 7",
    ),
    "a size between increments": (
        at("methods.lgd.increment_size", 2),
        "ipc: 1 is no multiple of the 2 images of methods.lgd.increment_size",
    ),
    "more images per class than there are": (
        at("ipc", [1, 2, 100]),
        "ipc: 100 images per class, but class '0' has 89 training images after those that are held out, and"
        " methods.random chooses among them; allowed: 1 to 89",
    ),
    "soft labels without a teacher": (
        at("evaluation.protocol", {"preset": "small", "labels": "soft"}),
        "evaluation.protocol.teacher: soft labels need a teacher; allowed: one of references (real)",
    ),
    "a teacher that is not there": (
        at("evaluation.protocol", {"preset": "small", "labels": "soft", "teacher": "ral"}),
        "evaluation.protocol.teacher: no reference 'ral'; references: real",
    ),
    "a teacher without anything to teach": (
        at("evaluation.protocol", {"preset": "small", "teacher": "real"}),
        "evaluation.protocol.teacher: labels are hard, so there is nothing to teach; leave it out, or set labels: soft",
    ),
    "one of several protocols without a teacher": (
        at("evaluation.protocol", ["small", {"preset": "rded", "size": 16}]),
        "evaluation.protocol[1].teacher: soft labels need a teacher; allowed: one of references (real)",
    ),
    "a protocol twice": (
        at("evaluation.protocol", ["small", {"preset": "small"}]),
        "evaluation.protocol: 'small' stands there more than once",
    ),
    "a student of LGD with soft labels of nobody": (
        at("methods.lgd.student.protocol", {"preset": "small", "labels": "soft"}),
        "methods.lgd.student.protocol.teacher: soft labels need a teacher; allowed: one of references (real)",
    ),
    "a student of LGD with a teacher of hard labels": (
        at("methods.lgd.student.protocol", {"preset": "small", "teacher": "real"}),
        "methods.lgd.student.protocol.teacher: labels are hard, so there is nothing to teach; leave it out, or set"
        " labels: soft",
    ),
    "a reference with soft labels": (
        at("references.real.training", {"labels": "soft"}),
        "references.real.training.labels: soft ones need a teacher, and this has none; allowed: hard",
    ),
    "no learning rate for the second network": (
        lambda e: e["evaluation"].update(
            networks=["convnet2_w8", "resnet10_in_w8"],
            protocol={"preset": "small", "learning_rate": {"convnet": 0.1}},
        ),
        "evaluation.protocol: learning_rate: no entry fits 'resnet10_in_w8', and there is no default",
    ),
    "no learning rate for a reference": (
        at("references.real.training", {"learning_rate": {"resnet": 0.1}}),
        "references.real.training: learning_rate: no entry fits 'convnet2_w8', and there is no default",
    ),
    "test images that are smaller than their crop": (
        at("evaluation.protocol", {"preset": "small", "size": 16, "test_scale": 0.9}),
        "evaluation.protocol.test_scale: input should be greater than or equal to 1 (given: 0.9)",
    ),
    "no learning rate for a network": (
        at("evaluation.protocol", {"preset": "small", "learning_rate": {"resnet": 0.1}}),
        "evaluation.protocol: learning_rate: no entry fits 'convnet2_w8', and there is no default",
    ),
    "a network that cannot take the size of the protocol": (
        lambda e: e["evaluation"].update(networks=["vit_ld3m"], protocol={"preset": "minimax", "size": 40}),
        "evaluation.networks[0]: vit_ld3m cuts the image into patches of 16 pixels: 40 is no multiple of it, take 32 or"
        " 48, but the size of protocol minimax+size=40 is 40",
    ),
    "features of a network that is not there": (
        at("methods.herding", {"kind": "herding", "features": "reel"}),
        "methods.herding.features: no reference 'reel'; references: real",
    ),
    "a baseline that is not there": (
        at("evaluation.baseline", "rndom"),
        "evaluation.baseline: no method 'rndom'; methods: lgd, dit, random, full",
    ),
    "published numbers of no such data": (
        at("analysis.published", {"dataset": "imagewof", "methods": {"dit": "DiT"}}),
        "analysis.published.dataset: nothing is published of 'imagewof'; did you mean 'imagewoof'?; allowed: a, a-e, b",
    ),
    "a published name that nothing has": (
        at("analysis.published", {"dataset": "imagewoof", "methods": {"dit": "Dit"}}),
        "analysis.published.methods.dit: of imagewoof nothing is published as 'Dit'; did you mean 'DiT'?; allowed: ",
    ),
    "outputs of weights for another number of classes": (
        at("references.real", {"network": "convnet2_w8", "weights": __file__, "rows": [0, 5]}),
        "references.real.rows: 2 outputs for 3 classes; allowed: one of each, in their order",
    ),
    "outputs of no weights": (
        at("references.real.rows", [0, 1, 2]),
        "references.real.rows: these are outputs of given weights, and this network is trained here; leave it out",
    ),
    "weights of timm for a network of ours": (
        at("references.real.weights", "timm"),
        "references.real.weights: timm has none for convnet2_w8; give a file, or leave it out to train it here",
    ),
    "published networks of a method without a published name": (
        at(
            "analysis.published",
            {"dataset": "imagenette", "methods": {"dit": "DiT"}, "networks": {"lgd": ["convnet2_w8"]}},
        ),
        "analysis.published.networks: 'lgd' has no published name in analysis.published.methods; allowed: dit",
    ),
    "a published network that is not trained": (
        at(
            "analysis.published",
            {"dataset": "imagenette", "methods": {"dit": "DiT"}, "networks": {"dit": ["convnet6"]}},
        ),
        "analysis.published.networks.dit: the evaluation has no 'convnet6'; allowed: convnet2_w8",
    ),
    "a published name for a method that is not there": (
        at("analysis.published", {"dataset": "imagenette", "methods": {"minimax": "Minimax"}}),
        "analysis.published.methods: no method 'minimax'; methods: lgd, dit, random, full",
    ),
    "a size twice": (at("ipc", [1, 2, 2]), "ipc: 2 stands there more than once"),
    "a seed twice": (at("seeds", [0, 1, 0]), "seeds: 0 stands there more than once"),
    "a network twice": (
        at("evaluation.networks", ["convnet2_w8", "convnet2_w8"]),
        "evaluation.networks: 'convnet2_w8' stands there more than once",
    ),
    "a class twice": (at("dataset.classes", ["0", "1", "0"]), "dataset.classes: '0' stands there more than once"),
    "a class that the data lack": (
        at("dataset.classes", ["0", "1", "seven"]),
        "dataset.classes: no class 'seven' in the data; there are: 0, 1, 2, 3",
    ),
    "many classes that the data lack": (
        at("dataset.classes", ["0", "1", *(f"n{number}" for number in range(50))]),
        "dataset.classes: 50 of 52 are not in the data, 'n0', 'n1', 'n2' among them; there are: 0, 1, 2, 3",
    ),
    "no generator of that name": (
        at("methods.dit.generator", "dlt"),
        "methods.dit.generator: no generator 'dlt'; generators: dit",
    ),
    "no generator at all for an LGD method": (
        at("methods.lgd.generator", "other"),
        "methods.lgd.generator: no generator 'other'; generators: dit",
    ),
    "no reference of that name": (
        at("methods.lgd.reference", "fake"),
        "methods.lgd.reference: no reference 'fake'; references: real",
    ),
    "no judge of that name": (
        at("methods.lgd.calibration.judge", "judge"),
        "methods.lgd.calibration.judge: no reference 'judge'; references: real",
    ),
    "a seed that is no method": (
        at("methods.lgd.seed", "herding"),
        "methods.lgd.seed: no method 'herding'; allowed: plain, guided, dit, random",
    ),
    "a seed that is an LGD method": (
        lambda e: e["methods"].update(other={**e["methods"]["lgd"], "seed": "lgd"}),
        "methods.other.seed: 'lgd' is an LGD method; allowed: plain, guided, or a method of another kind",
    ),
    "a guided first increment without a guidance": (
        lambda e: e["methods"]["lgd"].update(
            seed="guided", guidance={"learnability": {"strength": 1}, "deviation": None}
        ),
        "methods.lgd.seed: 'guided', but there is no guidance beside learnability; add one, or seed: plain",
    ),
    "a guided first increment without a guidance that acts": (
        lambda e: e["methods"]["lgd"].update(
            seed="guided",
            guidance={"learnability": {"strength": 1}, "deviation": {"strength": 0}, "mode": {"strength": 0}},
        ),
        "methods.lgd.seed: 'guided', but there is no guidance beside learnability; add one, or seed: plain",
    ),
    "a method by a word of seed": (
        lambda e: (e["methods"].update(guided={"kind": "random"}), e["methods"]["lgd"].update(seed="guided")),
        "methods.lgd.seed: 'guided' is a word of this key, and a method is named so too; rename it",
    ),
    "a pilot that the loop does not pay for": (
        at("methods.lgd.calibration.budget", 0.25),
        "methods.lgd.calibration.budget: 8 settings of 3 images are 24, and the budget is 0.25 of the 6 guided images"
        " of the loop; allowed: fewer images, a budget of at least 4, or a strength by hand",
    ),
    "a pilot that the loop pays for if it measures less": (
        at("methods.lgd.calibration.budget", 2),
        "methods.lgd.calibration.budget: 8 settings of 3 images are 24, and the budget is 2 of the 6 guided images of"
        " the loop; allowed: most_settings: 4, a budget of at least 4, or a strength by hand",
    ),
    "a pilot of more modes and weights than it may measure": (
        lambda e: e["methods"]["lgd"].update(
            guidance={"learnability": {"strength": "auto", "reference_weight": "auto"}, "mode": {}},
            calibration={"images": 3, "reference_weights": [1, 2, 3], "mode_stops": [1, 2], "budget": 4},
        ),
        "methods.lgd.calibration.most_settings: 8, and its grid needs 9; allowed: 9 or more",
    ),
    "too few images for one slot of candidates": (
        lambda e: e["methods"]["lgd"].update(candidates=4),
        "methods.lgd.calibration.images: 3 make no slot of 4 candidates; allowed: 6 or more",
    ),
    "an aim without validation images": (
        at("methods.lgd.calibration.aim", "accuracy"),
        "methods.lgd.calibration.aim: accuracy is that on validation images; add dataset.validation: {fraction: 0.2}",
    ),
    "stops of modes without modes": (
        at("methods.lgd.calibration.mode_stops", [1]),
        "methods.lgd.calibration.mode_strengths, mode_stops: the method has no guidance.mode; add it, or leave",
    ),
    "strengths of modes without modes": (
        at("methods.lgd.calibration.mode_strengths", [0.1]),
        "methods.lgd.calibration.mode_strengths, mode_stops: the method has no guidance.mode; add it, or leave",
    ),
    "a stop of modes beyond the steps": (
        lambda e: (
            at("methods.lgd.guidance.mode", {})(e),
            at("methods.lgd.calibration.mode_stops", [3, 7])(e),
            at("methods.lgd.calibration.budget", 9)(e),
        ),
        "methods.lgd.calibration.mode_stops: 7 leaves no sampling index above it; allowed: 0 to 6",
    ),
    "learnability where there is no student": (
        at("methods.dit.guidance", {"learnability": {"strength": 1}}),
        "methods.dit.guidance.learnability: asks the student of the increments before, and this kind of method makes no"
        " increments; leave it out, or take kind: lgd",
    ),
    "candidates without a score": (
        at("methods.lgd.guidance.learnability", None),
        "methods.lgd.guidance.learnability: candidates are scored with it; write {strength: 0} to switch it off",
    ),
    "nothing to calibrate": (
        at("methods.lgd.guidance.learnability", {"strength": 0, "reference_weight": "auto"}),
        "methods.lgd.guidance.learnability.reference_weight: nothing to calibrate at strength 0; give a number",
    ),
    "more jobs than classes": (
        at("methods.dit.shards", 4),
        "methods.dit.shards: 4 jobs for 3 classes; allowed: 1 to 3",
    ),
    "redundancy of no method": (
        at("analysis.redundancy.methods", ["dit", "igd"]),
        "analysis.redundancy: no method 'igd'; methods: lgd, dit, random",
    ),
    "a baseline that is no method": (
        at("analysis.redundancy.baseline", "igd"),
        "analysis.redundancy: no method 'igd'; methods: lgd, dit, random",
    ),
    "redundancy of parts of an increment": (
        lambda e: e.update(ipc=[1, 3], analysis={"redundancy": {"methods": ["dit"], "increment_size": 2}}),
        "analysis.redundancy.increment_size: 2 does not divide the largest of ipc, 3",
    ),
    "redundancy of one increment": (
        at("analysis.redundancy.increment_size", 2),
        "analysis.redundancy.increment_size: ipc 2 gives fewer than two increments; make it smaller",
    ),
    "redundancy of sets of one image": (
        lambda e: e.update(ipc=[1], analysis={"redundancy": {"methods": ["random"], "increment_size": 1}}),
        "analysis.redundancy.increment_size: ipc 1 gives fewer than two increments; leave analysis.redundancy.methods",
    ),
    "redundancy at a size that is not made": (
        at("analysis.redundancy.ipc", 5),
        "analysis.redundancy.ipc: no sets of 5 images per class are made; allowed: 1, 2",
    ),
    "redundancy of parts that do not fit the stated size": (
        lambda e: e.update(ipc=[1, 3, 4], analysis={"redundancy": {"methods": ["dit"], "ipc": 3, "increment_size": 2}}),
        "analysis.redundancy.increment_size: 2 does not divide the 3 of analysis.redundancy.ipc",
    ),
    "neighbours by a network that is none": (
        at("analysis.neighbours", {"features": "reel"}),
        "analysis.neighbours.features: no reference 'reel'; references: real",
    ),
    "neighbours at a size that is not made": (
        at("analysis.neighbours", {"features": "real", "ipc": 50}),
        "analysis.neighbours.ipc: no sets of 50 images per class are made; allowed: 1, 2",
    ),
    "a path of no method": (
        at("analysis.path", {"methods": ["igd"]}),
        "analysis.path.methods: no method 'igd'; methods with guidance: lgd",
    ),
    "a path without guidance": (
        at("analysis.path", {"methods": ["dit"]}),
        "analysis.path.methods: 'dit' has no guidance, and one path alone; methods with guidance: lgd",
    ),
    "a path of guidances that are off": (
        lambda e: (
            e["methods"]["lgd"].update(guidance={"learnability": {"strength": 0}, "deviation": {"strength": 0}}),
            e["analysis"].update(path={"methods": ["lgd"]}),
        ),
        "analysis.path.methods: 'lgd' has no guidance, and one path alone; leave analysis.path out",
    ),
    "a path of real images": (
        at("analysis.path", {"methods": ["random"]}),
        "analysis.path.methods: 'random' has no guidance, and one path alone; methods with guidance: lgd",
    ),
    "a path of one increment": (
        lambda e: e.update(ipc=[1], analysis={"path": {"methods": ["lgd"]}}),
        "analysis.path.methods: 'lgd' has one increment, which nothing guides; add a larger ipc",
    ),
    "a path of a class that is none": (
        at("analysis.path", {"methods": ["lgd"], "classes": ["zero"]}),
        "analysis.path.classes: no class 'zero'; allowed: 0, 1, 7",
    ),
    "a front without redundancy": (
        at("analysis", {"front": True}),
        "analysis.front: needs analysis.redundancy.methods and analysis.redundancy.baseline",
    ),
    "no test images": (
        without("dataset.holdout"),
        "dataset.holdout: needed, because the source has no test images; for instance {fraction: 0.25}",
    ),
    "all images for the test": (
        at("dataset.holdout.fraction", 1.0),
        "dataset.holdout.fraction: 1.0 leaves no image on one side; allowed: between 0 and 1",
    ),
    "no images for the test": (
        at("dataset.holdout.fraction", 0.0),
        "dataset.holdout.fraction: 0.0 leaves no image on one side; allowed: between 0 and 1",
    ),
    "all training images for validation": (
        at("dataset.validation", {"fraction": 1.0}),
        "dataset.validation.fraction: 1.0 leaves no image on one side; allowed: between 0 and 1",
    ),
    "no training images for validation": (
        at("dataset.validation", {"fraction": 0.0}),
        "dataset.validation.fraction: 0.0 leaves no image on one side; allowed: between 0 and 1",
    ),
    "tests on validation images that there are not": (
        at("evaluation.split", "validation"),
        "evaluation.split: networks are to be tested on validation images, which the data set lacks; give"
        " dataset.validation, for instance {fraction: 0.1}, or set test here",
    ),
    "published accuracies beside those of validation images": (
        lambda e: (
            at("dataset.validation", {})(e),
            at("evaluation.split", "validation")(e),
            at("analysis.published", {"dataset": "imagenette", "methods": {"random": "random"}})(e),
        ),
        "analysis.published: published accuracies are of test images; leave it out, or set evaluation.split: test",
    ),
    "more images than validation leaves to choose among": (
        lambda e: (e.update(ipc=[60], analysis={}), at("dataset.validation", {"fraction": 0.5})(e)),
        "ipc: 60 images per class, but class '0' has 44 training images after those that are held out, and"
        " methods.random chooses among them; allowed: 1 to 44",
    ),
    "a side that does not halve": (
        at("dataset.resolution", 17),
        "autoencoder.block_out_channels: 2 blocks halve the side 1 times, but dataset.resolution is 17;"
        " allowed: a multiple of 2",
    ),
    "latents that fall into no patches": (
        at("generators.dit.patch_size", 3),
        "generators.dit.patch_size: 3 does not divide the 8 x 8 latents",
    ),
    "channels without a place for sines and cosines": (
        lambda e: e["generators"]["dit"].update(num_attention_heads=3, attention_head_dim=6),
        "generators.dit.attention_head_dim: 3 heads of 6 make 18 channels; allowed: a multiple of 4",
    ),
    "guidance of channels that are not there": (
        at("generators.dit.sampling.cfg_channels", 5),
        "generators.dit.sampling.cfg_channels: 5 of 4 channels; allowed: 1 to 4, all or auto",
    ),
    "a base that is not there": (
        at("generators.tuned", {"kind": "finetune", "base": "dlt"}),
        "generators.tuned.base: no generator 'dlt'; generators: dit",
    ),
    "a base that leads back": (
        lambda e: e["generators"].update(
            a={"kind": "finetune", "base": "b"},
            b={"kind": "finetune", "base": "dit"},
            c={"kind": "finetune", "base": "c"},
        ),
        "generators.c.base: c -> c ends nowhere",
    ),
    "mirrors that are not encoded": (
        at("generators.dit.flip", True),
        "generators.dit.flip: there are no mirrors; set latents.mirrored: true",
    ),
    "test images by a name where there are none": (
        at("dataset.test_names", "val_"),
        "dataset.test_names: the source has no test images of its own; leave it out",
    ),
    "a network with dropout that compares": (
        matched(network="vit_ld3m"),
        "methods.dm.network: vit_ld3m has running statistics or dropout, and gradients of one network are compared;",
    ),
    "a network with batch norm that compares": (
        matched(network="resnet18"),
        "methods.dm.network: resnet18 has running statistics or dropout, and gradients of one network are compared;",
    ),
    "one of our networks with batch norm that compares": (
        matched(network="convnet3_bn_w32"),
        "methods.dm.network: convnet3_bn_w32 has running statistics or dropout, and gradients of one network are",
    ),
    "a network that compares, at the side at which snapshots are chosen": (
        lambda e: (
            matched(network="convnet4")(e),
            e.update(matching={"protocol": {"preset": "small", "size": 8}}),
        ),
        "methods.dm.network: convnet4 halves the image 4 times: 8 pixels are too few, it takes 16 or more, but the size"
        " of protocol small+size=8 is 8",
    ),
    "a teacher of snapshots": (
        lambda e: (
            matched()(e),
            e.update(matching={"protocol": "rded"}),
        ),
        "matching.protocol: snapshots are compared with hard labels, and rded has soft ones; give another protocol"
        " here, or choose: last",
    ),
    "a protocol of snapshots that does not know its network": (
        lambda e: (
            matched()(e),
            e.update(matching={"protocol": {"preset": "small", "learning_rate": {"resnet": 0.1}}}),
        ),
        "matching.protocol: learning_rate: no entry fits 'convnet2', and there is no default",
    ),
    "snapshots to choose among and no validation images": (
        at("methods.dm", {"kind": "pixel", "objective": "distribution"}),
        "matching.choose: the best snapshot is chosen on validation images, which the data set lacks; give"
        " dataset.validation, for instance {fraction: 0.1}, or set last here",
    ),
    "a share that is held out to choose a snapshot": (
        at("matching.holdout", 0.1),
        "matching.holdout: is gone: snapshots are chosen on the images of dataset.validation, for instance"
        " {fraction: 0.1}",
    ),
    "weights of a reference that are not there": (
        at("references.real.weights", "weights/none.safetensors"),
        "references.real.weights: weights/none.safetensors: no such file; give a safetensors file, or timm, or leave it"
        " out to train the network here",
    ),
    "a batch that does not divide": (
        lambda e: e["generators"]["dit"].update(accumulate=5, processes=2),
        "generators.dit.batch_size: 32 images for 2 processes of 5 passes each; allowed: a multiple of 10",
    ),
    "a perceptual term without its network": (
        at("autoencoder.perceptual", {"reference": "vgg"}),
        "autoencoder.perceptual.reference: no reference 'vgg'; references: real",
    ),
    "weights in a folder that is not there": (
        at("generators.big", {"kind": "pretrained", "weights": "./no/such/folder"}),
        f"generators.big.weights: ./no/such/folder: no such folder (a relative one starts at {Path.cwd()}); give a"
        " folder in the layout of diffusers, or a name on the Hugging Face hub",
    ),
    "a class list that is not known": (
        at("dataset.classes", "imagenete"),
        "dataset.classes: no class list 'imagenete'; did you mean 'imagenette'?; allowed: names of classes, or one of"
        f" {', '.join(class_lists())}",
    ),
    "a network too deep for the images": (
        at("evaluation.networks", ["convnet5_w8"]),
        "evaluation.networks[0]: convnet5 halves the image 5 times: 16 pixels are too few,"
        " it takes 32 or more, but dataset.resolution is 16",
    ),
    "a reference too deep for the images": (
        at("references.real.network", "convnet5"),
        "references.real.network: convnet5 halves the image 5 times: 16 pixels are too few,"
        " it takes 32 or more, but dataset.resolution is 16",
    ),
    "a student too deep for the images": (
        at("methods.lgd.student.networks", ["convnet6"]),
        "methods.lgd.student.networks[0]: convnet6 halves the image 6 times: 16 pixels are too few,"
        " it takes 64 or more, but dataset.resolution is 16",
    ),
    "checkpoints at one epoch": (
        at("methods.lgd.student.checkpoints", [0.5, 0.52, 1.0]),
        "methods.lgd.student.checkpoints: of the 10 epochs at increment 1, two of the shares 0.5, 0.52, 1 are the same",
    ),
    "a weight for a pilot, and a strength by increment": (
        at("methods.lgd.guidance.learnability", {"strength": {2: 1.0}, "reference_weight": "auto"}),
        "methods.lgd.guidance.learnability.reference_weight: a pilot measures one strength, and strength is a mapping;",
    ),
    "modes for a pilot, and a strength by increment": (
        both(
            at("methods.lgd.guidance", {"learnability": {"strength": {2: 1.0}}, "mode": {}}),
            at("methods.lgd.calibration.mode_stops", [1, 3]),
        ),
        "methods.lgd.calibration.mode_strengths, mode_stops: a pilot measures one strength, and guidance.learnability.",
    ),
    "a teacher of two students that is not there": (
        at(
            "methods.lgd.student",
            {"networks": ["convnet2_w8", "convnet1_w8"], "protocol": {**SOFT, "teacher": "ral"}},
        ),
        "methods.lgd.student.protocol.teacher: no reference 'ral'; references: real",
    ),
    "a judge of redundancy too deep for the images": (
        at("analysis.redundancy.network", "convnet9"),
        "analysis.redundancy.network: convnet9 halves the image 9 times: 16 pixels are too few,"
        " it takes 512 or more, but dataset.resolution is 16",
    ),
    "more modes than images": (
        at("methods.modes", {"kind": "mgd3", "generator": "dit", "guidance": {"mode": {"count": 90}}}),
        "methods.modes.guidance.mode.count: 90 modes, but class '0' has 89 training images, and a mode needs one of its"
        " own; allowed: 1 to 89",
    ),
    "modes that stop before they start": (
        at("methods.modes", {"kind": "mgd3", "generator": "dit", "guidance": {"mode": {"stop": 7}}}),
        "methods.modes.guidance.mode.stop: 7 leaves no index above it in the 8 sampling steps of generators.dit."
        "sampling.steps; allowed: 0 to 6, or strength: 0",
    ),
    "modes of more than the latents": (
        at("methods.lgd.guidance.mode", {"pool": 9}),
        "methods.lgd.guidance.mode.pool: 9 is more than the side of the latents; allowed: 1 to 8",
    ),
    "a step again of a solver that remembers": (
        lambda e: (
            e["generators"]["dit"]["sampling"].update(solver="dpm"),
            e.update(surrogates={"conv": {"network": "convnet2_w8"}}),
            e["methods"]["lgd"].update(guidance={"influence": {"surrogate": "conv", "repeats": 2}}),
        ),
        "methods.lgd.guidance.influence.repeats: 2, but generators.dit.sampling.solver: dpm remembers its steps and"
        " cannot take one again; allowed: 1, or another solver",
    ),
    "a surrogate that is not there": (
        at("methods.igd", {"kind": "igd", "generator": "dit", "guidance": {"influence": {"surrogate": "conv"}}}),
        "methods.igd.guidance.influence.surrogate: no surrogate 'conv'; surrogates: none",
    ),
    "a file of a surrogate that is not there": (
        at("surrogates.conv", {"network": "convnet2_w8", "checkpoints": "nowhere.safetensors"}),
        "surrogates.conv.checkpoints: 'nowhere.safetensors' cannot be read ([Errno 2] No such file or directory:"
        " 'nowhere.safetensors'); give a file of train_surrogate",
    ),
    "a checkpoint that no surrogate has": (
        at("surrogates.conv", {"network": "convnet2_w8", "training": {"epochs": 5}, "keep": [0, 6]}),
        "surrogates.conv.keep: no checkpoint 6; allowed: 0 (before training) to 5",
    ),
    "a surrogate with soft labels": (
        at("surrogates.conv", {"network": "convnet2_w8", "training": {"labels": "soft"}}),
        "surrogates.conv.training.labels: soft ones need a teacher, and this has none; allowed: hard",
    ),
    "a guided method without its generator": (
        at("methods.modes", {"kind": "mgd3", "generator": "dti"}),
        "methods.modes.generator: no generator 'dti'; generators: dit",
    ),
    "real images by the learnability of nobody": (
        at("methods.control", {"kind": "real_by_learnability", "reference": "reel", "increment_size": 1}),
        "methods.control.reference: no reference 'reel'; references: real",
    ),
    "coverage by features of nobody": (
        at("analysis.coverage", {"features": "reel"}),
        "analysis.coverage.features: no reference 'reel'; references: real",
    ),
    "memories in several processes": (
        at("generators.tuned", {"kind": "finetune", "base": "dit", "processes": 2, "objective": "memory"}),
        "generators.tuned: processes: 2 would have memories of their own, and memory has one; allowed: 1",
    ),
}


@pytest.mark.parametrize(("edit", "line"), TOGETHER.values(), ids=TOGETHER)
def test_what_contradicts_is_refused_in_one_line(edit: Edit, line: str) -> None:
    found = faults(edit)
    assert len(found) == 1, found
    assert found[0].startswith(line)


def test_contradictions_are_reported_together() -> None:
    def edit(config: Config) -> None:
        at("methods.dit.generator", "none")(config)
        at("seeds", [1, 1])(config)
        del config["dataset"]["holdout"]

    assert [line.partition(":")[0] for line in faults(edit)] == ["dataset.holdout", "seeds", "methods.dit.generator"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"kind": "folder", "train": "nowhere"}, "dataset.source.train: nowhere: no such folder; give the folder"),
        ({"kind": "parquet", "train": ["no.parquet"]}, "dataset.source.train: no.parquet: no such file; give the path"),
    ],
)
def test_data_that_are_not_there_are_named_once(source: Config, words: str) -> None:
    [line] = faults(at("dataset.source", source))
    assert line.startswith(words)


def folders(root: Path, **images: int) -> str:
    """A folder of class folders with so many (empty) files in each."""
    for name, count in images.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").touch()
    return str(root)


def of_folder(**source: Any) -> Edit:
    def edit(config: Config) -> None:
        config["dataset"].update(source={"kind": "folder", **source})
        del config["dataset"]["classes"]
        if "test" in source:
            del config["dataset"]["holdout"]

    return edit


def test_a_folder_of_splits_is_no_folder_of_classes(tmp_path: Path) -> None:
    train = folders(tmp_path / "all", train=1, Val=1)
    assert faults(of_folder(train=train)) == [
        f"dataset.source.train: {train}: holds the folders Val, train, which would be its classes; give {train}/train"
    ]
    assert load(changed(of_folder(train=folders(tmp_path / "vehicles", train=4, tram=4)))).classes == 2


def test_images_are_not_tested_on_what_they_are_trained_on(tmp_path: Path) -> None:
    train = folders(tmp_path / "all", a=3, b=3)
    (tmp_path / "link").symlink_to(train)
    [line] = faults(of_folder(train=train, test=str(tmp_path / "link")))
    assert line.startswith(f"dataset.source.test: {tmp_path / 'link'}: the folder of train; give another one")


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    train = folders(tmp_path / "all", a=3, b=0)
    assert faults(of_folder(train=train)) == [
        "dataset.source.train: class 'b' has no image; give it some, or leave it out with dataset.classes"
    ]


def test_a_home_folder_has_to_be_written_out() -> None:
    [line] = faults(of_folder(train="~/pictures"))
    assert "no such folder" in line and "~ does not stand for the home folder" in line


def test_weights_in_the_folder_of_weights_are_no_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [line] = faults(at("autoencoder", {"kind": "pretrained", "weights": "weights/vae"}))
    assert line.startswith("autoencoder.weights: weights/vae: no such folder (a relative one starts at")


def test_keys_that_stand_twice_are_named_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    text = """
methods:
  lgd: &lgd {kind: lgd, seed: plain}
  other: {<<: *lgd, seed: dit}
  list: [{a: 1}, {a: 1, b: 2, a: 3}]
  again: *lgd
  lgd: {kind: lgd}
"""
    file.write_text(text, "utf-8")
    with pytest.raises(ExperimentError) as refused:
        read_file(file)
    assert sorted(str(refused.value).splitlines()) == [
        f"{file}: methods.lgd: stands there 2 times, in lines 3, 7; give each a name of its own",
        f"{file}: methods.list[1].a: stands there 2 times, in lines 5, 5; give each a name of its own",
    ]
    file.write_text('{\n\t"a": 1}', "utf-8")  # JSON, and no YAML
    assert read_file(file) == {"a": 1}


def test_a_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()

    def edit(config: Config) -> None:
        config["dataset"].update(source={"kind": "folder", "train": str(tmp_path)})
        del config["dataset"]["classes"]

    assert faults(edit) == ["dataset.source.train: holds one class, 'only'; at least two are needed"]


def test_test_images_stand_in_one_place(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("0", "1", "7"):
            (tmp_path / part / name).mkdir(parents=True)
    source = {"kind": "folder", "train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    assert faults(at("dataset.source", source)) == [
        "dataset.holdout: the source has test images of its own; leave out one of the two"
    ]


def test_a_parquet_file_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    pq.write_table(pa.table({"image": [b""], "kind": [0]}), file)
    [line] = faults(at("dataset.source", {"kind": "parquet", "train": [str(file)]}))
    assert line.startswith("dataset.source.label_column: ")
    assert "has no column 'label'; it has: 'image', 'kind'" in line


# ---- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), ("2E-4", 2e-4), ("1.e-5", 1e-5), ("3e+1", 30.0)])
def test_a_number_that_yaml_takes_for_text_is_a_number(text: str, value: float) -> None:
    config = changed(at("evaluation.protocol.learning_rate", yaml.safe_load(text)))
    assert load(config).evaluation.protocol.learning_rate == value


def test_a_whole_number_is_a_number() -> None:
    one, other = (load(changed(at("generators.dit.sampling.guidance_scale", value))) for value in (2, 2.0))
    assert canonical(one) == canonical(other)


def test_a_method_may_start_from_real_images() -> None:
    assert load(changed(at("methods.lgd.seed", "random"))).methods["lgd"].seed == "random"


def test_the_least_budget_that_is_named_is_enough() -> None:
    load(changed(at("methods.lgd.calibration.budget", 4)))


def test_a_pilot_whose_images_nobody_sets_is_within_its_budget_or_small() -> None:
    experiment = load(changed(at("methods.lgd.calibration", {"budget": 0.01})))
    assert experiment.method_of("lgd", LGD).pilot_images(experiment.ipc, experiment.classes) == 20


def test_only_a_method_that_calibrates_needs_a_budget() -> None:
    def edit(config: Config) -> None:
        at("methods.lgd.calibration.budget", 0.01)(config)
        at("methods.lgd.guidance.learnability", {"strength": 1})(config)

    load(changed(edit))
    load(
        changed(
            lambda config: (at("methods.lgd.calibration.budget", 0.01)(config), config.update(ipc=[1], analysis={}))
        )
    )


def test_the_last_stop_that_is_named_is_taken() -> None:
    def edit(config: Config) -> None:
        at("methods.lgd.guidance.mode", {})(config)
        at("methods.lgd.calibration.mode_stops", [0, 6])(config)
        at("methods.lgd.calibration.budget", 9)(config)

    assert load(changed(edit)).method_of("lgd", LGD).calibrates


@pytest.mark.parametrize(("seed", "names"), [("plain", []), ("random", []), ("guided", ["mode", "deviation"])])
def test_a_first_increment_has_guidances_only_where_its_seed_says_so(seed: str, names: list[str]) -> None:
    lgd = with_guidance({**STARTER["methods"]["lgd"], "seed": seed}, mode={})
    experiment = load(changed(lambda config: config["methods"].update(lgd=lgd)))
    assert [*experiment.increment_guidance("lgd", 1).present()] == names
    assert [*experiment.increment_guidance("lgd", 2).present()] == ["learnability", "mode", "deviation"]


def strengths(**learnability: Any) -> list[float | str]:
    """The strengths in the settings of increments 2 to 5."""
    edit = at("methods.lgd.guidance.learnability", {"reference_weight": 1.0, **learnability})
    experiment = load(changed(edit))
    found = [generate_increment.Settings.of(experiment, "", "lgd", str(k), "0") for k in range(2, 6)]
    return [json.loads(canonical(one))["guidance"]["learnability"]["strength"] for one in found]


def test_an_increment_has_the_strength_of_the_last_key_up_to_it() -> None:
    assert strengths(strength={2: 4.0, 4: 2.0}) == [4.0, 4.0, 2.0, 2.0]
    assert strengths(strength={1: 4.0, 3: 0, 5: 1}) == [4.0, 0.0, 0.0, 1.0]
    assert strengths(strength={"2": 4.0, "4": 2.0}) == [4.0, 4.0, 2.0, 2.0]  # as JSON has keys
    assert strengths(strength=4.0) == strengths(strength={2: 4.0}) == [4.0] * 4


def test_the_strength_of_a_later_increment_changes_no_earlier_one() -> None:
    one, other = ({"strength": {2: 4.0, 4: last}, "reference_weight": 1.0} for last in (2.0, 1.0))
    experiments = [load(changed(at("methods.lgd.guidance.learnability", each))) for each in (one, other)]
    for k, equal in (("1", True), ("2", True), ("3", True), ("4", False)):
        texts = {canonical(generate_increment.Settings.of(each, "", "lgd", k, "0")) for each in experiments}
        assert (len(texts) == 1) == equal


def test_a_strength_by_increment_survives_the_resolved_file() -> None:
    learnability = {"strength": {2: 4.0, 4: 2.0}, "reference_weight": 1.0}
    experiment = load(changed(at("methods.lgd.guidance.learnability", learnability)))
    again = load(yaml.safe_load(yaml.safe_dump(experiment.resolved)))
    assert again.guidance("lgd").get(Learnability) == experiment.resolved_guidance("lgd").get(Learnability)


def test_a_path_has_the_strength_of_its_increment() -> None:
    experiment = load(
        changed(
            both(
                at("methods.lgd.guidance.learnability", {"strength": {1: 4.0, 2: 2.0}, "reference_weight": 1.0}),
                at("analysis.path", {"methods": ["lgd"]}),
            )
        )
    )
    learnability = trace_sample.Settings.of(experiment, "", "lgd").guidance.get(Learnability)
    assert learnability is not None and learnability.strength == 2.0


def test_students_are_those_of_the_experiment_in_its_order() -> None:
    edit = at("methods.lgd.student", {"networks": ["convnet1_w8", "convnet2_w8"], "students": 2})
    experiment = load(changed(both(edit, at("methods.lgd.student.checkpoints", [0.1, 0.5, 1.0]))))
    settings = train_student.Settings.of(experiment, "", "lgd", "1")
    names = [(one.network, one.number) for one in settings.others]
    assert settings.network == "convnet1_w8"
    assert names == [("convnet1_w8", 1), ("convnet2_w8", 0), ("convnet2_w8", 1)]
    epochs = settings.recipe.epochs
    assert settings.checkpoints == [epochs // 10, epochs // 2]


def test_a_deep_network_goes_with_large_images() -> None:
    def edit(config: Config) -> None:
        at("evaluation.networks", ["convnet5_w8", "resnet18"])(config)
        at("dataset.resolution", 32)(config)

    assert load(changed(edit)).evaluation.networks == ["convnet5_w8", "resnet18"]


VARIANTS: Config = {"same": {}, "two": {"name": "two", "dataset": {"classes": ["1", "7"]}, "ipc": [4]}}


def test_a_variant_is_merged_deep_into_its_file() -> None:
    def by_hand(config: Config) -> None:
        config.update(name="two", ipc=[4])
        config["dataset"]["classes"] = ["1", "7"]

    file = changed(at("variants", VARIANTS))
    assert canonical(load({**file, "variant": "two"})) == canonical(load(changed(by_hand)))
    assert canonical(load({**file, "variant": "same"})) == canonical(load(STARTER))
    assert load(file).name == STARTER["name"]  # none is chosen: the file as it stands


def test_a_variant_takes_a_block_away() -> None:
    published = {"dataset": "imagenette", "methods": {"dit": "DiT"}}
    file = changed(lambda e: (at("analysis.published", published)(e), at("variants.own.analysis.published", None)(e)))
    assert load(file).analysis.published is not None
    assert load({**file, "variant": "own"}).analysis.published is None


def test_a_variant_that_is_not_there_is_refused() -> None:
    assert faults(lambda e: e.update(variants=VARIANTS, variant="tow")) == [
        "variant: no variant 'tow'; did you mean 'two'?; allowed: same, two"
    ]
    assert faults(at("variant", "two")) == ["variant: no variant 'two'; allowed: none"]
    assert faults(lambda e: e.update(variants={"two": 3}, variant="two"))[0].startswith("variants.two: ")


def test_an_experiment_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(STARTER).name = "other"  # type: ignore[misc]


def guided(steps: int = 50, **methods: Any) -> Any:
    """The smoke experiment at two sizes with a surrogate and these methods."""

    def edit(config: Config) -> None:
        config["surrogates"] = {"conv": {"network": "convnet2_w8"}}
        config["generators"]["dit"]["sampling"]["steps"] = steps
        config["methods"].update(methods)

    return load(changed(edit))


IGD = {"kind": "igd", "generator": "dit", "guidance": {"influence": {"surrogate": "conv"}}}
MGD3 = {"kind": "mgd3", "generator": "dit"}


def with_guidance(method: Config, **blocks: Any) -> Config:
    """A method with further guidances."""
    return {**method, "guidance": {**method.get("guidance", {}), **blocks}}


def resolved(experiment: Experiment, method: str, kind: type[B]) -> B:
    """The settings of one guidance of a method, with indices in place of defaults."""
    block = experiment.resolved_guidance(method).get(kind)
    assert block is not None
    return block


def test_every_kind_of_method_has_its_published_guidances() -> None:
    experiment = guided(igd=IGD, mgd3=MGD3)
    present = {name: [*experiment.guidance(name).present()] for name in ("dit", "lgd", "igd", "mgd3", "random")}
    assert present == {
        "dit": [],
        "lgd": ["learnability", "deviation"],
        "igd": ["influence", "deviation"],
        "mgd3": ["mode"],
        "random": [],
    }


def test_guided_methods_have_the_published_indices_and_strengths() -> None:
    experiment = guided(igd=IGD, mgd3=with_guidance(MGD3, deviation={}))
    assert resolved(experiment, "igd", Influence).range == [30, 45]
    deviation = resolved(experiment, "igd", Deviation)
    assert (deviation.range, deviation.capacity, deviation.published_strength) == ([30, 45], 64, 120)
    mode = resolved(experiment, "mgd3", Mode)
    assert (mode.strength, mode.stop) == (0.1, 25)
    deviation = resolved(experiment, "mgd3", Deviation)
    assert (deviation.range, deviation.capacity, deviation.published_strength) == ([26, 49], None, 50)


def test_what_the_file_says_of_a_guidance_stands_over_what_is_published_key_by_key() -> None:
    experiment = guided(
        on=with_guidance(IGD, deviation={"on": "xt"}),
        all=with_guidance(IGD, deviation={"capacity": None}),
        without=with_guidance(IGD, deviation=None),
        joined=with_guidance(IGD, mode={}),
    )
    deviation = {name: experiment.guidance(name).get(Deviation) for name in ("on", "all", "without", "joined")}
    published = Deviation(capacity=64, published_strength=120.0)
    assert deviation == {
        "on": published.model_copy(update={"on": "xt"}),
        "all": published.model_copy(update={"capacity": None}),
        "without": None,
        "joined": published,
    }
    assert [*experiment.guidance("joined").present()] == ["influence", "mode", "deviation"]


def test_modes_steer_one_step_at_least() -> None:
    for steps, stop in (8, 4), (3, 1), (2, 0):
        assert resolved(guided(steps, mgd3=MGD3), "mgd3", Mode).stop == stop


def test_every_size_has_modes_of_its_own_unless_their_number_is_said() -> None:
    lgd = with_guidance(STARTER["methods"]["lgd"], mode={})
    experiment = guided(one=MGD3, fixed=with_guidance(MGD3, mode={"count": 5}), lgd=lgd)
    assert [experiment.methods[name].nested for name in ("one", "fixed", "lgd", "dit")] == [False, True, True, True]
    assert [experiment.modes("one", ipc) for ipc in (1, 2)] == [1, 2]
    assert [experiment.modes("fixed", ipc) for ipc in (1, 2)] == [5, 5]
    assert [experiment.modes("lgd", ipc) for ipc in (1, 2)] == [2, 2]


def test_an_objective_may_be_named_alone() -> None:
    tuned = {"kind": "finetune", "base": "dit", "trainable": "full", "objective": "memory"}
    experiment = load(changed(at("generators.tuned", tuned)))
    objective = experiment.generators["tuned"].objective
    assert objective.kind == "memory" and (objective.policy_real, objective.policy_generated) == ("max", "max")


def test_a_mode_for_each_of_more_images_than_there_are_is_refused() -> None:
    found = faults(
        lambda e: (e["methods"].update(modes={"kind": "mgd3", "generator": "dit"}), e.update(ipc=[90], analysis={}))
    )
    assert found[0] == (
        "ipc: 90 images per class are as many modes for methods.modes, but class '0' has 89 training images, and a mode"
        " needs one of its own; allowed: 1 to 89, or a methods.modes.guidance.mode.count"
    )


def test_a_batch_in_pieces_has_no_memory() -> None:
    tuned = {"kind": "finetune", "base": "dit", "trainable": "full", "objective": "memory", "accumulate": 2}
    assert (
        "accumulate: 2 passes would be as many steps of the memories of memory" in faults(at("generators.t", tuned))[0]
    )
    assert load(changed(at("generators.t", {**tuned, "objective": "plain"}))).generators["t"].accumulate == 2


def test_the_range_follows_the_steps() -> None:
    unset = Learnability()
    assert unset.guided_range(50) == [10, 45]
    assert unset.guided_range(8) == [2, 7]
    assert Learnability(range=[0, 3]).guided_range(8) == [0, 3]
    assert all(0 <= first <= last < steps for steps in range(2, 200) for first, last in [unset.guided_range(steps)])


def test_deviation_takes_the_range_of_learnability() -> None:
    experiment = load(changed(at("methods.lgd.guidance.learnability.range", [1, 4])))
    assert resolved(experiment, "lgd", Learnability).range == resolved(experiment, "lgd", Deviation).range == [1, 4]


def test_deviation_alone_has_the_range_of_learnability() -> None:
    experiment = guided(alone=with_guidance(STARTER["methods"]["dit"], deviation={}))
    assert resolved(experiment, "alone", Deviation).range == [10, 45]


def test_the_first_seed_runs_at_the_top_and_others_below() -> None:
    experiment = load(changed(at("seeds", [3, 0, 7])))
    assert [experiment.run(seed) for seed in experiment.seeds] == ["", "seed-0/", "seed-7/"]
    assert [experiment.seed(experiment.run(seed)) for seed in experiment.seeds] == [3, 0, 7]


def test_a_size_adds_to_the_next_smaller_one() -> None:
    experiment = load(changed(at("ipc", [10, 2, 5])))
    assert [experiment.smaller(ipc) for ipc in (2, 5, 10)] == [0, 2, 5]
    assert experiment.methods["lgd"].increments(experiment.ipc) == 10


def test_methods_of_one_stream_share_their_noise() -> None:
    experiment = load(changed(at("methods.lgd.stream", "dit")))
    assert experiment.stream("lgd") == experiment.stream("dit") == "dit"
    assert experiment.stream("random") == "random"


# ---- the schema ------------------------------------------------------------------------------------------------------


def test_the_schema_is_that_of_the_models() -> None:
    """If this fails: `make schema`."""
    assert SCHEMA.read_text("utf-8") == json.dumps(schema(), indent=2, sort_keys=True) + "\n"


def test_the_schema_prints_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distillery.plan.experiment"], capture_output=True, text=True, check=True
    )
    assert done.stdout == SCHEMA.read_text("utf-8")


class Editor(yaml.SafeLoader):
    """YAML 1.2, as editors read it: `1e-3` is a number."""


Editor.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+$"), list("+-0123456789")
)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """The schema, which takes a second to look through."""
    schema = json.loads(SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_experiment_fits_the_schema(file: Path, validator: jsonschema.Draft202012Validator) -> None:
    validator.validate(yaml.load(file.read_text("utf-8"), Editor))


@pytest.mark.parametrize(
    "edit",
    [
        at("method", {}),
        at("ipc", ["2"]),
        at("methods.dit.kind", "plan"),
        at("evaluation.protocol.epochs", 0),
        at("evaluation.protocol.weight_decay", -1),
    ],
)
def test_the_schema_refuses_what_an_editor_can_see(edit: Edit, validator: jsonschema.Draft202012Validator) -> None:
    config = yaml.load((PROJECT / SMOKE).read_text("utf-8"), Editor)
    edit(config)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(config)


# ---- the rows that every table has -----------------------------------------------------------------------------------


def test_random_and_full_data_are_rows_of_every_table() -> None:
    experiment = load(changed(lambda e: e["methods"].pop("random")))
    assert {name: method.kind for name, method in experiment.methods.items()}.items() >= {
        ("random", "random"),
        ("full", "full"),
    }
    assert experiment.methods["full"].sizes(experiment.ipc) == ["full"]


def test_an_own_random_method_stands_in_and_full_data_may_be_left_out() -> None:
    experiment = load(
        changed(
            lambda e: (e["methods"].update(chance=e["methods"].pop("random")), at("evaluation.full_data", False)(e))
        )
    )
    assert sorted(method.kind for method in experiment.methods.values()) == ["lgd", "plain", "random"]


def test_a_name_that_is_taken_gets_an_addition() -> None:
    experiment = load(changed(lambda e: e["methods"].update(random={"kind": "plain", "generator": "dit"})))
    assert experiment.methods["random-real"].kind == "random"


def test_one_protocol_or_several_are_asked_for_by_their_label() -> None:
    several = load(changed(at("evaluation.protocol", ["small", {"preset": "small", "epochs": 5}])))
    assert [protocol.label for protocol in several.evaluation.protocols] == ["small", "small+epochs=5"]
    assert several.recipe(several.evaluation.labelled("small+epochs=5"), "convnet2", 10).epochs == 5
    one = load(changed(at("evaluation.protocol", "small")))
    assert [protocol.label for protocol in one.evaluation.protocols] == ["small"]
