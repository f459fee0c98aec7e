"""Set accuracy against the reduction of redundancy, as a table and a plot with its Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block, Number

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Variant(Block):
    """A method and the guidance that labels its point; a method without guidance is a reference."""

    name: str
    strength: Number | str | None = None
    reference_weight: Number | str | None = None
    deviation: Number | str | None = None


class Settings(Block):
    """Methods in their order, the size that they are compared at, and the baseline of reductions."""

    methods: list[Variant]
    ipc: int
    baseline: str | None
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        """All methods at the largest IPC."""
        variants = []
        for name in sorted(experiment.methods):
            guidance = experiment.guidance(name).model_dump()
            labels: dict[str, Any] = {}
            if learnability := guidance.get("learnability"):
                labels = {label: learnability[label] for label in ("strength", "reference_weight")}
                if isinstance(strength := labels["strength"], dict):
                    labels["strength"] = ", ".join(f"{strength[k]:g} from {k}" for k in sorted(strength))
                labels["deviation"] = guidance.get("deviation", {"strength": 0.0})["strength"]
            variants.append(Variant(name=name, **labels))
        baseline = experiment.analysis.redundancy.baseline
        about = experiment.tested(experiment.about)
        return cls(methods=variants, ipc=max(experiment.ipc), baseline=baseline, about=about)


def run(
    settings: Settings,
    *,
    accuracy: Input,
    redundancy: Input,
    csv: Output,
    markdown: Output,
    png: Output,
    svg: Output,
    job: Job,
) -> None:
    """Join the tables of `tabulate_accuracy` and `tabulate_redundancy`, and draw the result."""
    from distillery.report import figures, style, tables, words
    from distillery.storage.atomic import write_bytes
    from distillery.storage.tables import read_table

    labels = {variant.name: variant.model_dump(exclude={"name"}) for variant in settings.methods}
    table = tables.front_table(
        read_table(accuracy, made_by="tabulate_accuracy").to_pandas(),
        read_table(redundancy, made_by="tabulate_redundancy").to_pandas(),
        settings.ipc,
        labels,
    )
    write_bytes(csv, tables.csv_bytes(tables.with_origin(table, settings.about)))
    text = words.front_markdown(table, settings.ipc, settings.baseline)
    write_bytes(markdown, tables.signed(text, settings.about).encode())
    figure = figures.front_figure(table, list(labels), settings.baseline, settings.ipc, settings.about)
    style.save(figure, png, svg)
