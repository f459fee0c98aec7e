"""From the wildcards of a job to its input files, for the analyses of figures 4 to 6 of arXiv 2604.00519."""

from __future__ import annotations

from dataclasses import dataclass

from distillery.analysis.settings import IncrementalDynamics, LearningDynamics, Validity
from distillery.methods.lgd import LGD
from distillery.plan import layout
from distillery.plan.experiment import Experiment
from distillery.plan.inputs import Wildcards


@dataclass(frozen=True)
class AnalysisInputs:
    """The input functions of `workflow/rules/analysis.smk` for one experiment that asks for the analysis."""

    experiment: Experiment

    @property
    def _incremental(self) -> IncrementalDynamics:
        assert self.experiment.analysis.incremental_dynamics is not None
        return self.experiment.analysis.incremental_dynamics

    @property
    def _learning(self) -> LearningDynamics:
        assert self.experiment.analysis.learning_dynamics is not None
        return self.experiment.analysis.learning_dynamics

    @property
    def _validity(self) -> Validity:
        assert self.experiment.analysis.validity is not None
        return self.experiment.analysis.validity

    def _teacher(self, run: str, network: str | None, ipc: int | str) -> list[str]:
        """The network that gives soft labels, where the first protocol of the evaluation has them."""
        evaluation = self.experiment.evaluation
        recipe = self.experiment.recipe(evaluation.protocols[0], network or evaluation.networks[0], ipc)
        path = self.experiment.path(layout.REFERENCE, run=run, reference=recipe.teacher)
        return [path] if recipe.labels == "soft" else []

    def largest_set(self, wildcards: Wildcards) -> str:
        """The largest set of a method."""
        ipc = max(self.experiment.ipc)
        return layout.fill(layout.DISTILLED, run=wildcards.run, method=wildcards.method, ipc=ipc)

    def incremental_teacher(self, wildcards: Wildcards) -> list[str]:
        """The network that gives soft labels where incremental dynamics are measured."""
        return self._teacher(wildcards.run, self._incremental.network, self._incremental.increment_size)

    def incremental_dynamics(self, wildcards: Wildcards) -> list[str]:
        """The incremental dynamics of every run and method."""
        return self._each_run_and_method(layout.INCREMENTAL_DYNAMICS, self._incremental.methods)

    def learning_teacher(self, wildcards: Wildcards) -> list[str]:
        """The network that gives soft labels where learning dynamics are measured."""
        return self._teacher(wildcards.run, self._learning.network, "full")

    def learning_images(self, wildcards: Wildcards) -> list[str]:
        """The largest set of each method whose learning dynamics are measured, in the order of the stage."""
        ipc, names = max(self.experiment.ipc), dict.fromkeys(self._learning.methods)
        return [layout.fill(layout.DISTILLED, run=wildcards.run, method=name, ipc=ipc) for name in names]

    def learning_dynamics(self, wildcards: Wildcards) -> list[str]:
        """The learning dynamics of every run, image by image."""
        return [layout.fill(layout.LEARNING_DYNAMICS, run=run) for run in self.experiment.runs]

    def learning_shares(self, wildcards: Wildcards) -> list[str]:
        """The shares of kinds of images of every run."""
        return [layout.fill(layout.LEARNING_SHARES, run=run) for run in self.experiment.runs]

    def candidates(self, wildcards: Wildcards) -> list[str]:
        """The candidates of all shards of every increment of a method."""
        lgd = self.experiment.method_of(wildcards.method, LGD)
        return [
            layout.fill(layout.CANDIDATES, run=wildcards.run, method=wildcards.method, k=k, shard=shard)
            for k in range(1, lgd.increments(self.experiment.ipc) + 1)
            for shard in range(lgd.shards)
        ]

    def judge(self, wildcards: Wildcards) -> list[str]:
        """The network that is asked about candidates beside the reference."""
        name = self._validity.judge
        return [self.experiment.path(layout.REFERENCE, run=wildcards.run, reference=name)] if name else []

    def validity(self, wildcards: Wildcards) -> list[str]:
        """What was said of the candidates of every run and method."""
        return self._each_run_and_method(layout.VALIDITY, self._validity.methods)

    def _each_run_and_method(self, pattern: str, methods: list[str]) -> list[str]:
        return [
            layout.fill(pattern, run=run, method=name) for run in self.experiment.runs for name in sorted(set(methods))
        ]
