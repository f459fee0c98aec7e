"""The digest of a stage's code changes with what is computed, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distillery import provenance
from distillery.__main__ import stage_names
from distillery.provenance import code_digest, code_digests, package_versions

SAMPLER = "diffusion/sampler.py"
STAGE = "sample"
BODY = "\n" + " " * 8
CLEAN = "clean = schedule.clean(noisy, noise, index)"


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that the digests are taken of."""
    copy = tmp_path / "distillery"
    shutil.copytree(provenance.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", copy)
    provenance.clear_cache()
    return copy


@pytest.fixture(autouse=True)
def forget() -> object:
    yield
    provenance.clear_cache()


def digests(stage: str = STAGE) -> dict[str, str]:
    provenance.clear_cache()
    return dict(entry.split(":") for entry in code_digests(stage))


def changed(sources: Path, path: str, edit: Callable[[str], str], stage: str = STAGE) -> set[str]:
    """The modules whose digests an edit changes."""
    before, file = digests(stage), sources / path
    text = file.read_text("utf-8")
    assert edit(text) != text
    file.write_text(edit(text), "utf-8")
    after = digests(stage)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def replacing(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    "edit",
    [
        replacing('"""Draw one latent per key.', '"""Draw a latent for each key.'),
        replacing('"""What may steer a sampler."""', '"""What steers."""'),
        lambda text: '"""Another word on the module."""\n' + text.partition('"""\n')[2],
        lambda text: f"# a comment\n{text}\n# another\n",
        replacing(f"{BODY}{CLEAN}", f"{BODY}{CLEAN.replace('= ', f'= ({BODY}    ')}{BODY})"),
        replacing('"start"', "'start'"),
        replacing("\n\n", "\n\n\n"),
        replacing(f"{BODY}{CLEAN}", f'{BODY}"words"{BODY}{CLEAN}'),
    ],
    ids=["docstring", "class", "module", "comments", "line breaks", "quotes", "blank lines", "stray string"],
)  # fmt: skip
def test_an_edit_of_words_leaves_the_digest(sources: Path, edit: Callable[[str], str]) -> None:
    assert changed(sources, SAMPLER, edit) == set()


def test_a_removed_docstring_leaves_the_digest(sources: Path) -> None:
    assert changed(sources, SAMPLER, replacing('    """What may steer a sampler."""\n', "")) == set()


@pytest.mark.parametrize(
    "edit",
    [
        replacing("requires_grad_(graph)", "requires_grad_(not graph)"),
        replacing('"repeats", 1)', '"repeats", 2)'),
        replacing('"start"', '"begin"'),
        replacing("len(schedule) - 1, -1, -1", "len(schedule) - 2, -1, -1"),
        replacing("guidances: Sequence[Guidance] = ()", "guidances: Sequence[Guidance] = [()]"),
        lambda text: text + "\nEXTRA = 1\n",
    ],
    ids=["operator", "number", "word", "range", "default", "statement"],
)
def test_an_edit_of_what_is_computed_changes_the_digest_of_its_module_alone(
    sources: Path, edit: Callable[[str], str]
) -> None:
    assert changed(sources, SAMPLER, edit) == {"distillery.diffusion.sampler"}


def test_an_edit_of_the_stage_counts(sources: Path) -> None:
    edit = replacing("candidates=1,", "candidates=2,")
    assert changed(sources, "stages/sample.py", edit) == {"distillery.stages.sample"}


def test_an_edit_elsewhere_does_not_count(sources: Path) -> None:
    assert changed(sources, SAMPLER, replacing('"start"', '"begin"'), stage="train_generator") == set()
    assert changed(sources, "stages/evaluate.py", lambda text: text + "\nEXTRA = 1\n") == set()


def test_what_declares_settings_does_not_count(sources: Path) -> None:
    """Their values reach a stage as its settings, which are compared themselves."""
    paths = ("diffusion/settings.py", "settings.py", "plan/experiment.py", "progress.py", "job.py", "students/names.py")
    for path in paths:
        for stage in ("sample", "evaluate", "generate_increment"):
            assert changed(sources, path, lambda text: text + "\nEXTRA = 1\n", stage) == set()


def test_a_new_import_brings_its_module_along(sources: Path) -> None:
    def edit(text: str) -> str:
        return text.replace("    shape = (", "    from distillery.selection import random\n    shape = (")

    found = changed(sources, SAMPLER, edit)
    assert {"distillery.diffusion.sampler", "distillery.selection.random"} <= found


def test_imports_inside_functions_belong_to_the_code() -> None:
    found = digests("sample")
    assert {
        "distillery.stages.sample",
        "distillery.storage.images",  # imported in `run`
        "distillery.diffusion.renderer",
        "distillery.diffusion.sampler",  # by what `run` imports
        "distillery.streams",
    } <= found.keys()


@pytest.mark.parametrize("stage", stage_names())
def test_the_code_of_a_stage_is_its_closure_without_declarations(stage: str) -> None:
    found = digests(stage)
    assert f"distillery.stages.{stage}" in found
    assert not {name for name in found if name.rpartition(".")[2] in provenance.DECLARATIONS}
    assert [name for name in found if name.startswith("distillery.stages.")] == [f"distillery.stages.{stage}"]
    assert not {"distillery", "distillery.__main__"} & found.keys()


def test_the_closure_holds_all_that_python_loads() -> None:
    """Whatever of this package a stage has in memory when it has imported all it needs is in its digests."""
    code = (
        "import ast, importlib, sys\nfrom distillery import provenance\n"
        "for entry in provenance.code_digests('generate_increment'):\n"
        "    importlib.import_module(entry.split(':')[0])\n"
        "print(*(name for name in sys.modules if name.startswith('distillery.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {f"distillery.{path.parent.name}" for path in provenance.ROOT.glob("*/__init__.py")}
    loaded = {name for name in done.stdout.split() if not provenance.declares(name)}
    # Modules that only declarations import: they check experiments, or prepare the device.
    aside = {"distillery.devices", "distillery.diffusion.class_names", "distillery.guidance.calibration"}
    assert loaded - packages - aside <= digests("generate_increment").keys()


def test_digests_come_in_one_order_and_name_their_modules() -> None:
    found = code_digests(STAGE)
    assert found == sorted(found)
    for entry in found:
        name, digest = entry.split(":")
        assert name.startswith("distillery.")
        assert len(digest) == 12


def test_one_digest_stands_for_all(sources: Path) -> None:
    before = code_digest(STAGE)
    changed(sources, SAMPLER, replacing('"start"', '"begin"'))
    assert code_digest(STAGE) != before


def test_equal_code_has_equal_digests_in_every_process() -> None:
    code = f"from distillery.provenance import code_digest; print(code_digest({STAGE!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == code_digest(STAGE)


def test_versions_of_packages_are_told() -> None:
    versions = package_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(versions[name] != "absent" for name in ("torch", "diffusers", "numpy", "pyarrow"))


def test_a_broken_or_foreign_cache_changes_no_digest(tmp_path: Path) -> None:
    """Digests of a process of its own, with a cache that is absent, damaged or foreign, or cannot be."""
    code = "from distillery.provenance import code_digest; print(code_digest('collect'))"
    file = tmp_path / "distillery" / f"digests-{sys.version_info.major}.{sys.version_info.minor}.json"
    file.parent.mkdir()
    for content in (None, "", "[1]", '{"a": 1}', '{"a": ["b", ["distillery.plan.experiment"]]}'):
        if content is not None:
            file.write_text(content, "utf-8")
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == code_digest("collect")
    assert len(json.loads(file.read_text("utf-8"))) >= len(code_digests("collect"))
    nowhere = {**os.environ, "XDG_CACHE_HOME": "/proc/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=nowhere)
    assert done.stdout.strip() == code_digest("collect")
