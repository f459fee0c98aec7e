"""The presets in `experiments/`: each loads where its data and weights are, and says what to get where they are not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import Clone
from preset_folder import EXPERIMENTS, other_stand_ins, preset, stand_ins
from rule_files import RESOURCES
from timing import least_seconds
from wildcards import Job

from distillery.data.identity import class_list_called
from distillery.diffusion.generators import PretrainedGenerator
from distillery.diffusion.settings import TransformerShape
from distillery.errors import ExperimentError
from distillery.methods.matching import LD3M
from distillery.plan import estimate
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.plan.targets import figures
from distillery.report.published import NETWORKS, read_published
from distillery.stages import compare_published, measure_redundancy, train_student


def variants(path: Path) -> list[str]:
    """A file, or every choice that it offers: `ld3m`, or `ld3m a`, `ld3m b`, …"""
    chosen = yaml.safe_load(path.read_text("utf-8")).get("variants", {})
    return [f"{path.stem} {variant}" for variant in chosen] or [path.stem]


IMAGENET = [
    name
    for path in sorted(EXPERIMENTS.glob("*.yaml"))
    if "data/imagenet/train" in path.read_text("utf-8")
    for name in variants(path)
]
SIZES = {"imagenet1k": 1000, "imagenet100": 100}
"""Classes of a preset with this in its name; of the others, ten."""

PLAN_RATIO, PLAN_BYTES = 4.0, 500 * 2**20
"""Most processor time of a plan of ImageNet-1K, in that of a plan of the default; and most memory."""

GENERATING_JOBS, SAMPLING_JOBS = 50, 20
"""Of ImageNet-1K, for each size: of a method with gradients, and of one without."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the stand-ins."""
    clone = Clone.of_project(tmp_path_factory.mktemp("presets") / "clone")
    stand_ins(clone.folder)
    other_stand_ins(clone.folder)
    return clone.folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory is the copy."""
    monkeypatch.chdir(place)
    yield place


def merged(name: str) -> dict[str, Any]:
    """A preset with its choice merged in: blocks in two depths, which weights lie in."""
    config = preset(name)
    change = config["variants"][config["variant"]] if "variant" in config else {}
    blocks = {key: {**config.get(key, {}), **change.get(key, {})} for key in ("autoencoder", "generators")}
    return {**config, **blocks}


@pytest.mark.parametrize("name", IMAGENET)
def test_a_preset_loads_with_its_data_and_weights(name: str, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "imagenet1k-rded":  # crops 200 images of a class, and stand-ins of 1,000 classes have 50
        monkeypatch.setattr(Experiment, "training_sizes", property(lambda self: dict.fromkeys(self.class_names, 1300)))
    experiment = load(preset(name))
    assert experiment.classes == next((size for text, size in SIZES.items() if text in name), 10)


SMALL = {"cifar10", "cifar100", "tinyimagenet"}
"""Files with stand-ins of their own: tests/plan/test_small_sets.py."""

OTHERS = [
    name
    for path in sorted(EXPERIMENTS.glob("*.yaml"))
    for name in variants(path)
    if name not in IMAGENET and path.stem not in SMALL
]


@pytest.mark.parametrize("name", OTHERS)
def test_an_experiment_file_loads_where_its_data_is_or_asks_for_weights_alone(name: str, inside: Path) -> None:
    try:
        assert load(preset(name)).methods
    except ExperimentError as error:
        for line in str(error).splitlines():
            assert re.match(r"[\w.-]+\.weights: \S+: no such folder", line), line


@pytest.mark.parametrize("name", ["imagenette", "imagewoof"])
def test_redundancy_is_that_of_the_published_figure(name: str, inside: Path) -> None:
    """Figure 2 of arXiv 2604.00519: five increments at 50 images per class, whatever larger sets there are."""
    experiment = load(preset(name))
    for method, cut in (("dit", "slots"), ("igd", "random"), ("lgd", "slots")):
        settings = measure_redundancy.Settings.of(experiment, "", method)
        assert (settings.ipc, settings.increment_size, settings.network) == (50, 10, "convnet6")
        assert settings.recipe.optimizer == "adamw" and settings.students == 3
        assert settings.cut == cut
        assert Inputs(experiment).redundancy_images(Job(method=method)).endswith(f"distilled/{method}/ipc50.parquet")


@pytest.mark.parametrize("name", ["imagenette", "imagewoof"])
def test_sets_of_the_published_resnet_columns_have_students_of_resnet_ap10(name: str, inside: Path) -> None:
    experiment = load(preset(name))
    published = experiment.analysis.published
    assert published is not None and published.methods["lgd"] == published.methods["lgd-resnet_ap10"] == "LGD"
    assert published.networks == {"lgd": ["convnet6"], "lgd-resnet_ap10": ["resnet_ap10", "resnet18_in"]}
    for method, network in (("lgd", "convnet6"), ("lgd-resnet_ap10", "resnet_ap10")):
        student = train_student.Settings.of(experiment, "", method, "1")
        assert (student.network, student.recipe.labels, student.recipe.optimizer) == (network, "hard", "adamw")


def test_every_student_is_tested_with_every_network_in_the_table_across_architectures(inside: Path) -> None:
    for name, students in (("imagenette-cross", 3), ("digits-cross", 2)):
        experiment = load(preset(name))
        networks = experiment.evaluation.networks
        trained = [experiment.student_networks(method) for method in experiment.made_by("generate_increment")]
        assert sorted(trained) == sorted([network] for network in networks) and len(trained) == students


def test_the_published_loop_on_imagenet_1k_begins_with_igd_and_learns_soft_labels(inside: Path) -> None:
    experiment = load(preset("imagenet1k"))
    student = train_student.Settings.of(experiment, "", "lgd", "1")
    assert (student.recipe.labels, student.recipe.teacher, student.network) == ("soft", "teacher", "resnet18")
    inputs = Inputs(experiment)
    assert inputs.student_teacher(Job(method="lgd", k=1)) == ["<results>/reference/teacher.safetensors"]
    assert inputs.seed_images(Job(method="lgd", k=1, shard=0)) == ["<results>/distilled/igd/ipc10.parquet"]


def cells(name: str, method: str, protocol: str) -> set[tuple[str, str]]:
    """Size and network of each published number that a method of a preset answers."""
    experiment = load(preset(name))
    published = experiment.analysis.published
    protocols = compare_published.Settings.of(experiment).protocols
    labels = [each.label for each in experiment.evaluation.protocols]
    assert published is not None and protocol in [protocols.get(label, label) for label in labels]
    names = {NETWORKS[protocol][network] for network in experiment.evaluation.networks}
    table = read_published()
    rows = table[(table["dataset"] == published.dataset) & (table["method"] == published.methods[method])]
    rows = rows[(rows["protocol"] == protocol) & rows["network"].isin(names)]
    return {(ipc, network) for ipc, network in zip(rows["ipc"], rows["network"], strict=True)} & {
        (str(ipc), network) for ipc in experiment.ipc for network in names
    }


@pytest.mark.parametrize(
    ("name", "method", "protocol", "count"),
    [
        ("imagenette", "mgd3", "minimax", 3),
        ("imagenette", "minimax", "minimax", 3),
        ("imageidc", "mgd3", "minimax", 3),
        ("imagewoof", "mgd3-tuned", "minimax", 15),
        ("imagenet1k", "igd", "rded", 2),
        ("imagenet1k", "mgd3", "rded", 4),
        ("imagenet1k", "minimax", "rded", 2),
        ("imagenet1k", "minimax-igd", "rded", 2),
        ("imagenet1k", "lgd", "rded", 1),
    ],
)
def test_a_method_answers_its_published_cells(name: str, method: str, protocol: str, count: int, inside: Path) -> None:
    assert len(cells(name, method, protocol)) == count


LISTS = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(("side", "steps", "network", "latent"), [(128, 10, "convnet5", 32), (256, 20, "convnet6", 64)])
@pytest.mark.parametrize("variant", LISTS)
def test_published_rows_of_ld3m_are_those_of_the_published_generator(
    variant: str, side: int, steps: int, network: str, latent: int, inside: Path
) -> None:
    experiment = load(preset(f"ld3m {variant}" if side == 128 else f"ld3m {variant}-256"))
    assert experiment.dataset.resolution == side and experiment.latent_side == latent
    assert (experiment.latent_shape and experiment.latent_shape.channels) == 3
    published = experiment.analysis.published
    assert (published is None) == (side == 256)
    for kind in ("dc", "dm", "mtt"):
        method = experiment.method_of(f"ld3m-{kind}", LD3M)
        generator = experiment.generators[method.generator]
        assert isinstance(generator, PretrainedGenerator) and generator.weights == "./weights/cin256-v2"
        chain = method.chain
        assert (chain.steps, chain.guidance_scale, chain.residual, chain.quantise) == (steps, 3.0, "x0", "vq")
        assert not method.draws_natively and experiment.comparing(f"ld3m-{kind}") == network
        rates = method.optimiser_options(1, side, 10)
        assert rates == {
            "rates": dict.fromkeys(("latent", "condition"), {"dc": 0.1, "dm": 1.0, "mtt": 1000.0}[kind]),
            "rule": "absolute",
            "momentum": 0.5,
        }
        if published is not None:
            assert published.methods[f"ld3m-{kind}"] == f"LD3M-{kind.upper()}"
    if published is not None:
        named = {name for name in published.methods if experiment.methods[name].needs.generator}
        assert named == {"ld3m-dc", "ld3m-dm", "ld3m-mtt"}
        table = read_published()
        quoted = table[(table["dataset"] == variant) & (table["confidence"] != "recalled") & (table["ipc"] == "10")]
        answered = quoted[quoted["method"].isin(published.methods.values())]
        assert sorted(answered["method"]) == ["LD3M-DC", "LD3M-DM", "Pixel-DC", "Pixel-DM"]
        assert set(answered["network"]) == {"cross"} and set(answered["resolution"]) == {side}


@pytest.mark.parametrize("variant", [*LISTS, "birds", "cats", "fruits", "imagenette", "imagewoof"])
def test_dit_draws_at_its_own_side_and_answers_no_published_row(variant: str, inside: Path) -> None:
    for name, steps, network in ((variant, 10, "convnet5"), (f"{variant}-256", 20, "convnet6")):
        if name not in preset("ld3m-dit")["variants"]:
            continue
        experiment = load(preset(f"ld3m-dit {name}"))
        method = experiment.method_of("ld3m-dc", LD3M)
        assert method.chain.steps == steps and experiment.comparing("ld3m-dc") == network
        assert method.draws_natively and experiment.analysis.published is None


def test_figure_4_of_ld3m_has_its_peak_and_its_time_over_steps(inside: Path) -> None:
    for variant in LISTS:
        experiment = load(preset(f"ld3m-ablations steps-{variant}"))
        assert sorted(experiment.chain_steps.values()) == [5, 10, 20, 30, 35, 40, 50]
        assert "<results>/cost/steps.svg" in figures(experiment) and experiment.ipc == [1]
        objectives = {experiment.method_of(name, LD3M).objective.kind for name in experiment.chain_steps}
        assert objectives == {"trajectory"} and experiment.dataset.classes == class_list_called(variant)
    assert load(preset("digits-ld3m-steps")).chain_steps == {
        **{f"steps-{steps}": steps for steps in (2, 5, 20, 35, 50)},
        "default": 10,
    }


def test_figure_5_of_ld3m_has_images_that_nothing_has_optimised(inside: Path) -> None:
    for name in ("ld3m-ablations residual-a", "digits-ld3m-residual"):
        experiment = load(preset(name))
        plain = {key: experiment.method_of(key, LD3M) for key in ("plain-x0", "plain-eq7", "plain-none")}
        assert {method.chain.residual for method in plain.values()} == {"x0", "eq7", "none"}
        assert {(method.iterations, method.init) for method in plain.values()} == {(0, "gaussian")}


def test_tables_of_initialisation_have_other_generators_and_random_weights(inside: Path) -> None:
    known, faces = (load(preset(f"ld3m-ablations {name}-a")) for name in ("generators", "faces"))
    assert known.dataset.resolution == faces.dataset.resolution == 256
    assert known.method_of("random-weights", LD3M).chain.denoiser == "random"
    assert known.method_of("imagenet", LD3M).chain.steps == 20
    assert faces.generators["faces"].knows_no_classes and "cin256" not in faces.generators
    assert faces.method_of("faces", LD3M).learn == ["latent"]


@pytest.mark.parametrize("variant", ["a", "b", "c", "d", "e", "birds", "cats", "fruits"])
def test_the_choice_of_a_class_list_names_its_classes_its_results_and_its_published_numbers(
    variant: str, inside: Path
) -> None:
    experiment = load(preset(f"ld3m {variant}"))
    published = experiment.analysis.published
    assert experiment.name == f"ld3m-{variant}"
    assert experiment.dataset.classes == class_list_called(variant)
    if len(variant) == 1:
        assert experiment.ipc == [1, 10] and published is not None and published.dataset == variant
    else:
        assert experiment.ipc == [1] and published is None


def test_a_class_list_is_chosen_on_the_command_line(place: Path) -> None:
    outputs = Clone(place).plan("--config", "variant=birds", experiment="experiments/ld3m.yaml").outputs
    assert outputs and all(path.startswith("results/ld3m-birds/") for path in outputs)
    assert any("ipc1/" in path for path in outputs) and not any("ipc10" in path for path in outputs)


@pytest.mark.parametrize("name", IMAGENET)
def test_a_preset_without_data_and_weights_says_what_to_get(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExperimentError) as refused:
        load(preset(name))
    lines = str(refused.value).splitlines()
    data = [line for line in lines if line.startswith("dataset.source.train: data/imagenet/train: no such folder")]
    assert len(data) == 1
    assert "ILSVRC2012" in data[0] and "md5" in data[0] and "data/imagenet/val" in data[0]
    blocks = {"autoencoder": merged(name).get("autoencoder", {})}
    blocks |= {f"generators.{key}": block for key, block in merged(name).get("generators", {}).items()}
    opened = {key: block["weights"] for key, block in blocks.items() if "weights" in block}
    assert opened or "generators" not in preset(name)
    for key, weights in opened.items():
        (line,) = [line for line in lines if line.startswith(f"{key}.weights: {weights}: no such folder")]
        place = weights.removeprefix("./")
        assert f"--local-dir {place}`" in line or f"-o {place}/" in line  # what to fetch, and where to


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
def test_a_preset_says_where_its_data_comes_from_and_what_it_answers(name: str) -> None:
    if name.startswith(("digits", "smoke")):
        return
    head = (EXPERIMENTS / f"{name}.yaml").read_text("utf-8").split("\nname:")[0]
    assert "Data:" in head or "cut down" in head
    assert "Published" in head or "cut down" in head


@pytest.mark.parametrize("name", IMAGENET)
def test_test_images_of_published_tables_are_resized_as_the_public_code_does(name: str) -> None:
    assert preset(name)["dataset"]["resample"] == {"test": "bilinear"}


def test_imagenet_1k_is_planned_quickly_with_many_generating_jobs(place: Path) -> None:
    clone = Clone(place)
    code = (
        "import json, resource, subprocess\n"
        "done = subprocess.run(['snakemake', '-n', '--configfile', 'experiments/imagenet1k.yaml'],"
        " capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([done.returncode, done.stdout + done.stderr, used.ru_utime + used.ru_stime, used.ru_maxrss]))"
    )
    code_, text, seconds, kilobytes = json.loads(clone.python(code))
    assert code_ == 0, text
    print(f"imagenet1k: planned in {seconds:.1f} processor seconds with {kilobytes / 1024:.0f} MB")
    assert text.count("rule sample:") == 2 * (2 * GENERATING_JOBS + 3 * SAMPLING_JOBS)
    assert text.count("rule generate_increment:") == 5 * GENERATING_JOBS
    (default,) = least_seconds(clone, ("snakemake", "-n"), rounds=2)
    print(f"the default: {default:.1f} processor seconds")
    assert seconds < PLAN_RATIO * default
    assert kilobytes * 1024 < PLAN_BYTES


# ---- time limits -----------------------------------------------------------------------------------------------------

TERAFLOPS = 30.0
"""Of one card, sustained: the rate that the time limits are stated for (docs/slurm.md)."""

GUIDED = 10.0
"""How much longer an image with gradients takes than a plain one: decoder, networks, and passes back through them."""

DIT_XL_2 = TransformerShape(layers=28, width=1152, tokens=256)
PRESETS = [
    "imagenette",
    "imagewoof",
    "imageidc",
    "imagenet100",
    "imagenet1k",
    "imagenette-cross",
    "imagenette-ablations",
]


def hours(stage: str) -> float:
    """The time limit of a rule."""
    found = re.search(r'runtime="(\d+)h"', RESOURCES[stage])
    assert found is not None, f"{stage}: no time limit in hours"
    return float(found[1])


@pytest.mark.parametrize("name", PRESETS)
def test_the_jobs_of_a_preset_fit_their_time_limits(name: str, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 1,300 training images of each class, as ImageNet has at most, and DiT-XL/2 at 256 px."""
    monkeypatch.setattr(estimate, "generator_shape", lambda experiment, generator: DIT_XL_2)
    sizes = property(lambda self: dict.fromkeys(self.class_names, 1300))
    experiment = load(preset(name))
    monkeypatch.setattr(Experiment, "training_sizes", sizes)
    slow = {
        each.stage: each.seconds(TERAFLOPS) / 3600 * (GUIDED if each.stage in ("sample", "generate_increment") else 1)
        for each in sorted(estimate.estimates(experiment), key=lambda each: each.seconds(TERAFLOPS))
        if each.operations
    }
    counted = {"sample", "generate_increment", "train_student", "evaluate"}
    foreign = (
        {"train_student", "evaluate"} if name == "imagenet1k" else set()
    )  # networks of timm, whose work is not known
    assert counted - foreign <= {*slow}
    print(name, {stage: f"{value:.2f} h" for stage, value in slow.items()})
    assert {stage: value for stage, value in slow.items() if value > hours(stage)} == {}
