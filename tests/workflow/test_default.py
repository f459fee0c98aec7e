"""The workflow from the first file to the last: what it makes, what it makes again and when, and what a kill leaves.

The smoke experiment runs once. Everything else looks at copies of its tree: mostly at what a dry run says.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from clone import PROJECT, SMOKE, SMOKE_RUN, Clone, Plan, wait_until
from PIL import Image
from private_facts import USER, private_facts, private_words
from safetensors import safe_open
from timing import least_seconds

from distillery.storage.images import read_images
from distillery.storage.tables import read_table

PROTOCOL = "small+epochs=10@1_2@full+evaluations=2"
METHODS, SIZES, CLASSES = ["dit", "lgd", "random"], [1, 2], ["0", "1", "7"]

IMPORTS_PER_JOB = 1.8
"""A job of the smoke experiment takes this many times what the import of torch takes, at most."""

HEAVY = ("torch", "torch._dynamo", "torchvision", "diffusers", "timm", "transformers", "sklearn", "scipy.stats")
"""Packages that take a second or more of processor time to import."""

BOTH = frozenset({"torch", "diffusers"})
IMPORTS = {
    **dict.fromkeys(
        ["select", "train_reference", "train_student", "evaluate", "measure_redundancy"], frozenset({"torch"})
    ),
    **dict.fromkeys(["train_autoencoder", "encode_latents", "measure_autoencoder"], BOTH),
    **dict.fromkeys(["train_generator", "sample", "generate_increment", "calibrate_guidance"], BOTH),
    "ingest": {"sklearn", "scipy.stats"},
}
"""Those that a stage imports; the other stages import none."""

RECORD_IMPORTS = f"""
import atexit, pathlib, sys
def record():
    if pathlib.Path(sys.argv[0]).parent.name == "distillery":
        loaded = [name for name in {HEAVY} if name in sys.modules]
        with pathlib.Path(__file__).with_name("imports").open("a") as file:
            print(sys.argv[1], *loaded, file=file)
atexit.register(record)
"""

DRY_RUN_RATIO, IMPORT_RATIO = 2.5, 6.0
"""A dry run to that of one rule, and the import of the experiment to that of pydantic and YAML, at most."""

BEFORE_SAMPLING = {"ingest", "train_autoencoder", "encode_latents", "train_generator", "train_reference"}
OF_LGD = {"generate_increment", "select_increment", "train_student", "calibrate_guidance"}


@dataclass(frozen=True)
class Finished:
    """The finished smoke experiment.

    Attributes:
        seconds: of processor time that it took, its jobs among them.
    """

    clone: Clone
    printed: str
    seconds: float


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tree of the one real run; nobody changes it."""
    clone = Clone.of_project(tmp_path_factory.mktemp("workflow") / "finished")
    recorder = clone.folder / "src/sitecustomize.py"
    recorder.write_text(RECORD_IMPORTS, "utf-8")
    before = os.times()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LOGNAME", USER)
        environment.setenv("USER", USER)
        printed = clone.smoke()
    now = os.times()
    recorder.unlink()
    seconds = now.children_user - before.children_user + now.children_system - before.children_system
    return Finished(clone, printed, seconds)


@pytest.fixture
def tree(finished: Finished, tmp_path: Path) -> Iterator[Clone]:
    """A copy of the finished tree, to be changed."""
    yield finished.clone.copy(tmp_path / "tree")
    shutil.rmtree(tmp_path / "tree")


# ---- what it makes ---------------------------------------------------------------------------------------------------


def test_the_sources_of_the_copy_are_what_runs(finished: Finished) -> None:
    assert Path(finished.clone.python("import distillery; print(distillery.__file__)")).is_relative_to(
        finished.clone.folder
    )


def test_a_job_of_the_smoke_experiment_takes_little_more_than_its_start(finished: Finished) -> None:
    (start,) = least_seconds(finished.clone, (*PYTHON, "import torch"))
    jobs = finished.clone.jobs_done()
    print(f"smoke: {finished.seconds:.0f} processor seconds for {jobs} jobs; import torch: {start:.1f}")
    assert finished.seconds < IMPORTS_PER_JOB * start * jobs


def test_a_stage_imports_the_packages_that_it_uses_alone(finished: Finished) -> None:
    jobs = [line.split() for line in (finished.clone.folder / "src/imports").read_text("utf-8").splitlines()]
    assert len(jobs) == finished.clone.jobs_done()
    assert {stage for stage, *_ in jobs} > IMPORTS.keys()
    assert [(stage, loaded) for stage, *loaded in jobs if set(loaded) != IMPORTS.get(stage, set())] == []


def test_the_accuracy_table_has_its_columns_and_a_row_for_all(finished: Finished) -> None:
    header, *rows = csv.reader((finished.clone.folder / "results/smoke/tables/accuracy.csv").open(newline=""))
    assert header == [
        "method",
        "ipc",
        "network",
        "protocol",
        "n",
        "trained",
        "accuracy_mean",
        "accuracy_std",
        "best_mean",
        "best_std",
        *ORIGIN,
    ]
    networks = ["convnet2_w8", "mean"]
    assert [row[:5] for row in rows] == [
        [method, str(ipc), network, PROTOCOL, "2"]
        for method, ipc in [("dit", 1), ("dit", 2), ("full", 90), ("lgd", 1), ("lgd", 2), ("random", 1), ("random", 2)]
        for network in networks
    ]
    for row in rows:
        accuracy, best = float(row[6]), float(row[8])
        assert 0 <= accuracy <= best <= 100


def test_the_redundancy_table_has_its_columns_and_a_row_for_each_method(finished: Finished) -> None:
    header, *rows = csv.reader((finished.clone.folder / "results/smoke/tables/redundancy.csv").open(newline=""))
    assert header == [
        *("method", "increments", "n", "off_diagonal_mean", "off_diagonal_std", "baseline", "reduction_percent"),
        *ORIGIN,
    ]
    assert [row[:2] for row in rows] == [["dit", "2"], ["lgd", "2"]]
    assert [row[5] for row in rows] == ["dit", "dit"] and float(rows[0][6]) == 0


@pytest.mark.parametrize("ipc", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_a_distilled_set_has_its_images_per_class(finished: Finished, method: str, ipc: int) -> None:
    images = read_images(finished.clone.folder / f"results/smoke/distilled/{method}/ipc{ipc}.parquet", "collect")
    assert images.classes == CLASSES
    assert np.bincount(images.labels).tolist() == [ipc] * len(CLASSES)
    assert images.pixels().shape == (ipc * len(CLASSES), 1, 16, 16)
    assert "latent" not in images.columns


@pytest.mark.parametrize("method", METHODS)
def test_a_smaller_set_is_the_beginning_of_a_larger_one(finished: Finished, method: str) -> None:
    small, large = (
        read_images(finished.clone.folder / f"results/smoke/distilled/{method}/ipc{ipc}.parquet", "collect")
        for ipc in SIZES
    )
    beginning = large.take(np.flatnonzero(large.columns["slot"] < SIZES[0]))
    assert beginning.images == small.images
    assert beginning.labels.tolist() == small.labels.tolist()


@pytest.mark.parametrize("name", ["accuracy", "redundancy", "increments-lgd", "calibration-lgd"])
def test_a_figure_is_there_as_pixels_and_as_vectors(finished: Finished, name: str) -> None:
    folder = finished.clone.folder / "results/smoke/figures"
    with Image.open(folder / f"{name}.png") as image:
        assert min(image.size) > 100
    assert (folder / f"{name}.svg").read_text("utf-8").rstrip().endswith("</svg>")


def test_a_run_leaves_no_temporary_and_no_resume_files(finished: Finished) -> None:
    left = [path for path in (finished.clone.folder / "results").rglob("*") if path.suffix == ".tmp"]
    left += (finished.clone.folder / "results").rglob("*.resume.safetensors")
    assert left == []


def test_nothing_that_is_published_names_the_user_the_machine_or_a_folder(finished: Finished) -> None:
    assert private_facts(finished.clone.folder / "results", private_words(finished.clone.folder)) == []


def test_every_job_has_a_log_and_a_cost(finished: Finished) -> None:
    results = finished.clone.folder / "results/smoke"
    logs = {path.stem for path in (results / "logs").iterdir()}
    costs = {path.stem for path in (results / "cost").glob("*.json")}
    for path in (results / "cost").glob("*/*.json"):  # of one method
        stage = json.loads(path.read_text("utf-8"))["stage"]
        costs.add(f"{stage}-{path.parent.name}{path.stem.removeprefix(stage)}")
    assert logs == costs
    about = json.loads((results / "cost/train_generator-dit.json").read_text("utf-8"))
    assert about["stage"] == "train_generator"
    assert about["images"] == 40 * 32  # steps of the generator times its batch
    assert about["seconds"] > 0
    assert about["peak_memory_mb"] > 0


def test_the_run_ends_with_the_table_and_where_things_are(finished: Finished) -> None:
    for words in ("Accuracy in percent", "| lgd ", "results/smoke/tables/", "results/smoke/distilled/"):
        assert words in finished.printed


def test_the_report_of_snakemake_holds_every_final_table_and_figure(finished: Finished, tmp_path: Path) -> None:
    report = tmp_path / "report.zip"
    done = finished.clone.run("snakemake", "--configfile", SMOKE, "--report", str(report))
    assert done.returncode == 0, done.stdout
    assert "not found" not in done.stdout  # a part of the page that Snakemake would download
    results = finished.clone.folder / "results/smoke"
    with zipfile.ZipFile(report) as archive:
        held = Counter(Path(name).name for name in archive.namelist() if "/data/raw/" in name)
        page = archive.read("report/report.html").decode()
    assert held == Counter(
        path.name
        for path in [*results.glob("tables/*.csv"), *results.glob("figures/*.svg"), *results.glob("cost/*.svg")]
    )
    for words in ("Accuracy of the students", "Redundancy matrices", "sample standard deviation"):
        assert words in page


# ---- nothing runs again without a reason -----------------------------------------------------------------------------


def test_a_finished_run_has_nothing_to_do(finished: Finished) -> None:
    assert finished.clone.plan().nothing


def turn_keys(tree: Clone) -> None:
    """Write the experiment file from its last key to its first."""

    def backwards(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: backwards(node[key]) for key in reversed(node)}
        return [backwards(part) for part in node] if isinstance(node, list) else node

    file = tree.folder / SMOKE
    before = yaml.safe_load(file.read_text("utf-8"))
    file.write_text(yaml.safe_dump(backwards(before), sort_keys=False), "utf-8")
    after = yaml.safe_load(file.read_text("utf-8"))
    assert after == before
    assert list(after) == list(reversed(before))
    assert list(after["methods"]) == list(reversed(before["methods"]))


def edit_words(tree: Clone) -> None:
    """Change a docstring, a comment and the layout of a line, in modules that the sampling imports."""
    sampler = "src/distillery/diffusion/sampler.py"
    tree.edit(sampler, '    """Draw one latent per key.', '    # A comment.\n    """Draw a latent for every key.')
    solvers = "src/distillery/diffusion/solvers.py"
    tree.edit(solvers, "mean = mean + shift\n", "mean = (mean\n                    + shift)  # another\n")


def test_touches_the_order_of_keys_and_words_change_nothing(tree: Clone) -> None:
    turn_keys(tree)
    edit_words(tree)
    files = [path for path in tree.folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts]
    random.Random(0).shuffle(files)
    for place, path in enumerate(files):
        os.utime(path, (1 + 4e9 * place / len(files),) * 2)  # from 1970 to 2096, in any order
    assert tree.plan("--cores", "1").nothing


def test_a_fresh_checkout_with_the_results_moved_in_has_nothing_to_do(tree: Clone, tmp_path: Path) -> None:
    fresh = Clone.of_project(tmp_path / "fresh")
    (tree.folder / "results").rename(fresh.folder / "results")
    assert not (fresh.folder / ".snakemake").exists()
    assert fresh.plan().nothing


# ---- what changed runs again, and nothing else -----------------------------------------------------------------------


def test_an_edit_of_the_sampler_reruns_sampling_and_what_follows(tree: Clone) -> None:
    tree.edit("src/distillery/diffusion/sampler.py", "lambda guidance: guidance.rank)", "lambda one: -one.rank)")
    plan = tree.plan()
    assert not BEFORE_SAMPLING & set(plan.rules)
    assert "select" not in plan.rules
    assert {"sample", "generate_increment", "calibrate_guidance", "train_student", "evaluate"} <= set(plan.rules)
    assert not any("/random/" in output for output in plan.outputs)
    assert "distillery.diffusion.sampler" in plan.reasons("sample")
    assert "distillery.diffusion.schedule" not in plan.reasons("sample")


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        pytest.param(
            lambda e: e["evaluation"]["protocol"].update(epochs=11),
            {
                "evaluate": 7,
                "measure_redundancy": 2,
                "tabulate_accuracy": 1,
                "tabulate_statistics": 1,
                "tabulate_redundancy": 1,
                "plot_accuracy": 1,
                "plot_cost": 1,
                "plot_training": 1,
                "plot_redundancy": 1,
            },
            id="the epochs of the evaluation",
        ),
        pytest.param(
            lambda e: e["evaluation"]["protocol"].update(learning_rate=0.01, weight_decay=2e-3),
            {
                "evaluate": 7,
                "measure_redundancy": 2,
                "tabulate_accuracy": 1,
                "tabulate_statistics": 1,
                "tabulate_redundancy": 1,
                "plot_accuracy": 1,
                "plot_cost": 1,
                "plot_training": 1,
                "plot_redundancy": 1,
            },
            id="learning rate and weight decay swapped",
        ),
        pytest.param(
            lambda e: e["evaluation"].update(students=3),
            {
                "evaluate": 7,
                "tabulate_accuracy": 1,
                "tabulate_statistics": 1,
                "plot_accuracy": 1,
                "plot_cost": 1,
                "plot_training": 1,
            },
            id="the number of evaluated networks",
        ),
        pytest.param(
            lambda e: e["evaluation"].update(networks=["convnet2_w8", "convnet1_w8"]),
            {
                "evaluate": 7,
                "tabulate_accuracy": 1,
                "tabulate_statistics": 1,
                "plot_accuracy": 1,
                "plot_cost": 1,
                "plot_training": 1,
            },
            id="one more network",
        ),
        pytest.param(
            lambda e: e["evaluation"].update(networks=["convnet2_w8", "resnet10t"]),
            {
                "check_network": 1,
                "evaluate": 7,
                "tabulate_accuracy": 1,
                "tabulate_statistics": 1,
                "plot_accuracy": 1,
                "plot_cost": 1,
                "plot_training": 1,
            },
            id="one more network, of timm",
        ),
        pytest.param(
            lambda e: e["analysis"]["redundancy"].update(students=2),
            {"measure_redundancy": 2, "tabulate_redundancy": 1, "plot_redundancy": 1},
            id="the networks of the redundancy",
        ),
    ],
)
def test_a_setting_reruns_what_reads_it_and_what_follows(
    tree: Clone, change: Callable[[dict[str, Any]], object], rules: dict[str, int]
) -> None:
    before = yaml.safe_load((tree.folder / SMOKE).read_text("utf-8"))["evaluation"]["protocol"]
    assert not {"learning_rate", "weight_decay"} & set(before)  # the defaults, 2e-3 and 0.01, are what is swapped
    tree.change(change)
    assert tree.plan().rules == Counter({"write_experiment": 1, "write_report": 1, **rules})


def test_a_setting_of_sampling_does_not_train_the_generator(tree: Clone) -> None:
    tree.change(lambda e: e["generators"]["dit"]["sampling"].update(guidance_scale=2.0))
    plan = tree.plan()
    assert not BEFORE_SAMPLING & set(plan.rules)
    assert {"sample", "generate_increment", "calibrate_guidance", "evaluate"} <= set(plan.rules)
    assert "guidance_scale" in plan.reasons("sample")


def test_a_setting_of_the_guidance_leaves_the_first_increment(tree: Clone) -> None:
    def change(experiment: dict[str, Any]) -> None:
        lgd = experiment["methods"]["lgd"]
        lgd.update(choose="random", candidates=3)
        lgd["guidance"]["deviation"] = {"strength": 0.5}

    tree.change(change)
    plan = tree.plan()
    assert not BEFORE_SAMPLING & set(plan.rules)
    made = {output for output in plan.outputs if "/distilled/" in output}
    folder = "results/smoke/distilled/lgd/"
    assert {f"{folder}increment-2/candidates-0.parquet", f"{folder}ipc2.parquet"} <= made
    assert not [output for output in made if not output.startswith(folder)]
    assert not [output for output in made if "increment-1" in output or "ipc1" in output]


def test_one_more_size_makes_only_what_is_new(tree: Clone) -> None:
    tree.change(lambda e: e.update(ipc=[1, 2, 3]))
    plan = tree.plan()
    assert not BEFORE_SAMPLING & set(plan.rules)
    assert plan.rules["evaluate"] == plan.rules["collect"] == len(METHODS)
    assert not [output for output in plan.outputs if "ipc1" in output or "ipc2" in output]
    made = {output for output in plan.outputs if "/distilled/lgd/increment-" in output}
    assert {output.split("/")[4] for output in made} == {"increment-2", "increment-3"}
    trained = {"history.parquet", "student.safetensors"}
    assert {output.split("/")[5] for output in made if "increment-2" in output} == trained


def test_one_more_method_makes_only_what_is_new(tree: Clone) -> None:
    tree.change(lambda e: e["methods"].update(other={"kind": "plain", "generator": "dit"}))
    plan = tree.plan()
    assert plan.rules == Counter(
        sample=2, collect=2, evaluate=2, tabulate_accuracy=1, tabulate_statistics=1, plot_accuracy=1,
        plot_images=1, plot_cost=1, plot_training=1, tabulate_redundancy=1, plot_redundancy=1,
        write_experiment=1, write_report=1,
    )  # fmt: skip
    made = {output for output in plan.outputs if "/distilled/" in output or "/evaluation/" in output}
    assert all("/other/" in output for output in made)


def test_one_more_seed_shares_the_data(tree: Clone) -> None:
    tree.change(lambda e: e.update(seeds=[0, 5]))
    plan = tree.plan()
    assert "ingest" not in plan.rules
    joined = {output for output in plan.outputs if "/seed-5/" not in output}
    assert {Path(output).parent.name for output in joined} == {"tables", "figures", "cost", "smoke", "report"}


# ---- which experiment ------------------------------------------------------------------------------------------------

OWN = {
    "name": "own",
    "dataset": {"source": {"kind": "digits"}, "resolution": 16, "channels": "grey", "holdout": {"fraction": 0.5}},
    "generators": {},
    "methods": {"chance": {"kind": "random"}},
    "ipc": [3],
    "evaluation": {"networks": ["convnet1_w8"]},
}


def settings_of(plan: Plan, stage: str) -> list[dict[str, Any]]:
    """The settings that the jobs of a rule would be given (`-p` prints commands)."""
    commands = [line for line in plan.text.splitlines() if f"python -m distillery {stage} " in line]
    return [json.loads(command.partition("--settings '")[2].partition("' --")[0]) for command in commands]


@pytest.mark.parametrize("name", ["own", "other"])
def test_an_experiment_file_replaces_the_default_whole(tmp_path: Path, name: str) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    (clone.folder / "experiments/own.yaml").write_text(yaml.safe_dump(OWN), "utf-8")
    named = [] if name == "own" else ["--config", f"name={name}"]
    plan = clone.plan("-p", *named, experiment="experiments/own.yaml")
    assert plan.rules == Counter(
        ingest=1,
        select=1,
        collect=1,
        evaluate=2,
        tabulate_accuracy=1,
        tabulate_statistics=1,
        plot_accuracy=1,
        plot_cost=1,
        plot_images=1,
        plot_training=1,
        write_experiment=1,
        write_report=1,
    )
    assert {output.split("/")[1] for output in plan.outputs} == {name}
    evaluated = {(job["method"], job["ipc"], job["network"]) for job in settings_of(plan, "evaluate")}
    assert evaluated == {("chance", 3, "convnet1_w8"), ("full", None, "convnet1_w8")}
    default = yaml.safe_load((clone.folder / "config.yaml").read_text("utf-8"))
    assert default["analysis"]["redundancy"]["methods"]  # what a leak would bring along, beside the methods


@pytest.mark.parametrize("arguments", [[], ["--config", "name=renamed"]])
def test_without_an_experiment_file_the_default_runs(tmp_path: Path, arguments: list[str]) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    default = yaml.safe_load((clone.folder / "config.yaml").read_text("utf-8"))
    plan = clone.plan_default(*arguments)
    assert {output.split("/")[1] for output in plan.outputs} == {"renamed" if arguments else default["name"]}
    methods = {output.split("/")[3] for output in plan.outputs if "/distilled/" in output}
    assert methods == set(default["methods"])


def test_a_wrong_experiment_ends_before_anything_is_planned(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    clone.change(lambda e: e["methods"]["lgd"].update(candidate=3))
    status, printed = clone.dry_run("--configfile", SMOKE)
    assert status != 0
    assert "methods.lgd.candidate: no such key; did you mean 'candidates'?" in printed
    assert "Traceback" not in printed


def test_a_set_made_elsewhere_is_evaluated_as_its_own_was(tree: Clone) -> None:
    """The same pictures, network and student give the same answers, whoever made the set."""
    shutil.copytree(tree.folder / "results/smoke/distilled/dit", tree.folder / "theirs")
    tree.change(lambda e: e["methods"].update(theirs={"kind": "external", "images": "theirs/ipc{ipc}.parquet"}))
    end = f"ipc1/convnet2_w8/{PROTOCOL}.parquet"
    ends = [f"results/smoke/evaluation/{name}/{end}" for name in ("theirs", "dit")]
    done = tree.run("snakemake", *SMOKE_RUN, "--", ends[0])
    assert done.returncode == 0, done.stdout
    theirs, dit = (read_table(tree.folder / end, "evaluate").select(["accuracy", "correct"]) for end in ends)
    assert theirs.equals(dit)
    assert tree.plan("--", ends[0]).nothing
    (tree.folder / "theirs/ipc1.parquet").write_bytes((tree.folder / "theirs/ipc2.parquet").read_bytes())
    _, refused = tree.dry_run("--configfile", SMOKE)
    assert "methods.theirs.images: theirs/ipc1.parquet: 2 images of class" in refused


def test_an_experiment_with_a_key_twice_ends_before_anything_is_planned(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    file = clone.folder / SMOKE
    file.write_text(file.read_text("utf-8") + "\nipc: [1]\n", "utf-8")
    status, printed = clone.dry_run("--configfile", SMOKE)
    assert status != 0
    assert "ipc: stands there 2 times, in lines" in printed and "Traceback" not in printed


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damaged",
    [
        {
            "distilled/dit/ipc1.parquet": ("collect", f"evaluation/dit/ipc1/convnet2_w8/{PROTOCOL}.parquet"),
            "reference/real.safetensors": ("train_reference", "distilled/lgd/guidance.json"),
        },
        {
            "generators/dit/transformer/diffusion_pytorch_model.safetensors": (
                "train_generator",
                "distilled/dit/sampled-2-0.parquet",
            ),
        },
    ],
    ids=["an image set and a network", "a generator"],
)
def test_a_damaged_file_is_named_with_the_stage_that_makes_it(tree: Clone, damaged: dict[str, tuple[str, str]]) -> None:
    """Of each file: the stage that makes it, and a target that is made from it."""
    for name in damaged:
        with (tree.folder / "results/smoke" / name).open("r+b") as file:
            file.truncate(file.seek(0, os.SEEK_END) // 2)
    targets = [f"results/smoke/{target}" for _, target in damaged.values()]
    done = tree.run("snakemake", *SMOKE_RUN, "--keep-going", "--", *targets)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    words = {line for line in done.stdout.splitlines() if line.startswith("distillery ") and "cannot be read" in line}
    assert len(words) == len(damaged), done.stdout
    for name, (stage, _) in damaged.items():
        [line] = [line for line in words if f"results/smoke/{name}" in line]
        assert f"The stage `{stage}` makes it: delete it and run the same command again" in line


# ---- kill and run again ----------------------------------------------------------------------------------------------


def differing(tree: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of the files that are not in both with the same bytes."""
    return sorted(name for name in tree.keys() | other.keys() if tree.get(name) != other.get(name))


def test_killed_again_and_again_it_ends_with_the_same_bytes(finished: Finished, tmp_path: Path) -> None:
    """Up to an evaluation of LGD, which needs every stage that trains a model."""
    clone, draws = Clone.of_project(tmp_path / "killed"), random.Random(0)
    target = f"results/smoke/evaluation/lgd/ipc2/convnet2_w8/{PROTOCOL}.parquet"
    signals, whole = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL], clone.plan("--", target).rules.total()
    for part, number in enumerate(signals):
        jobs = int((part + draws.random()) / (len(signals) + 1) * whole)
        seconds = draws.uniform(0, 4)
        assert clone.killed(number, jobs, seconds, target), "the run was over before the signal"
        left = [path.name for path in (clone.folder / "results").rglob("*.resume.safetensors")]
        print(f"{number.name} {seconds:.1f} s after {jobs} of {whole} jobs; resume files: {', '.join(left) or 'none'}")
    clone.smoke(target)
    made, undisturbed = clone.artifacts(), finished.clone.artifacts()
    assert target.removeprefix("results/") in made
    assert differing(made, {name: content for name, content in undisturbed.items() if name in made}) == []
    assert clone.plan("--", target).nothing
    shutil.rmtree(clone.folder)


def test_a_lock_without_a_dead_holder_stays(tree: Clone) -> None:
    """Between taking its lock and saying so a run has the words of the last one beside it."""
    lock = tree.folder / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(exist_ok=True)  # Snakemake takes an empty one away
    assert (tree.folder / ".snakemake/holder.json").exists()
    lock.write_text("results/smoke/tables/accuracy.csv\n", "utf-8")
    assert tree.plan().nothing
    assert lock.exists()


def kill_at_checkpoint(process: subprocess.Popen[bytes], resume: Path) -> None:
    """Send SIGKILL to a stage as soon as it has written its resume file, if it has not ended before."""
    wait_until(lambda: resume.exists() or process.poll() is not None, 1200, "no checkpoint was written")
    process.kill()
    process.wait()


def test_a_stage_that_is_killed_resumes_and_ends_with_the_same_bytes(tree: Clone, finished: Finished) -> None:
    folder = "results/smoke/generators/dit"
    weights = f"{folder}/transformer/diffusion_pytorch_model.safetensors"
    with safe_open(tree.folder / weights, "pt") as file:
        made = json.loads(file.metadata()["distillery"])
    command = [
        sys.executable, "-m", "distillery", "train_generator",
        "--settings", made["settings"], "--threads", made["threads"],
        "--latents", "results/smoke/latents/train-0.safetensors", "--index", f"{folder}/model_index.json",
        "--config", f"{folder}/transformer/config.json", "--weights", weights,
        "--scheduler", f"{folder}/scheduler/scheduler_config.json",
            "--history", f"{folder}/history.parquet", "--checkpoint-seconds", "0",
    ]  # fmt: skip
    resume = tree.folder / f"{weights}.resume.safetensors"
    for _ in range(10):  # a busy machine may look away until the stage is at its end
        shutil.rmtree(tree.folder / folder)
        process = subprocess.Popen(command, cwd=tree.folder, env=tree.environment, stderr=subprocess.DEVNULL)
        kill_at_checkpoint(process, resume)
        if resume.exists():
            break
    assert resume.exists()
    assert not (tree.folder / weights).exists()
    done = tree.run(*command)
    assert done.returncode == 0, done.stdout
    assert "resuming at" in done.stdout
    assert not resume.exists()
    assert differing(tree.artifacts(), finished.clone.artifacts()) == []


# ---- start-up time --------------------------------------------------------------------------------------------------


PYTHON = (sys.executable, "-c")
NOTHING, VALIDATION = (*PYTHON, "pass"), (*PYTHON, "import pydantic, yaml")
ORIGIN = ("experiment", "dataset", "commit")
"""The last columns of every final table."""

COMPUTES = {"torch", "pandas", "diffusers", "timm", "sklearn", "pyarrow", "matplotlib"}


def test_a_dry_run_is_quick(finished: Finished) -> None:
    """It takes little more than that of a workflow with one rule, in the same folder."""
    one_rule = finished.clone.folder / "one-rule.smk"
    one_rule.write_text("rule one:\n    output: 'one'\n    shell: 'touch {output}'\n", "utf-8")
    dry_run = ("snakemake", "-n", "--configfile", SMOKE)
    taken, least = least_seconds(finished.clone, dry_run, ("snakemake", "-n", "--snakefile", one_rule.name), rounds=2)
    one_rule.unlink()
    print(f"snakemake -n: {taken:.2f} s, with one rule: {least:.2f} s")
    assert taken < DRY_RUN_RATIO * least


def test_help_loads_the_standard_library_alone(finished: Finished) -> None:
    loaded = finished.clone.python(
        "import sys, contextlib, io\nbefore = set(sys.modules)\nfrom distillery.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n    assert main(['--help']) == 0\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*names - sys.stdlib_module_names)"
    )
    assert loaded == "distillery"


def test_the_experiment_loads_without_what_computes(finished: Finished) -> None:
    program = "import distillery.plan.experiment"
    loaded = finished.clone.python(f"import sys\n{program}\nprint(*{COMPUTES} & set(sys.modules))")
    assert loaded == ""
    taken, validation, nothing = least_seconds(finished.clone, (*PYTHON, program), VALIDATION, NOTHING, rounds=5)
    print(f"{program}: {taken - nothing:.2f} s, import pydantic, yaml: {validation - nothing:.2f} s")
    assert taken - nothing < IMPORT_RATIO * (validation - nothing)


def test_the_two_profiles_share_no_key() -> None:
    default, slurm = (
        yaml.safe_load((PROJECT / name / "profile.yaml").read_text("utf-8")) for name in ("profiles/default", "slurm")
    )
    assert default.keys() & slurm.keys() == set()
    assert slurm["executor"] == "slurm"
    assert not [path for path in PROJECT.iterdir() if path.is_symlink()]  # a clone may be without symbolic links
