"""Which experiment file answers which published number, and why the others are not answered: docs/published.md.

`python -m distillery.plan.published_settings > docs/published.md` writes the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distillery.plan.experiment import Experiment
from distillery.plan.files import read_file
from distillery.plan.load import unchecked
from distillery.report.published import CROSS, NETWORKS, UNKNOWN, read_published


class Cell(NamedTuple):
    """What a published number is of."""

    method: str
    dataset: str
    ipc: str
    network: str
    protocol: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Cell:
        """What a row of the published numbers is of."""
        return cls(*(row[name] for name in cls._fields))


@dataclass(frozen=True)
class Answer:
    """A method of an experiment file whose accuracy stands beside a published number.

    Attributes:
        file: name of the experiment file, without `.yaml`.
        variant: the choice of the file that it takes, empty where the file offers none.
        method: its name in the file.
    """

    file: str
    variant: str
    method: str

    def __str__(self) -> str:
        return f"`{self.method}` of `{' variant='.join(filter(None, [self.file + '.yaml', self.variant]))}`"


def answers(experiment: Experiment) -> Iterator[tuple[Cell, str]]:
    """Each published cell that an experiment can print its own number beside, with the method that does.

    As `distillery.report.published.beside_published` matches them: by published name, data set, size, network and an
    unmodified protocol.
    """
    published, evaluation = experiment.analysis.published, experiment.evaluation
    if published is None:
        return
    classes = len(experiment.dataset.classes or [])
    presets = [protocol.preset for protocol in evaluation.protocols if protocol.unmodified(classes)]
    for method, name in published.methods.items():
        sizes = [str(size) for size in experiment.methods[method].sizes(experiment.ipc)]
        trained = published.networks.get(method, evaluation.networks)
        for preset in presets:
            names = [NETWORKS.get(preset, {}).get(network) for network in trained]
            if preset == "ld3m" and set(trained) == CROSS:
                names.append("cross")
            for network in filter(None, names):
                for ipc in sizes:
                    yield Cell(name, published.dataset, ipc, network, preset), method


def answers_of(files: Sequence[Path]) -> dict[Cell, list[Answer]]:
    """The answers of experiment files, each with every choice that it offers; their data need not be there.

    Raises:
        ExperimentError: a file that no experiment can be made of.
    """
    found: dict[Cell, list[Answer]] = {}
    for file in files:
        config = read_file(file)
        for variant in config.get("variants") or [""]:
            experiment = unchecked({**config, "variant": variant} if variant else config)
            for cell, method in answers(experiment):
                found.setdefault(cell, []).append(Answer(file.stem, variant, method))
    return found


# ---- numbers without an experiment -----------------------------------------------------------------------------------

_NOT_HELD = "the method is not part of this project"
_AGAIN = "another group's measurement of a method"

BY_METHOD: dict[str, str] = {
    "GLaD": "needs StyleGAN-XL, whose weights the code does not open",
    "H-GLaD": "needs StyleGAN-XL, whose weights the code does not open",
    "DM": "its constants for images of more than 128 px are not published; at 128 px it is `pixel-dm` of `ld3m.yaml`",
    "DiT + D4M": _NOT_HELD,
    "MGD3 (discovery: k-means, centroid)": "equal to MGD3 (discovery + guidance + stop), which is answered",
    "LGD (incremental training)": "`tables/incremental_dynamics.*` of `imagenette-ablations.yaml` has it, and not"
    " the table of accuracies",
    **dict.fromkeys(
        ["Adaptive-sampling BO", "CaO2", "D4M", "DAP", "DMGD", "EVLF+MGD3", "Grid-Distil", "ManifoldGD"], _NOT_HELD
    ),
    **dict.fromkeys(["CoDA", "OT-guided", "TGDD", "VLCP", "RSM+CGS", "SRe2L"], _NOT_HELD),
}
"""Published name, or its first words -> why no experiment file answers it."""


def reason(row: Mapping[str, Any]) -> str:
    """Why no experiment file answers a row of the published numbers.

    Raises:
        LookupError: no reason is known; either a file should answer it, or `BY_METHOD` lacks one.
    """
    method = row["method"]
    if row["confidence"] == "recalled":
        return "the number is not verified, and not quoted"
    if row["protocol"] == UNKNOWN:
        return "its protocol is not known, or is none of the four"
    if "re-run" in method or "replication" in method or "user run" in method:
        return _AGAIN
    for name in (method, *(known for known in BY_METHOD if method.startswith((f"{known} ", f"{known}-")))):
        if name in BY_METHOD:
            return BY_METHOD[name]
    if row["dataset"] == "a-e":
        return "the mean over ImageNet-A to ImageNet-E; `ld3m.yaml` answers each of them"
    if UNKNOWN in (row["dataset"], row["ipc"], row["network"]):
        return "its data set, size or network is not stated"
    raise LookupError(f"{method} on {row['dataset']}, IPC {row['ipc']}, {row['network']}, {row['protocol']}")


# ---- the page --------------------------------------------------------------------------------------------------------

_TOP = """# Published numbers and the experiments that answer them

`make published PRESET=imagenette` runs an experiment file of this page: it checks data and weights, prints an estimate
of the hours by stage, runs it, and ends with the table of our numbers beside the published ones, `tables/published.md`.

The two tables list every number of `src/distillery/report/published.csv`: an experiment file answers {answered} of
{total}, and each of the others has its reason. IPC is images per class. Numbers of one protocol compare with each
other, and with no others. `python -m distillery.plan.published_settings > docs/published.md` writes this page.
"""

_GROUP = ["source", "method", "dataset", "protocol"]


def page(files: Sequence[Path]) -> str:
    """The page as Markdown: what is answered by source, then what is not by reason.

    Raises:
        ExperimentError: a file that no experiment can be made of.
        LookupError: a number that neither a file nor a reason accounts for.
    """
    known, published = answers_of(files), read_published()
    rows = [{str(key): value for key, value in row.items()} for row in published.to_dict("records")]
    methods = [known.get(Cell.of(row), []) for row in rows]
    methods = [[] if row["confidence"] == "recalled" else each for row, each in zip(rows, methods, strict=True)]
    told = [", ".join(dict.fromkeys(map(str, each))) or reason(row) for row, each in zip(rows, methods, strict=True)]
    table = published.assign(told=told, answered=[bool(each) for each in methods])
    header = "| {} | method | data set | protocol | IPC | network | {} |\n| --- | --- | --- | --- | --- | --- | --- |"
    parts = [_TOP.format(answered=table["answered"].sum(), total=len(table))]
    for heading, part, first, last in (
        ("Answered", table[table["answered"]], "source", "told"),
        ("Not answered", table[~table["answered"]], "told", "source"),
    ):
        names = {"source": "source", "told": "experiment" if last == "told" else "reason"}
        lines = [f"## {heading}\n", header.format(names[first], names[last])]
        for keys, cells in part.groupby([*_GROUP, "told"], sort=False):
            line = dict(zip([*_GROUP, "told"], map(str, keys), strict=True))
            sizes, networks = (", ".join(dict.fromkeys(cells[name])) for name in ("ipc", "network"))
            middle = [line["method"], line["dataset"], line["protocol"], sizes, networks]
            lines.append(f"| {' | '.join([line[first], *middle, line[last]])} |")
        top, body = lines[:2], sorted(lines[2:], key=lambda line: line.split(" | ")[0])
        parts.append("\n".join([*top, *body]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(sorted(Path("experiments").glob("*.yaml"))), end="")
