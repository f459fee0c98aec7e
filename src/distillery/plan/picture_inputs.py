"""From the wildcards of a job to the input files of pictures: nearest training images, and paths of samples."""

from __future__ import annotations

from dataclasses import dataclass

from distillery.methods.sampling import Sampled
from distillery.plan import layout
from distillery.plan.inputs import Inputs, Wildcards


@dataclass(frozen=True)
class PictureInputs(Inputs):
    """The input functions of the rules in `pictures.smk`."""

    def _neighbours_reference(self) -> str:
        neighbours = self.experiment.analysis.neighbours
        assert neighbours is not None
        return neighbours.features

    def neighbours_features(self, wildcards: Wildcards) -> str:
        """The features of the training images that nearest ones are looked for by."""
        return self._path(layout.FEATURES, wildcards, reference=self._neighbours_reference())

    def neighbours_reference(self, wildcards: Wildcards) -> str:
        """The network of those features."""
        return self._path(layout.REFERENCE, wildcards, reference=self._neighbours_reference())

    def neighbours_images(self, wildcards: Wildcards) -> str:
        """The set whose nearest training images are looked for."""
        return self._path(layout.DISTILLED, wildcards, ipc=self.experiment.neighbours_ipc)

    def all_neighbours(self, wildcards: Wildcards) -> list[str]:
        """The neighbours of every run and method, and of the test images."""
        names: list[dict[str, object]] = [{"method": name} for name in self.experiment.distilling]
        return [*self._each_run(layout.NEIGHBOURS, names), *self._each_run(layout.HELD_OUT_NEIGHBOURS)]

    def largest_set(self, wildcards: Wildcards) -> str:
        """The largest set of a method."""
        return self._path(layout.DISTILLED, wildcards, ipc=max(self.experiment.ipc))

    def path_previous(self, wildcards: Wildcards) -> list[str]:
        """The images before those that are traced, where guidances read them."""
        if last := self._last_increment(wildcards):
            return self._increments(wildcards, last - 1)
        method = self.experiment.method_of(wildcards.method, Sampled)
        if not method.guidance.needs_images or not method.nested:
            return []
        sizes = sorted(self.experiment.ipc)[:-1]
        shards = range(method.shards)
        return [self._path(layout.SAMPLED, wildcards, ipc=size, shard=shard) for size in sizes for shard in shards]

    def path_student(self, wildcards: Wildcards) -> list[str]:
        """The student that steered the last increment."""
        last = self._last_increment(wildcards)
        return [self._path(layout.STUDENT, wildcards, k=last - 1)] if last > 1 else []

    def path_other_students(self, wildcards: Wildcards) -> list[str]:
        """The networks beside that student."""
        last = self._last_increment(wildcards)
        return self._other_students(wildcards, last - 1) if last > 1 else []

    def path_reference(self, wildcards: Wildcards) -> list[str]:
        """The reference beside that student."""
        return [self.reference(wildcards)] if self._last_increment(wildcards) > 1 else []

    def path_calibrated(self, wildcards: Wildcards) -> list[str]:
        """The file of the calibration, where the experiment leaves something to it."""
        if self._last_increment(wildcards) < 2 or not self._lgd(wildcards.method).calibrates:
            return []
        return [self._path(layout.CALIBRATED, wildcards)]

    def _last_increment(self, wildcards: Wildcards) -> int:
        """The number of increments of a method; 0 where it has none."""
        return self.experiment.methods[wildcards.method].increments(self.experiment.ipc)
