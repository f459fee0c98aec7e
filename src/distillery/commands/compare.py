"""Compare experiments: what differs in their settings, and what changed in their results, with intervals."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillery.errors import BadInput
from distillery.plan import layout
from distillery.plan.files import read_file
from distillery.storage.atomic import write_bytes

if TYPE_CHECKING:
    import pandas as pd

    from distillery.report.compare import Results

TABLES = {"accuracy": "tabulate_accuracy", "redundancy": "tabulate_redundancy", "coverage": "tabulate_coverage"}
ENDINGS = (".md", ".html")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    made = argparse.ArgumentParser(prog="python -m distillery compare", description=__doc__, allow_abbrev=False)
    made.add_argument(
        "results",
        type=Path,
        nargs="+",
        help="folders of runs: results/<experiment>; the first is the standard",
    )
    made.add_argument("--output", type=Path, help="file to be written: .md or .html; none: print Markdown")
    made.add_argument("--force", action="store_true", help="replace the file")
    return made


def main(arguments: Sequence[str]) -> int:
    """Print or write the comparison; the exit status.

    Raises:
        BadInput: fewer than two folders, one without a run, or an output that cannot be written.
        DamagedArtifact: a table cannot be read.
    """
    asked = parser().parse_args(arguments)
    folders = asked.results
    if len(folders) < 2:
        raise BadInput(f"{folders[0]}: one folder of results; give two or more: results/a results/b")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise BadInput("the same folder of results stands there twice; give different ones")
    if asked.output is not None:
        if asked.output.suffix not in ENDINGS:
            raise BadInput(f"--output: {asked.output}: allowed endings: {', '.join(ENDINGS)}")
        if asked.output.exists() and not asked.force:
            raise BadInput(f"--output: {asked.output} is there; give another name, or --force")
    from distillery.report.compare import as_html, as_markdown, compared

    sections = compared([read_results(folder, label) for folder, label in zip(folders, labels(folders), strict=True)])
    if asked.output is None:
        print(as_markdown(sections), end="")
    else:
        text = as_html(sections) if asked.output.suffix == ".html" else as_markdown(sections)
        write_bytes(asked.output, text.encode())
        print(asked.output)
    return 0


def labels(folders: Sequence[Path]) -> list[str]:
    """The last name of each folder, or as much of its path as tells it from the others."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def read_results(folder: Path, label: str) -> Results:
    """The results of one experiment, as far as they are there.

    Raises:
        BadInput: it is no folder of a run.
        DamagedArtifact: a table cannot be read.
    """
    from distillery.report import tables
    from distillery.report.compare import Results
    from distillery.storage.tables import read_table

    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder; give the folder of a run: results/<experiment>")
    file = _file(folder, layout.EXPERIMENT)
    if not file.exists():
        raise BadInput(
            f"{folder}: no {file.name}, so this is no folder of a run, or one of an older version; run its experiment"
            " again: snakemake --cores all --configfile <its file>"
        )
    settings, missing = read_file(file), []
    found: dict[str, pd.DataFrame] = {}
    origin: dict[str, Any] = {}
    for name, made_by in TABLES.items():
        path = _file(folder, layout.table(name)["parquet"])
        if path.exists():
            table = read_table(path, made_by)
            found[name] = table.to_pandas()
            origin = origin or json.loads((table.schema.metadata or {}).get(b"distillery", b"{}"))
    if "accuracy" not in found:
        missing.append("unfinished: no table of accuracies; run the same command again")
    any_of = dict.fromkeys(("method", "ipc", "network", "protocol"), "*")
    patterns = [layout.fill(layout.EVALUATION, run=run, **any_of) for run in ("", "seed-*/")]
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern.removeprefix(layout.RESULTS)))]
    split = (settings.get("evaluation") or {}).get("split", "test")
    test = _file(folder, layout.VALIDATION if split == "validation" else layout.TEST)
    if paths and not test.exists():
        missing.append(f"no {split} images, so that nothing is paired by them")
    return Results(
        label=label,
        settings=settings,
        tables=found,
        evaluations=tables.read_rows(paths, tables.EVALUATION, made_by="evaluate") if paths else None,
        dataset=origin.get("dataset"),
        commit=origin.get("commit"),
        test=_digest(test) if test.exists() else None,
        missing=missing,
    )


def _file(folder: Path, pattern: str) -> Path:
    return folder / pattern.removeprefix(layout.RESULTS)


def _digest(test: Path) -> str:
    """A digest of the test images and their classes, in their order."""
    from distillery.data.reading import ImageTable

    table = ImageTable(test)
    digest = hashlib.sha256(json.dumps([table.classes, table.labels.tolist()]).encode())
    for content in table.encoded():
        digest.update(content)
    return digest.hexdigest()
