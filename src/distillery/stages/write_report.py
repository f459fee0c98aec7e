"""Write the report page: what was run, its tables and figures, cost, and what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from pathlib import Path

    from distillery.plan.experiment import Experiment
    from distillery.report.page import Exhibit, Table

COMPUTES = False

MOST_REJECTED = 200


class Settings(Block):
    """What the page says of the experiment beside its files.

    Attributes:
        facts: label -> value, in their order.
        remarks: what the experiment lacks, and what its results then cannot show.
        look: digest of the template.
    """

    name: str
    first_seed: int
    facts: dict[str, str]
    remarks: list[str]
    look: str

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        from distillery.report.page import look

        evaluation = experiment.evaluation
        sizes = [str(ipc) for ipc in experiment.ipc]
        facts = {
            "Data": f"{experiment.tested(experiment.about).dataset}, {experiment.dataset.channels}",
            "Methods": ", ".join(f"{name} ({method.kind})" for name, method in sorted(experiment.methods.items())),
            "Images per class": ", ".join(sizes),
            "Seeds": ", ".join(map(str, experiment.seeds)),
            "Networks": ", ".join(evaluation.networks),
            "Protocols": ", ".join(protocol.label for protocol in evaluation.protocols),
            "Students per set and network": str(evaluation.students),
        }
        remarks = []
        if len(experiment.seeds) == 1:
            remarks.append(
                f"There is one seed: the spread is that of students and {evaluation.split} images, and the spread "
                "between distilled sets is unknown. Several numbers under seeds repeat the experiment."
            )
        elif experiment.shared_models:
            remarks.append(
                "All seeds share autoencoder, generators and references: the spread between seeds is that of sets and "
                "students. shared_models: false trains them anew for each seed."
            )
        if evaluation.students == 1:
            remarks.append(
                "One student is trained per set and network: its accuracy has no standard deviation. "
                "evaluation.students trains more."
            )
        recipes = [experiment.recipe(one, evaluation.networks[0], sizes[0]) for one in evaluation.protocols]
        if all(recipe.labels == "hard" for recipe in recipes):
            remarks.append(
                "No protocol has soft labels, so no teacher takes part. A protocol such as rded, with its teacher, "
                "under evaluation.protocol adds them."
            )
        return cls(name=experiment.name, first_seed=experiment.seeds[0], facts=facts, remarks=remarks, look=look())


def run(
    settings: Settings,
    *,
    experiment: Input,
    train: Input,
    test: Input,
    validation: Input | None = None,
    rejected: Input,
    tables: list[Input],
    figures: list[Input],
    captions: list[Input],
    distilled: list[Input] | None = None,
    page: Output,
    job: Job,
) -> None:
    """Write one HTML file. The costs and the graph of rules, which no rule declares, are read if they are there."""
    import pyarrow.parquet as pq

    from distillery.report import page as pages
    from distillery.report.captions import read_caption
    from distillery.storage.atomic import write_bytes

    exhibits = _exhibits(tables, figures, captions, page)
    categories = pages.by_category(exhibits)
    absent = pages.absences(map(read_caption, captions), [exhibit.caption for exhibit in exhibits])
    commits = {commit for exhibit in exhibits for table in exhibit.tables for commit in table.commits}
    images = {"Training images": train, "Validation images": validation, "Test images": test}
    sets, packages = _sets(distilled or [], settings.first_seed)
    content = pages.render(
        name=settings.name,
        facts={
            **settings.facts,
            **{label: f"{pq.read_metadata(path).num_rows:,}" for label, path in images.items() if path},
            "Commit": ", ".join(sorted(commits)) or "unknown: no table names one",
        },
        remarks=settings.remarks,
        cost_exhibits=categories.pop("Cost", []),
        categories=categories,
        absences={pages.html(reason): titles for reason, titles in absent.items()},
        rejected=_rejected(rejected),
        sets=sets,
        packages=packages,
        experiment=experiment.read_text("utf-8"),
        cost=_cost(page.parent.parent),
        graph=_graph(page.with_name("rules.json"), job.stage),
    )
    write_bytes(page, content)


def _exhibits(tables: list[Path], figures: list[Path], captions: list[Path], page: Path) -> list[Exhibit]:
    """The tables and figures by their captions; a PNG is shown only in the place of its SVG."""
    from distillery.report import page as pages
    from distillery.report.captions import Captions

    known = Captions(captions)
    exhibits: dict[Path, Exhibit] = {}
    for path in sorted([*figures, *tables]):  # the order of an experiment file is no order of its results
        if path.suffix == ".png":
            continue
        caption = known.of(str(path))
        exhibit = exhibits.setdefault(known.file(str(path)), pages.Exhibit(caption, pages.html(caption.text)))
        heading = pages.heading(path, caption)
        if caption.form == "table":
            exhibit.tables.append(pages.read_csv(path, heading, page))
        else:
            exhibit.pictures.append(pages.read_picture(path, heading, page))
    return list(exhibits.values())


def _sets(distilled: list[Path], first_seed: int) -> tuple[Table, dict[str, str]]:
    """A row for each distilled set, with its SHA-256 and where it was made; and the versions of packages."""
    import hashlib
    import json

    import pyarrow.parquet as pq

    from distillery.report.page import Table, seed_of

    rows: list[list[str]] = []
    packages: dict[str, set[str]] = {}
    for path in distilled:
        file = pq.read_metadata(path)
        about = json.loads((file.metadata or {}).get(b"distillery", b"{}"))
        for name, version in json.loads(about.get("packages", "{}")).items():
            packages.setdefault(name, set()).add(version)
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        seed = seed_of(path.parents[2]) or str(first_seed)
        size = f"{path.stat().st_size / 1e3:.1f}"
        rows.append([path.parent.name, path.stem.removeprefix("ipc"), seed, str(file.num_rows), size, digest])
    rows.sort(key=lambda row: (row[0], int(row[1]), int(row[2])))
    header = ["method", "IPC", "seed", "images", "kB", "SHA-256"]
    return Table(header, rows), {name: ", ".join(sorted(found)) for name, found in sorted(packages.items())}


def _rejected(path: Path) -> Table:
    """The images that `ingest` rejected, and why."""
    from distillery.report.page import Table
    from distillery.storage.tables import read_table

    rows = read_table(path, made_by="ingest").select(["path", "reason"]).to_pylist()
    shown = [[str(row["path"]), str(row["reason"])] for row in rows[:MOST_REJECTED]]
    return Table(["image", "reason"], shown, left_out=max(0, len(rows) - MOST_REJECTED))


def _cost(results: Path) -> Table | None:
    """What the jobs of a run cost, by stage and method; None where no job has noted it."""
    from distillery import cost
    from distillery.report.page import Table

    jobs = cost.records(results)
    return Table(cost.HEAD, cost.rows(jobs), heading=", ".join(cost.cards(jobs))) if jobs else None


def _graph(path: Path, stage: str) -> dict[str, object] | None:
    """The graph of rules as SVG and as a list; None where no run has noted it."""
    import json

    from distillery.report.rule_graph import draw, needed

    if not path.exists():
        return None
    rules = json.loads(path.read_text("utf-8"))
    graph, closing = needed({name: rule["from"] for name, rule in rules.items()}, stage)
    labels = {name: f"{name} ({rules[name]['jobs']})" for name in graph}
    return {
        "svg": draw(graph, closing, labels),
        "rules": {name: rules[name]["from"] for name in graph},
        "labels": labels,
    }
