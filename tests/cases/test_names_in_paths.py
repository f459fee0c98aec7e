"""Text of a user that becomes part of a path, a wildcard, a label or a command is a name, or is refused."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clone import SMOKE, Clone, wait_until
from edits import STARTER, changed, faults, put, put_at

from distillery.errors import SlurmProblem
from distillery.plan.experiment import Experiment
from distillery.plan.load import load
from distillery.report.words import accuracy_markdown
from distillery.settings import Block
from distillery.slurm import refuse_shell
from distillery.students.settings import LONGEST_LABEL, Evaluation, Protocol

HOSTILE = [
    *(
        "../../elsewhere",
        "a/b",
        "$(touch ran)",
        "`touch ran`",
        "a b",
        "{ipc}",
        "<results>",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
    ),
    *(".hidden", "..", "", "-rf", "a;b", "a'b", 'a"b', "a\\b", "a|b", "a*", "straße", "a\u2028b", "a" * 101, "~"),
    *("a.safetensors.resume", "a.json"),
]
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=@-]*")

KEYS = [
    *("generators", "references", "surrogates", "experts", "methods", "variants"),
    *("evaluation.protocol.learning_rate", "references.real.training.learning_rate", "matching.protocol.learning_rate"),
    *("methods.lgd.student.protocol.learning_rate", "analysis.published.methods"),
]
"""Mappings whose keys a user chooses."""

VALUES = [
    *("name", "methods.dit.stream", "methods.dit.generator", "methods.lgd.seed", "methods.lgd.reference"),
    *("methods.lgd.calibration.judge", "evaluation.protocol.teacher", "evaluation.baseline", "evaluation.networks[]"),
    *("analysis.redundancy.methods[]", "analysis.redundancy.baseline", "variant"),
]
"""Keys whose value is a name."""


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_names_something_is_a_name(key: str, hostile: str) -> None:
    published = put("analysis.published.dataset", "imagenette")
    value: Any = 0.1 if key.endswith("learning_rate") else {} if "published" not in key else "LGD"
    lines = faults(*[published] * ("published" in key), put_at([*key.split("."), hostile], value))
    assert all(line.startswith(key.partition(".")[0]) for line in lines)
    assert any("is no name" in line or "ends as a file does" in line or "at most 100" in line for line in lines)


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
@pytest.mark.parametrize("key", VALUES)
def test_a_value_that_names_something_is_a_name(key: str, hostile: str) -> None:
    edits = [put("variants.other", {})] if key == "variant" else []
    value = [hostile] if key.endswith("[]") else hostile
    [line] = faults(*edits, put(key.removesuffix("[]"), value))
    assert line.startswith(key.removesuffix("[]"))


# ---- paths -----------------------------------------------------------------------------------------------------------

PATHS = {
    "dataset.source.train": {"kind": "parquet", "train": ["PATH"]},
    "dataset.source.test": {"kind": "parquet", "train": ["a.parquet"], "test": ["PATH"]},
    "references.real.weights": "PATH",
    "surrogates.conv.checkpoints": "PATH",
    "experts.conv.files": ["PATH"],
    "autoencoder.weights": {"kind": "pretrained", "weights": "PATH"},
    "autoencoder.subfolder": {"kind": "pretrained", "weights": "a", "subfolder": "PATH"},
    "generators.dit.weights": {"kind": "pretrained", "weights": "PATH"},
    "methods.other.images": {"kind": "external", "images": "PATH"},
}
"""Paths of a user that become inputs of rules."""


def with_path(key: str, path: str) -> list[Any]:
    """The edits that give a key this path."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(part) for name, part in value.items()}
        return [filled(part) for part in value] if isinstance(value, list) else path if value == "PATH" else value

    block = key.rpartition(".")[0] if isinstance(PATHS[key], dict) else key
    needed = [put("surrogates.conv.network", "convnet2_w8")] if key.startswith("surrogates") else []
    return [*needed, put(block, filled(PATHS[key]))]


@pytest.mark.parametrize("path", ["data/{a}/x", "data/{ a , b}", "{{a}}", "{{ipc}}", "data/<results>/x", "<b>"])
@pytest.mark.parametrize("key", PATHS)
def test_a_path_that_snakemake_would_replace_is_refused(key: str, path: str) -> None:
    lines = faults(*with_path(key, path))
    assert any(line.startswith(key) and "Snakemake replaces" in line and "ln -s" in line for line in lines)


@pytest.mark.parametrize("path", ["data/\0", "a\nb", "a\x1b[2J", "", "a\u2028b", "\ud800"], ids=ascii)
@pytest.mark.parametrize("key", [*PATHS, "folder"])
def test_a_path_that_cannot_be_written_down_is_refused(key: str, path: str) -> None:
    edits = with_path(key, path) if key in PATHS else [put("dataset.source", {"kind": "folder", "train": path})]
    lines = faults(*edits)
    assert any("is no path: it is empty, or has control characters" in line for line in lines)


@pytest.mark.parametrize("key", [*PATHS, "folder"])
def test_what_is_no_file_is_not_opened(key: str, tmp_path: Path) -> None:
    """A pipe or a device would be read for ever; a name that is too long, or a link to itself, cannot be opened."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    places = {
        tmp_path / "pipe": "a named pipe",
        Path("/dev/zero"): "a device",
        tmp_path / "loop": "cannot be opened: Too many levels of symbolic links",
        tmp_path / ("x" * 500): "cannot be opened: File name too long",
    }
    for path, words in places.items():
        source = {"kind": "folder", "train": str(path)}
        lines = faults(*(with_path(key, str(path)) if key in PATHS else [put("dataset.source", source)]))
        assert any(words in line and len(line) < 400 for line in lines)


def test_a_pipe_in_a_folder_of_weights_is_not_opened(tmp_path: Path) -> None:
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}', "utf-8")
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        [line] = faults(put("autoencoder", {"kind": "pretrained", "weights": str(folder)}))
        assert line.startswith(f"autoencoder.weights: {folder / name}: a named pipe; ")


def test_only_sets_from_elsewhere_have_a_path_for_each_size() -> None:
    [line] = faults(put("references.real.weights", "weights/{ipc}.safetensors"))
    assert "Snakemake replaces {ipc}" in line
    lines = faults(put("methods.other", {"kind": "external", "images": "sets/{ipc}-{seed}.parquet"}))
    assert lines and all("no such file" in line for line in lines)


def test_a_path_may_hold_all_else(tmp_path: Path) -> None:
    """Spaces, quotes, dollars, emoji and braces that are no wildcard; and braces alike in a folder of images."""
    for name in ("with space", "it's", "$(touch ran)", "🐟 鱼", "{}", "{a b}", "a<B>", "#1", "%41"):
        [line] = faults(put("references.real.weights", name))
        assert line.startswith(f"references.real.weights: {name}: no such file")
    for part in ("a", "b"):
        for number in range(9):
            image = tmp_path / "{ipc}" / part / f"{number}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
    source = {"kind": "folder", "train": str(tmp_path / "{ipc}")}

    def edit(config: dict[str, Any]) -> None:
        config["dataset"].update(source=source, classes=["a", "b"])

    assert load(changed(edit)).class_names == ["a", "b"]


# ---- the schema as a whole -------------------------------------------------------------------------------------------

FREE_TEXT = {
    *("origin", "revision", "image_column", "label_column", "test_names", "classes", "dataset"),
    *("sha256", "methods", "variants"),
}
"""Keys whose text goes into messages, reads a file or is compared, and is in no path, label or command: columns of
tables, beginnings of file names, class names, published names, digests by file, and blocks that are checked once they
are merged."""


def texts(kind: Any, name: str, seen: set[Any]) -> Iterator[str]:
    """The keys below a type that take any text at all."""
    if isinstance(kind, type) and issubclass(kind, Block) and kind not in seen:
        seen.add(kind)
        kind.model_rebuild()
        for key, field in kind.model_fields.items():
            if field.annotation is str and not field.metadata:
                yield key
            yield from texts(field.annotation, key, seen)
    arguments = () if typing.get_origin(kind) in (typing.Annotated, typing.Literal) else typing.get_args(kind)
    for part in arguments or typing.get_args(kind)[:1]:
        if part is str and typing.get_origin(kind) is not typing.Annotated:
            yield name
        yield from texts(part, name, seen)


def test_every_text_of_an_experiment_is_a_name_a_path_or_known_to_be_harmless() -> None:
    assert set(texts(Experiment, "", set())) <= FREE_TEXT


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_a_long_label_is_a_digest_with_its_settings_beside_it() -> None:
    table = {str(index): 100 + index for index in range(1, 40)}
    protocols = [Protocol.model_validate({"preset": "small", "epochs": table, "shift": shift}) for shift in (1, 2)]
    first, second = (protocol.label for protocol in protocols)
    assert first != second
    for label in (first, second):
        assert len(label) <= LONGEST_LABEL and SAFE.fullmatch(label)
    evaluation = Evaluation.model_validate(
        {"protocol": [one.model_dump() for one in protocols], "networks": ["convnet2"]}
    )
    assert evaluation.abbreviated[first].startswith("epochs=101@1_102@2_")
    assert evaluation.abbreviated[first].endswith(", shift=1")
    import pandas as pd

    columns = {"method": "a", "ipc": 1, "network": "convnet2", "protocol": first, "n": 1}
    numbers = dict.fromkeys(("accuracy_mean", "accuracy_std", "best_mean", "best_std"), 1.0)
    text = accuracy_markdown(pd.DataFrame([{**columns, **numbers}]), evaluation.abbreviated)
    assert f"protocol `{first}` (epochs=101@1" in text


def test_a_short_label_says_all_itself() -> None:
    evaluation = load(STARTER).evaluation
    assert [protocol.label for protocol in evaluation.protocols] == ["small+epochs=10@1_2@full+evaluations=2"]
    assert evaluation.abbreviated == {}


def test_names_that_make_a_file_name_too_long_are_refused() -> None:
    name = "a" * 100
    teacher = put(
        "evaluation.protocol", {"preset": "small", "learning_rate": {"convnet2_w8_" + "b" * 16: 0.1, "default": 1}}
    )
    [line] = faults(put("methods", {name: {"kind": "random"}}), put("analysis", {}), teacher)
    assert line.startswith(f"methods.{name}: files named by method, network, protocol, size and seed have")


@pytest.mark.parametrize("block", ["generators", "references", "surrogates", "methods"])
def test_names_that_differ_by_case_alone_are_refused(block: str) -> None:
    entry = {"generators": "dit", "references": "real", "surrogates": "conv", "methods": "random"}[block]
    edits = [put("surrogates.conv", {"network": "convnet2_w8"})] if block == "surrogates" else []

    def twin(config: dict[str, Any]) -> None:
        config[block][entry.upper()] = config[block][entry]

    [line] = faults(*edits, twin)
    assert line.startswith(f"{block}.{entry.upper()}: differs from '{entry}' by case alone")


def test_a_seed_that_is_a_word_and_a_method_is_refused() -> None:
    plain = put("methods.plain", {"kind": "plain", "generator": "dit"})
    [line] = faults(plain, put("methods.lgd.seed", "plain"))
    assert line.startswith("methods.lgd.seed: 'plain' is a word of this key, and a method is named so too")
    load(changed(plain))
    [line] = faults(put("methods.full", {"kind": "full"}), put("methods.lgd.seed", "full"))
    assert line == "methods.lgd.seed: 'full' has no set of 1 images per class, but of full"


# ---- Slurm -----------------------------------------------------------------------------------------------------------

STAND_INS = {
    "sbatch": 'printf "%s\\0" "$@" >> "$RECORD"; printf "\\n" >> "$RECORD"; echo 7',
    "squeue": "exit 0",
    "scancel": "exit 0",
    "sacctmgr": "exit 1",
    "sacct": "exit 1",
    "sinfo": "echo 'main*'",
}


def stand_ins(folder: Path) -> dict[str, str]:
    """Commands of Slurm that write down their words, as an environment."""
    folder.mkdir()
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n", "utf-8")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}", "RECORD": str(folder / "record")}


def submitted(clone: Clone, folder: Path, *arguments: str) -> tuple[str, list[list[str]]]:
    """What Snakemake prints, and the words of each submission until the first job is submitted or it ends."""
    extra = stand_ins(folder)
    environment = {**clone.environment, **extra, "PATH": extra["PATH"] + clone.environment["PATH"]}
    record, printed = folder / "record", folder / "printed"
    with printed.open("w") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "snakemake",
                "--cores",
                "all",
                "--profile",
                "slurm",
                "--configfile",
                SMOKE,
                *arguments,
            ],
            cwd=clone.folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(
            lambda: process.poll() is not None or "with SLURM jobid" in printed.read_text(), 300, "no submission"
        )
    finally:
        process.kill()
        process.wait()
    lines = record.read_text("utf-8").split("\0\n") if record.exists() else []
    return printed.read_text("utf-8"), [line.split("\0") for line in lines if line]


def test_what_slurm_gets_holds_nothing_that_a_shell_reads(tmp_path: Path) -> None:
    """A clone in a folder with a space and a quote; its jobs have long labels, and names of every allowed letter."""
    clone = Clone.of_project(tmp_path / "it's a clone")

    def edit(config: dict[str, Any]) -> None:
        config["methods"]["A0_.+-"] = {"kind": "random"}
        config["evaluation"]["protocol"]["learning_rate"] = {"default": 1e-3, "convnet2_w8.+-": 2e-3}

    clone.change(edit)
    printed, calls = submitted(clone, tmp_path / "bin")
    jobs = [words for words in calls if "--test-only" not in words]
    assert jobs, printed
    for words in jobs:
        values = dict(itertools.pairwise(words))
        assert re.fullmatch(r"[\w.-]+", values["--job-name"])
        assert re.fullmatch(r"[\w.@+=-]+", values["--comment"])
        assert re.fullmatch(r"[\w.@+=%/ '-]+", values["--output"])
        assert not re.search(r"[$`\\]", words[-1])


def test_a_folder_whose_name_is_a_command_is_refused_and_not_run(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "$(touch ran)")
    printed, calls = submitted(clone, tmp_path / "bin")
    assert "$(touch" in printed and "would read this as a command" in printed
    assert calls == []
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("word", ["$(touch ran)", "`touch ran`", "$HOME", "a\\b"])
def test_a_command_for_the_shell_of_the_login_node_is_refused(word: str) -> None:
    refuse_shell([f"python -m snakemake --configfiles 'it''s/{'x'}.yaml'"])
    with pytest.raises(SlurmProblem, match="would read this as a command"):
        refuse_shell([f"python -m snakemake --config 'a={word}'"])
