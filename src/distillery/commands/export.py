"""Make a distilled set a folder that can be published: Parquet, data card, experiment, checksums."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distillery.errors import BadInput
from distillery.plan import layout
from distillery.storage.atomic import parse_json, read_json, write_bytes, write_json

if TYPE_CHECKING:
    import pandas as pd

PROVENANCE = "provenance.json"
SOFT_LABELS = "soft_labels"
NOT_RECORDED = "not recorded"
HUB_NAME = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]{0,95}", re.ASCII)
SPREAD = ("accuracy_mean", "accuracy_std")
FULL = ("full", "full-real")
"""What the row of all training images is called."""


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(prog="python -m distillery export", description=__doc__, allow_abbrev=False)
    made.add_argument("results", type=Path, help="folder of a run: results/<experiment>")
    made.add_argument("method", help="name of a method of the experiment")
    made.add_argument("ipc", type=int, help="images per class")
    made.add_argument("destination", type=Path, help="folder to be made")
    made.add_argument("--seed", type=int, help="seed of the experiment; none: its first one")
    made.add_argument("--class-folders", action="store_true", help="also as PNG files, a folder per class")
    made.add_argument("--webdataset", action="store_true", help="also as WebDataset shards")
    made.add_argument("--soft-labels", action="store_true", help="also the stored soft labels of its protocols")
    made.add_argument("--license", default="unknown", help="of the set, as the hub abbreviates it: cc-by-4.0, mit, …")
    made.add_argument("--generator-license", help="of the weights of a generator from elsewhere, in words")
    made.add_argument("--force", action="store_true", help="replace an earlier export")
    made.add_argument("--push", metavar="NAME", help="upload it to the hub as this data set: user/name")
    made.add_argument("--private", action="store_true", help="a data set that --push makes is private")
    return made


def main(arguments: Sequence[str]) -> int:
    """Export one set; the exit status.

    Raises:
        BadInput: there is no such set, the destination is in use, or the hub refuses.
        DamagedArtifact: a table or the set cannot be read.
    """
    asked = parser().parse_args(arguments)
    _refuse_destination(asked.destination, asked.force)
    if asked.push is not None and not HUB_NAME.fullmatch(asked.push):
        raise BadInput(
            f"--push: {asked.push}: no name of a data set; give user/name, of letters, digits, `-`, `_`, `.`"
        )
    asked.destination.parent.mkdir(parents=True, exist_ok=True)
    beside_it = tempfile.TemporaryDirectory(prefix=f".{asked.destination.name}-", dir=asked.destination.parent)
    with _ended_by_signal(), beside_it as beside:
        folder = Path(beside, "new")
        folder.mkdir()
        _write(folder, asked)
        if asked.destination.exists():
            asked.destination.rename(Path(beside, "old"))
        folder.rename(asked.destination)
    print(f"{asked.destination}: read README.md before you publish it")
    if asked.push:
        _push(asked.destination, asked.push, asked.private)
    return 0


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Inside, SIGTERM ends the process as an exception does, and the unfinished folder goes with it."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_destination(folder: Path, force: bool) -> None:
    """Refuse to overwrite what is there: anything without `--force`, and with it all but an earlier export."""
    from distillery.report.export import CHECKSUMS

    if not os.path.lexists(folder):
        return
    if not force:
        raise BadInput(f"{folder}: exists; give another destination, or --force to replace an earlier export")
    earlier = folder.is_dir() and not folder.is_symlink() and (folder / CHECKSUMS).exists()
    if not earlier and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInput(f"{folder}: is no earlier export, and --force replaces nothing else; give another destination")


def _write(folder: Path, asked: argparse.Namespace) -> None:
    """Write all files of an export."""
    from distillery.report import export
    from distillery.report.card import Facts, data_card
    from distillery.storage.images import SOFT_LABEL, decode_image, learned_rate, read_images

    run = _run_of(asked.results, asked)
    path = _place(asked.results, layout.DISTILLED, run=run, method=asked.method, ipc=asked.ipc)
    if not path.is_file():
        raise BadInput(_absent(asked.results, path, asked))
    images = read_images(path, "collect")
    accuracy, redundancy, commit, split = _tables(asked.results, asked.method, asked.ipc)
    provenance = {**_provenance(path), "commit": commit}
    lineage = provenance["settings"]["lineage"]
    if "calibrate_guidance" in lineage["stages"]:
        provenance |= _calibrated(asked.results, run, asked.method)
    export.write_parquet(images, folder, {name: _text(value) for name, value in provenance.items()})
    write_json(folder / PROVENANCE, provenance)
    soft = "soft labels, " if SOFT_LABEL in images.columns else ""
    files = [
        (f"`{export.PARQUET}`", f"{len(images)} images with {soft}labels and class names"),
        (f"`{export.CLASSES}`", "class names, in the order of the labels"),
        (f"`{PROVENANCE}`", "how the set was made"),
    ]
    by_label, shards = False, None
    if asked.class_folders:
        by_label = export.write_class_folders(images, folder)
        files.append((f"`{export.CLASS_FOLDERS}/`", "the same images as PNG files, a folder per class"))
    if asked.webdataset:
        shards = export.write_shards(images, folder)
        files.append((f"`{export.SHARDS}/`", "the same images as WebDataset shards"))
    if asked.soft_labels:
        files += _soft_labels(folder, asked.results, run, asked.method, asked.ipc)
    experiment = _copy_experiment(folder, asked.results)
    if experiment.exists():
        files.append((f"`{experiment.name}`", "the resolved experiment"))
    channels, side, _ = decode_image(images.images[0]).shape
    facts = Facts(
        about=lineage,
        classes=images.classes,
        images=len(images),
        ipc=asked.ipc,
        side=side,
        channels=channels,
        columns=list(images.columns),
        files=files,
        missing=[] if experiment.exists() else [f"{experiment.name} is missing: the run has not made it."],
        commit=commit,
        calibrated=provenance.get("calibrated", {}),
        learned_rate=learned_rate(images.columns),
        accuracy=accuracy,
        redundancy=redundancy,
        split=split,
        licence=asked.license,
        generator_licence=asked.generator_license,
        place=asked.push,
        class_folders=asked.class_folders,
        folders_named_by_label=by_label,
        shards=shards,
    )
    write_bytes(folder / "README.md", data_card(facts).encode())
    export.write_checksums(folder)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _place(results: Path, pattern: str, **wildcards: object) -> Path:
    """A path of the layout below the folder of a run."""
    return results / layout.fill(pattern, **wildcards).removeprefix(layout.RESULTS)


def _run_of(results: Path, asked: argparse.Namespace) -> str:
    """The place of a seed's run: the files of the first seed lie at the top."""
    if asked.seed is None:
        return ""
    first = _place(results, layout.DISTILLED, run="", method=asked.method, ipc=asked.ipc)
    is_first = first.is_file() and _lineage(first)["seed"] == asked.seed
    return "" if is_first else f"seed-{asked.seed}/"


def _provenance(path: Path) -> dict[str, Any]:
    """What the file of a set says of its making."""
    import pyarrow.parquet as pq

    try:
        about = parse_json((pq.read_schema(path).metadata or {})[b"distillery"])
        content = {**about, **{name: parse_json(about[name]) for name in ("settings", "code_by_stage", "packages")}}
        content["settings"]["lineage"]["settings"]["ingest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: does not say how it was made ({error!r}); an earlier version may have written it: delete it and "
            "run Snakemake again, which makes it from what is there"
        ) from error
    return content


def _lineage(path: Path) -> dict[str, Any]:
    return dict(_provenance(path)["settings"]["lineage"])


def _absent(results: Path, path: Path, asked: argparse.Namespace) -> str:
    """The error of a set that is not there: the command that makes it, and the sets that there are."""
    from distillery.settings import NAME

    if not results.is_dir():
        return f"{results}: no such folder; give that of a run, results/<experiment>"
    sets = [
        f"{file.parent.name} {file.stem.removeprefix('ipc')}"
        for file in sorted(
            results.glob(layout.DISTILLED.removeprefix(layout.RESULTS).format(run="", method="*", ipc="*"))
        )
    ]
    there = f"; there are: {', '.join(sets)}" if sets else "; there are none yet"
    if not re.fullmatch(NAME, asked.method) or asked.ipc < 1:
        return f"{results}: no set of method {asked.method!r} with {asked.ipc} images per class{there}"
    target = Path("results", results.resolve().name, path.relative_to(results))
    file = _experiment_file(results.resolve().name)
    options = "" if file == "config.yaml" else f" --configfile {shlex.quote(file)}"
    return (
        f"{path}: no such set{there}. `snakemake {shlex.quote(str(target))} --cores all{options}` makes it, where "
        f"`methods` of {file} has {asked.method} and `ipc` has {asked.ipc}"
    )


def _experiment_file(name: str) -> str:
    """The file of an experiment, among those of the working folder."""
    for path in (Path("config.yaml"), *sorted(Path("experiments").glob("*.yaml"))):
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and content.get("name") == name:
            return str(path)
    return "EXPERIMENT.yaml"


def _tables(results: Path, method: str, ipc: int) -> tuple[pd.DataFrame | str, pd.DataFrame | str, str, str]:
    """The rows of the final tables beside a set, or why there are none, and the commit and split that they name.

    Raises:
        DamagedArtifact: a table cannot be read, or lacks a column.
    """
    accuracy, commit, split = _table(results, "accuracy", ("method", "ipc", "network", "protocol", "n", *SPREAD))
    if not isinstance(accuracy, str):
        own = accuracy["method"] == method
        rows = accuracy[(accuracy["ipc"] == ipc) | accuracy["method"].isin(FULL)]
        accuracy = rows.sort_values("method", key=lambda names: names != method, kind="stable")
        if not (own & (rows["ipc"] == ipc)).any():
            accuracy = "The table of accuracies has no row of this set."
    redundancy, *_ = _table(
        results, "redundancy", ("method", "increments", "n", "off_diagonal_mean", "off_diagonal_std")
    )
    if not isinstance(redundancy, str) and not (redundancy["method"] == method).any():
        redundancy = "The table of redundancies has no row of this method."
    return accuracy, redundancy, commit, split


def _table(results: Path, name: str, columns: Sequence[str]) -> tuple[pd.DataFrame | str, str, str]:
    """A final table, the commit that it names, and the images that its accuracies are of."""
    from distillery.errors import damaged
    from distillery.storage.tables import read_table

    path = _place(results, layout.table(name)["parquet"])
    where = path.relative_to(results)
    if not path.exists():
        words = f"{where} is missing: the run has not made it"
        return f"{words}{', or does not measure it' if name == 'redundancy' else ''}.", NOT_RECORDED, "test"
    table = read_table(path, f"tabulate_{name}")
    if missing := [column for column in columns if column not in table.column_names]:
        raise damaged(path, f"tabulate_{name}", f"no column {', '.join(missing)}")
    about = parse_json((table.schema.metadata or {}).get(b"distillery", b"{}"))
    commits = table["commit"].unique().to_pylist() if "commit" in table.column_names else [about.get("commit")]
    split = parse_json(about.get("settings", "{}")).get("about", {}).get("split", "test")
    return table.to_pandas(), ", ".join(filter(None, commits)) or NOT_RECORDED, split


def _calibrated(results: Path, run: str, method: str) -> dict[str, Any]:
    """What the calibration of a method chose: `calibrated`."""
    path = _place(results, layout.CALIBRATED, run=run, method=method)
    return {"calibrated": read_json(path, "calibrate_guidance")} if path.exists() else {}


def _soft_labels(folder: Path, results: Path, run: str, method: str, ipc: int) -> Iterator[tuple[str, str]]:
    """Copy the stored soft labels of a set; names and contents of the files."""
    pattern = _place(results, layout.SOFT_LABELS, run=run, method=method, ipc=ipc, protocol="*")
    stored = sorted(pattern.parent.glob(pattern.name))
    if not stored:
        raise BadInput(
            f"{pattern.parent}: no stored soft labels; set `soft_labels: stored` in a protocol of `evaluation` and "
            "run the experiment again, or leave out --soft-labels"
        )
    (folder / SOFT_LABELS).mkdir()
    for path in stored:
        shutil.copyfile(path, folder / SOFT_LABELS / path.name)
        about = "logits (epochs, images, classes), float16, of the teacher for the augmented images of this protocol"
        yield f"{SOFT_LABELS}/{path.name}", about


def _copy_experiment(folder: Path, results: Path) -> Path:
    """Copy the resolved experiment, if there is one, without folders of this machine; where the copy lies."""
    from distillery.errors import damaged
    from distillery.provenance import without_folders

    path = _place(results, layout.EXPERIMENT)
    copy = folder / path.name
    if path.exists():
        try:
            content = without_folders(yaml.safe_load(path.read_text("utf-8")))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise damaged(path, "write_experiment", str(error).splitlines()[0]) from error
        copy.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return copy


def _push(folder: Path, name: str, private: bool) -> None:
    """Upload the folder to the hub, as one commit of a data set.

    Raises:
        BadInput: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, repo_type="dataset", folder_path=folder, commit_message="Upload a distilled set"
        )
    except Exception as error:  # whatever the hub client raises: no connection, no such name, no permission
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"{name}: not uploaded: {why}; {folder} is complete: log in with `hf auth login`, then run "
            f"`hf upload {shlex.quote(name)} {shlex.quote(str(folder))} --repo-type dataset`"
        ) from error
    print(f"uploaded: {commit.commit_url}")
