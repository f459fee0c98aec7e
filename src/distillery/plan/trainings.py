"""The trainings of a run, each with its history."""

from __future__ import annotations

from collections.abc import Iterator

from distillery.methods.matched import Matched
from distillery.plan import layout
from distillery.plan.experiment import Experiment
from distillery.settings import Block


class Training(Block):
    """A training and its history.

    Attributes:
        panel: what trainings share that are drawn together.
        name: of the training in its panel; empty where it is alone there.
        history: path of its history.
    """

    panel: str
    name: str
    history: str


def trainings(experiment: Experiment, run: str) -> list[Training]:
    """The trainings of a run, in the order of the pipeline; those of models that are opened are not among them."""
    return [
        Training(panel=panel, name=name, history=layout.fill(pattern, run=run, **wildcards))
        for panel, name, pattern, wildcards in [
            *(_models(experiment) if experiment.models_run(run) == run else ()),
            *_students(experiment),
            *_matching(experiment),
            *_evaluations(experiment),
        ]
    ]


_Row = tuple[str, str, layout.Pattern, dict[str, object]]


def _models(experiment: Experiment) -> Iterator[_Row]:
    if experiment.autoencoder.stage == "train_autoencoder" and experiment.generators:
        yield "autoencoder", "", layout.AUTOENCODER_HISTORY, {}
    for name, generator in sorted(experiment.generators.items()):
        if not generator.opened:
            for part in experiment.generator_parts(name):
                words = "" if part == name else part.removeprefix(f"{name}-").replace("-", " ")
                yield f"generator {name}", words, layout.GENERATOR_HISTORY, {"generator": part}
    for name, reference in sorted(experiment.references.items()):
        if reference.weights is None:
            yield "references", name, layout.REFERENCE_HISTORY, {"reference": name}
    for name, surrogate in sorted(experiment.surrogates.items()):
        if surrogate.checkpoints is None:
            yield "surrogates", name, layout.SURROGATE_HISTORY, {"surrogate": name}
    for name, experts in sorted(experiment.experts.items()):
        for shard in range(0 if experts.files else experts.shards):
            yield f"experts {name}", f"shard {shard}", layout.EXPERTS_HISTORY, {"experts": name, "shard": shard}


def _students(experiment: Experiment) -> Iterator[_Row]:
    """The students that guide a next increment."""
    for name, method in sorted(experiment.methods.items()):
        for k in range(experiment.loop(name).beginning if method.incremental else 0, method.increments(experiment.ipc)):
            yield f"students of {name}", f"increment {k}", layout.STUDENT_HISTORY, {"method": name, "k": k}


def _matching(experiment: Experiment) -> Iterator[_Row]:
    for name in experiment.made_by("match"):
        method = experiment.method_of(name, Matched)
        for ipc in method.sizes(experiment.ipc):
            for shard in range(method.shards):
                words = f"IPC {ipc}" if method.shards == 1 else f"IPC {ipc}, shard {shard}"
                yield name, words, layout.MATCHING_HISTORY, {"method": name, "ipc": ipc, "shard": shard}


def _evaluations(experiment: Experiment) -> Iterator[_Row]:
    """A panel for each network, protocol and size; in it the methods."""
    evaluation = experiment.evaluation
    sizes = {name: method.sizes(experiment.ipc) for name, method in sorted(experiment.methods.items())}
    for protocol in evaluation.protocols:
        for network in evaluation.networks:
            for ipc in dict.fromkeys(ipc for some in sizes.values() for ipc in some):
                panel = f"{network}, {'all images' if ipc == 'full' else f'IPC {ipc}'}"
                panel += f", {protocol.label}" if len(evaluation.protocols) > 1 else ""
                for method in (name for name, some in sizes.items() if ipc in some):
                    wildcards: dict[str, object] = {
                        "method": method,
                        "ipc": ipc,
                        "network": network,
                        "protocol": protocol.label,
                    }
                    yield panel, method, layout.EVALUATION_HISTORY, wildcards
