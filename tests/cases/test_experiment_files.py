"""Whatever lies in the place of an experiment file is answered in one line, before Snakemake opens it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import PROJECT, SMOKE, Clone
from edits import STARTER

from distillery.errors import ExperimentError
from distillery.plan.files import DEEPEST, LARGEST_FILE, MOST_VALUES, read_file

SHIPPED = [PROJECT / "config.yaml", *sorted((PROJECT / "experiments").glob("*.yaml"))]
TEXT = (PROJECT / SMOKE).read_text("utf-8")

CONTENTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", ": empty; an experiment file is a mapping"),
    "comments alone": ("# name: a\n", ": empty; an experiment file is a mapping"),
    "a list": ("- a\n- b\n", ": a list; an experiment file is a mapping"),
    "a scalar": ("name\n", ": a single value; an experiment file is a mapping"),
    "a JSON list": ("[1, 2]", ": a list; an experiment file is a mapping"),
    "a tab": ("name: a\n\tseeds: [0]\n", ", line 2, column 1: found character '\\t' that cannot start any token;"),
    "a bracket left open": ("name: [a\n", ", line 2, column 1: expected ',' or ']'"),
    "two colons": ("name: a: b\n", ", line 1, column 8: mapping values are not allowed here; put quotes around"),
    "an undefined alias": ("name: a\nipc: *sizes\n", ", line 2, column 6: found undefined alias 'sizes'; define it"),
    "a wildcard that is an alias": ("name: *.yaml\n", ", line 1, column 8: expected alphabetic or numeric"),
    "an alias to itself": ("name: &a [*a]\n", ", line 1, column 7: this block holds itself"),
    "a looping alias": ("a: &a {b: {c: *a}}\n", ", line 1, column 4: this block holds itself"),
    "aliases of aliases": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in pairwise("abcdefg")),
        f"more than {MOST_VALUES} values (an alias counts as often as it is used)",
    ),
    "two documents": ("name: a\n---\nname: b\n", ", line 2, column 1: but found another document; an experiment"),
    "a key twice": ("name: a\nseeds: [0]\nname: b\n", ": name: stands there 2 times, in lines 1, 3"),
    "a key twice in JSON": ('{"name": "a", "name": "b"}', ": name: stands there 2 times, in lines 1, 1"),
    "a key twice, deep": ("a: {b: [{c: 1, c: 2}]}\n", ": a.b[0].c: stands there 2 times"),
    "a list as a key": ("? [a, b]\n: c\n", ", line 1, column 3: found unhashable key"),
    "a tag of Python": ("a: !!python/object/apply:os.system [true]\n", "line 1, column 4: could not determine a"),
    "a tag of nobody": ("a: !ruby 1\n", "column 4: could not determine a constructor for the tag '!ruby'; write"),
    "an image": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", ", line 1, column 1: no UTF-8 text; save it as UTF-8"),
    "a NUL": ("name: a\nb: \0\n", ", line 2, column 4: a character that no text has"),
    "UTF-16": ("name: a\n".encode("utf-16"), ": UTF-16; save it as UTF-8"),
    "Latin-1": ("name: a\n# Stra\xdfe\n".encode("latin-1"), ", line 2, column 7: no UTF-8 text; save it as UTF-8"),
    "brackets within brackets": ("[" * 100_000, f", line 1, column {DEEPEST + 1}: more than {DEEPEST} blocks within"),
    "braces within braces": ('{"a":' * 3000 + "1" + "}" * 3000, f": more than {DEEPEST} blocks within one another"),
    "indents within indents": (
        "".join(f"{' ' * depth}a:\n" for depth in range(500)), f": more than {DEEPEST} blocks within one another"
    ),
    "an octal number": ("ipc: [010]\n", ", line 1, column 7: 010 is an octal number in YAML; write it without"),
    "a number with 08": ("ipc: [1]\nseeds: [-017]\n", ", line 2, column 9: -017 is an octal number in YAML"),
    "a number of base 60": ("name: 1:30\n", ", line 1, column 7: 1:30 is a number of base 60 in YAML; put quotes"),
    "a long number": ("seeds: [" + "9" * 5000 + "]\n", ", line 1, column 9: a number of 5000 digits"),
    "a long text": ("name: " + "a" * 20_000, ", line 1, column 7: a value of 20000 letters"),
    "a date that is none": ("name: 2026-99-99\n", ": a value cannot be read"),
    "Python for Snakemake": ("__use_yte__: true\nname: a\n?open('ran', 'w'): {}\n", ": __use_yte__: Snakemake would"),
    "Python for Snakemake, switched off": ("__use_yte__: false\n", ": __use_yte__: Snakemake would run the Python"),
    "a large file": ("#" * (LARGEST_FILE + 1), f": {LARGEST_FILE + 1} bytes, which no experiment file has"),
}  # fmt: skip


def pipe(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    """A socket."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


PLACES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda path: None, ": no such file; a relative path starts at"),
    "a folder": (Path.mkdir, ": a folder; give the experiment file in it"),
    "a pipe": (pipe, ": no plain file (a pipe, a socket or a device)"),
    "a socket": (a_socket, ": no plain file (a pipe, a socket or a device)"),
    "a link to itself": (lambda path: path.symlink_to(path), ": cannot be read: Too many levels of symbolic links"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), ": no plain file (a pipe, a socket or a device)"),
    "a file as a folder": (
        lambda path: path.parent.rmdir() or path.parent.touch(),
        ": cannot be read: Not a directory",
    ),
}


def make(path: Path, kind: str) -> str:
    """Put a malformed file there; how the answer goes on after its name."""
    path.parent.mkdir()
    if kind in PLACES:
        PLACES[kind][0](path)
        return PLACES[kind][1]
    content, words = CONTENTS[kind]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return words


@pytest.mark.parametrize("kind", [*CONTENTS, *PLACES])
def test_a_malformed_file_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "experiment.yaml"
    words = make(path, kind)
    start = time.monotonic()
    with pytest.raises(ExperimentError) as refused:
        read_file(path)
    assert time.monotonic() - start < 5
    line = str(refused.value)
    assert line.startswith(str(path)) and words in line
    assert "\n" not in line and len(line) < 400


def test_every_repeated_key_has_a_line(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("a: 1\nb: {c: 1, c: 2}\na: 2\n", "utf-8")
    with pytest.raises(ExperimentError) as refused:
        read_file(path)
    lines = str(refused.value).split("\n")
    assert [re.sub(".*yaml: ", "", line).partition(":")[0] for line in lines] == ["b.c", "a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(TEXT, "utf-8")
    path.chmod(0)
    with pytest.raises(ExperimentError, match="cannot be read: Permission denied"):
        read_file(path)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_experiment_is_read_as_yaml_reads_it(file: Path) -> None:
    assert read_file(file) == yaml.safe_load(file.read_text("utf-8"))


@pytest.mark.parametrize("start", ["\ufeff", "---\n", "%YAML 1.1\n---\n", "\r\n"], ids=ascii)
def test_what_editors_put_before_an_experiment_changes_nothing(start: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes((start + TEXT.replace("\n", "\r\n")).encode())
    assert read_file(path) == STARTER


# ---- through Snakemake -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone in which nothing is run."""
    return Clone.of_project(tmp_path_factory.mktemp("files") / "clone")


THROUGH = [
    *("empty", "a list", "a tab", "an undefined alias", "two documents", "a key twice", "UTF-16", "Latin-1", "a pipe"),
    *("brackets within brackets", "an octal number", "Python for Snakemake", "nothing", "a folder", "a device"),
]
HEADS = re.compile(r"^(Using|host:|Building DAG|Config file .* is extended).*\n", re.MULTILINE)


def refused_by_snakemake(clone: Clone, *arguments: str) -> list[str]:
    """The lines that Snakemake refuses a command with, after those that it always prints."""
    status, printed = clone.dry_run(*arguments)
    assert status == 1, printed
    for word in ("Traceback", 'File "', "WorkflowError", "Exception"):
        assert word not in printed
    assert not (clone.folder / "ran").exists()
    assert not list((clone.folder / ".snakemake/locks").glob("*"))
    return HEADS.sub("", printed).rstrip("\n").split("\n")


@pytest.mark.parametrize("kind", THROUGH)
def test_snakemake_says_it_once_and_in_one_line(kind: str, clone: Clone, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "experiment.yaml"
    words = make(path, kind)
    [line] = refused_by_snakemake(clone, "--configfile", str(path))
    assert line.startswith(f"Error: {path}") and words in line


@pytest.mark.parametrize("option", ["--configfile", "--configfiles"])
def test_every_file_of_the_command_line_is_read_first(option: str, clone: Clone, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [\n", "utf-8")
    for words in ([option, SMOKE, str(broken)], [option, str(broken)], [f"{option}={broken}"]):
        [line] = refused_by_snakemake(clone, *words)
        assert line.startswith(f"Error: {broken}, line 2, column 1: ")


def test_the_default_experiment_is_read_first(clone: Clone, tmp_path: Path) -> None:
    default = clone.folder / "config.yaml"
    text = default.read_text("utf-8")
    try:
        default.write_text("a: [\n", "utf-8")
        [line] = refused_by_snakemake(clone)
        assert line.startswith("Error: config.yaml, line 2, column 1: ")
        default.unlink()
        [line] = refused_by_snakemake(clone)
        assert line.startswith("Error: config.yaml: no such file; a relative path starts at")
    finally:
        default.write_text(text, "utf-8")
    elsewhere = Clone(tmp_path)
    [line] = refused_by_snakemake(elsewhere, "--snakefile", str(clone.folder / "Snakefile"))
    assert line == (
        f"Error: config.yaml: no such file; a relative path starts at {tmp_path}, so start Snakemake in the folder of "
        "the project; targets after --configfile stand behind `--`"
    )


@pytest.mark.parametrize("name", ["{a}", "{}", "a{b"])
def test_a_clone_in_a_folder_with_braces_is_refused(name: str, clone: Clone, tmp_path: Path) -> None:
    elsewhere = clone.copy(tmp_path / name)
    [line] = refused_by_snakemake(elsewhere, "--configfile", SMOKE)
    assert line == (
        f"Error: {elsewhere.folder}: Snakemake reads braces in the path of a clone; move it to another folder"
    )


@pytest.mark.parametrize("name", ["<b>", "a b", "it's", "$HOME", "狗"])
def test_a_clone_in_any_other_folder_plans(name: str, clone: Clone, tmp_path: Path) -> None:
    assert clone.copy(tmp_path / name).plan().outputs


@pytest.mark.parametrize(
    "arguments", [(), ("--lint",), ("--list-rules",), ("--summary",), ("--unlock",), ("--quiet",), ("--verbose",)]
)
def test_a_wrong_experiment_has_no_traceback_whatever_is_asked(arguments: tuple[str, ...], clone: Clone) -> None:
    status, printed = clone.dry_run(*arguments, "--configfile", SMOKE, "--config", "name=a/b", "ipc=[0]")
    assert status == 1
    assert printed.count("name: 'a/b' is no name") == 1 + ("--verbose" in arguments)  # which prints a traceback too
    assert printed.count("ipc[0]: ") == 1 + ("--verbose" in arguments)
    if "--verbose" not in arguments:
        assert 'File "' not in printed and "Traceback" not in printed and f"Error: {clone.folder / SMOKE}" in printed


def test_a_right_experiment_has_no_word_of_the_reader(clone: Clone) -> None:
    status, printed = clone.dry_run("--configfile", SMOKE)
    assert status == 0 and "Error" not in printed
    with_reader, without = clone.plan(), clone.plan("--workflow-profile", "none")
    assert with_reader.outputs == without.outputs


def test_snakemake_imports_the_reader_without_the_project(tmp_path: Path) -> None:
    """Another package of the name, or an older one, must not stop the workflows of others."""
    (tmp_path / "distillery").mkdir()
    (tmp_path / "distillery/__init__.py").write_text("raise SystemExit('another distillery')", "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PROJECT / "src")])}
    command = [sys.executable, "-c", "import snakemake_logger_plugin_distillery"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
