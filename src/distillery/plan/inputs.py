"""From the wildcards of a job to its input files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from distillery.data.content import files_digest
from distillery.data.external import external_content, external_files
from distillery.data.sources import content_digest
from distillery.diffusion.generators import AnyGenerator
from distillery.diffusion.settings import PretrainedAutoencoder
from distillery.methods.base import Needs
from distillery.methods.external import External
from distillery.methods.lgd import LGD
from distillery.methods.matched import Matched
from distillery.plan import layout
from distillery.plan.experiment import Experiment
from distillery.plan.targets import validation_images
from distillery.plan.trainings import trainings
from distillery.students.settings import Recipe


class Wildcards(Protocol):
    """The wildcards of a job, as Snakemake gives them: text."""

    run: str
    method: str
    generator: str
    reference: str
    surrogate: str
    experts: str
    opened: str
    ipc: str
    k: str
    shard: str
    network: str
    protocol: str
    modes: str

    def items(self) -> Iterable[tuple[str, str]]: ...
    def get(self, name: str, default: str | None = None) -> str | None: ...


@dataclass(frozen=True)
class Inputs:
    """The input functions of the rules for one experiment."""

    experiment: Experiment

    def _path(self, pattern: str, wildcards: Wildcards, **values: object) -> str:
        """A path with the wildcards of a job, and these values of others."""
        known = {"run": "", **dict(wildcards.items()), **values}
        return self.experiment.path(pattern, **known)  # type: ignore[arg-type]

    def _needs(self, wildcards: Wildcards) -> Needs:
        return self.experiment.methods[wildcards.method].needs

    # ---- data --------------------------------------------------------------------------------------------------------

    def source(self, wildcards: Wildcards) -> list[str]:
        """Files that the images are read from, where there are few; the files of a folder are in its digest alone."""
        return self.experiment.dataset.source.files

    def source_content(self, wildcards: Wildcards) -> str:
        """A digest that changes with what is in the files that the images are read from."""
        return content_digest(self.experiment.dataset.source)

    def validation(self, wildcards: Wildcards) -> list[str]:
        """The validation images, where the data set has some."""
        return validation_images(self.experiment)

    def whitening(self, wildcards: Wildcards) -> list[str]:
        """The whitening of images, where networks see them whitened."""
        return [layout.WHITENING] if self.experiment.dataset.zca is not None else []

    def content(self, files: Callable[[Wildcards], str | list[str]]) -> Callable[[Wildcards], str]:
        """A function to a digest of those files of an input function that no job makes.

        Snakemake compares the content of an input only if it is newer than the output: `cp -p` and `mv` of another
        file into its place would go unseen.
        """

        def of(wildcards: Wildcards) -> str:
            paths = files(wildcards)
            paths = [paths] if isinstance(paths, str) else paths
            return files_digest([path for path in paths if not path.startswith(layout.RESULTS)])

        return of

    # ---- autoencoder, latents, generators ----------------------------------------------------------------------------

    def autoencoder(self, wildcards: Wildcards) -> list[str]:
        """The files of the autoencoder."""
        return list(layout.autoencoder(f"{self.experiment.autoencoder_run(wildcards.run)}autoencoder").values())

    def guidance_autoencoder(self, wildcards: Wildcards) -> list[str]:
        """The files of the autoencoder that guidances decode with, where it is another one."""
        if self.experiment.guidance_autoencoder is None:
            return []
        return list(layout.autoencoder("guidance_autoencoder").values())

    def perceptual_reference(self, wildcards: Wildcards) -> list[str]:
        """The network of the autoencoder's perceptual term."""
        term = self.experiment.autoencoder.perceptual_reference
        return [self._path(layout.REFERENCE, wildcards, reference=term)] if term else []

    def opened_autoencoder(self, wildcards: Wildcards) -> list[str]:
        """The files of the weights of an autoencoder, where they are in a folder."""
        block: PretrainedAutoencoder = getattr(self.experiment, wildcards.opened)
        return block.files_here()

    def latents(self, wildcards: Wildcards) -> list[str]:
        """The files of the latents."""
        run = self.experiment.autoencoder_run(wildcards.run)
        return [layout.fill(layout.LATENTS, run=run, shard=shard) for shard in range(self.experiment.latents.shards)]

    def _generator(self, run: str, name: str | None) -> list[str]:
        """The files of a generator: one that is opened is the same for all runs."""
        if name is None:
            return []
        block = self.experiment.generators[self.experiment.parts_of_generators[name][0]]
        run = "" if block.opened else self.experiment.models_run(run)
        files = layout.unet() if block.part == "unet" else layout.generator(run)
        return [layout.fill(path, generator=name) for path in files.values()]

    def generator(self, wildcards: Wildcards) -> list[str]:
        """The files of the generator of a method, for the classes of the shard; none where it has none."""
        name = self._needs(wildcards).generator
        if name is None or self.experiment.generators[name].class_groups == 1:
            return self._generator(wildcards.run, name)
        parts = self.experiment.generator_parts(name)
        return self._generator(wildcards.run, parts[int(wildcards.shard) % len(parts)])

    def _made(self, wildcards: Wildcards) -> AnyGenerator:
        """The settings of the generator that a job makes."""
        return self.experiment.generators[self.experiment.parts_of_generators[wildcards.generator][0]]

    def method_autoencoder(self, wildcards: Wildcards) -> list[str]:
        """The files of the autoencoder, where the method needs it."""
        return self.autoencoder(wildcards) if self._needs(wildcards).autoencoder else []

    def base(self, wildcards: Wildcards) -> list[str]:
        """The files of the generator that a fine-tuned one starts from."""
        return self._generator(wildcards.run, self._made(wildcards).starts_from)

    def opened_generator(self, wildcards: Wildcards) -> list[str]:
        """The files of the weights of a generator, where they are in a folder."""
        return self._made(wildcards).files_here()

    def cards(self, wildcards: Wildcards) -> int:
        """The GPUs of a training: one for each process that shares it."""
        return self._made(wildcards).cards

    # ---- networks ----------------------------------------------------------------------------------------------------

    def references(self, wildcards: Wildcards) -> list[str]:
        """Every reference of a run, by name."""
        return [self._path(layout.REFERENCE, wildcards, reference=name) for name in sorted(self.experiment.references)]

    def checked_features(self, wildcards: Wildcards) -> list[str]:
        """The check that features of a reference can be read, where its network is one of timm."""
        reference = self.experiment.references[wildcards.reference]
        side = reference.training.side(self.experiment.classes)
        return self.experiment.network_check(reference.network, side, "features")

    def reference_weights(self, wildcards: Wildcards) -> list[str]:
        """The file that a reference is opened from, where it is not trained here."""
        weights = self.experiment.references[wildcards.reference].weights
        return [weights] if weights not in (None, "timm") else []

    def checkpoints(self, wildcards: Wildcards) -> str:
        """The states of a surrogate: trained here, or those that the experiment names."""
        named = self.experiment.surrogates[wildcards.surrogate].checkpoints
        return named or self._path(layout.CHECKPOINTS, wildcards)

    def features(self, wildcards: Wildcards) -> list[str]:
        """The features that a selection chooses by, where it needs some."""
        name = self._needs(wildcards).features
        return [self._path(layout.FEATURES, wildcards, reference=name)] if name else []

    def selecting_modes(self, wildcards: Wildcards) -> str:
        """The modes that a method selects by: as many per class as its set has images."""
        return self._path(layout.MODES, wildcards, modes=wildcards.ipc)

    # ---- increments --------------------------------------------------------------------------------------------------

    def _lgd(self, name: str) -> LGD:
        return self.experiment.method_of(name, LGD)

    def reference(self, wildcards: Wildcards) -> str:
        """The reference of a method."""
        return self._path(layout.REFERENCE, wildcards, reference=self._needs(wildcards).reference)

    def reference_after_first(self, wildcards: Wildcards) -> list[str]:
        """The reference, where there is a student beside it."""
        return [self.reference(wildcards)] if self._after_beginning(wildcards) else []

    def _after_beginning(self, wildcards: Wildcards) -> bool:
        """Whether a student chooses an increment."""
        return int(wildcards.k) > self.experiment.loop(wildcards.method).beginning

    def judge(self, wildcards: Wildcards) -> str:
        """The network that judges the pilot of an LGD method."""
        lgd = self._lgd(wildcards.method)
        return self._path(layout.REFERENCE, wildcards, reference=lgd.calibration.judge or lgd.reference)

    def _increments(self, wildcards: Wildcards, last: int) -> list[str]:
        return [self._path(layout.INCREMENT, wildcards, k=k) for k in range(1, last + 1)]

    def increments_up_to(self, wildcards: Wildcards) -> list[str]:
        """The increments 1 to k."""
        return self._increments(wildcards, int(wildcards.k))

    def increments_before(self, wildcards: Wildcards) -> list[str]:
        """The increments before k, where a student chooses k."""
        return self._increments(wildcards, int(wildcards.k) - 1) if self._after_beginning(wildcards) else []

    def increments(self, wildcards: Wildcards) -> list[str]:
        """Every increment of an LGD method."""
        return self._increments(wildcards, self._lgd(wildcards.method).increments(self.experiment.ipc))

    def first_increment(self, wildcards: Wildcards) -> str:
        """Increment 1."""
        return self._path(layout.INCREMENT, wildcards, k=1)

    def first_student(self, wildcards: Wildcards) -> str:
        """The student of increment 1."""
        return self._path(layout.STUDENT, wildcards, k=1)

    def _other_students(self, wildcards: Wildcards, k: int) -> list[str]:
        """The networks beside the student of increment k, where the method has several."""
        several = wildcards.method in self.experiment.several_students
        return [self._path(layout.OTHER_STUDENTS, wildcards, k=k)] if several and k else []

    def first_other_students(self, wildcards: Wildcards) -> list[str]:
        """The networks beside the student of increment 1."""
        return self._other_students(wildcards, 1)

    def student_before(self, wildcards: Wildcards) -> list[str]:
        """The student of the increments before k; those at the beginning have none."""
        before = int(wildcards.k) - 1
        return [self._path(layout.STUDENT, wildcards, k=before)] if self._after_beginning(wildcards) else []

    def other_students_before(self, wildcards: Wildcards) -> list[str]:
        """The networks beside the student of the increments before k."""
        return self._other_students(wildcards, int(wildcards.k) - 1) if self._after_beginning(wildcards) else []

    def continued_from(self, wildcards: Wildcards) -> list[str]:
        """The student that a `continued` one starts from."""
        continued = self.experiment.loop(wildcards.method).student.start == "continued"
        return self.student_before(wildcards) if continued else []

    def others_continued_from(self, wildcards: Wildcards) -> list[str]:
        """The networks beside the student that a `continued` one starts from."""
        continued = self.experiment.loop(wildcards.method).student.start == "continued"
        return self.other_students_before(wildcards) if continued else []

    def student_teacher(self, wildcards: Wildcards) -> list[str]:
        """The network that gives soft labels to the students of a method, where their protocol has them."""
        teacher = self.experiment.student_teacher(wildcards.method)
        return [self._path(layout.REFERENCE, wildcards, reference=teacher)] if teacher else []

    def pilot_teacher(self, wildcards: Wildcards) -> list[str]:
        """The network that gives soft labels to students of a pilot, where its aim is their accuracy."""
        return self.student_teacher(wildcards) if self._lgd(wildcards.method).calibration.aim == "accuracy" else []

    def pilot_validation(self, wildcards: Wildcards) -> list[str]:
        """The images that students of a pilot are tested on, where its aim is their accuracy."""
        return self.validation(wildcards) if self._lgd(wildcards.method).calibration.aim == "accuracy" else []

    def calibrated(self, wildcards: Wildcards) -> list[str]:
        """The file of the calibration, where the experiment leaves something to it."""
        wanted = self._lgd(wildcards.method).calibrates and int(wildcards.k) > 1
        return [self._path(layout.CALIBRATED, wildcards)] if wanted else []

    def seed_images(self, wildcards: Wildcards) -> list[str]:
        """The set of another method that an increment at the beginning is taken from."""
        loop = self.experiment.loop(wildcards.method)
        if self._after_beginning(wildcards):
            return []
        size = loop.beginning * loop.increment_size
        return [self._path(layout.DISTILLED, wildcards, method=name, ipc=size) for name in loop.uses_sets_of]

    def seed_parts(self, wildcards: Wildcards) -> list[str]:
        """The images of that set as they were sampled, with their latents; none where it was made otherwise."""
        lgd = self._lgd(wildcards.method)
        if self._after_beginning(wildcards):
            return []
        return [
            self._path(layout.PARTS[part.name], wildcards, method=name, **part.wildcards)
            for name in lgd.uses_sets_of
            for part in self.experiment.methods[name].parts(lgd.increment_size, self.experiment.ipc)
            if part.name == "sampled"
        ]

    def candidates(self, wildcards: Wildcards) -> list[str]:
        """The candidates of all shards."""
        shards = range(self._lgd(wildcards.method).shards)
        return [self._path(layout.CANDIDATES, wildcards, shard=shard) for shard in shards]

    def increment_group(self, wildcards: Wildcards) -> str:
        """The short stages of an increment are one submission. A slash in the name would hang the executor."""
        return f"increment-{wildcards.k}-{wildcards.method}@{wildcards.run.strip('/')}"

    def candidates_group(self, wildcards: Wildcards) -> str | None:
        """Candidates that one job makes go with them; many shards are one submission each."""
        return None if self._lgd(wildcards.method).shards > 1 else self.increment_group(wildcards)

    # ---- sets --------------------------------------------------------------------------------------------------------

    def smaller_shards(self, wildcards: Wildcards) -> list[str]:
        """The images of the smaller sizes, where guidances keep away from what a method has."""
        needed = self.experiment.guidance(wildcards.method).needs_images
        if not needed or not self.experiment.methods[wildcards.method].nested:
            return []
        smaller = [size for size in sorted(self.experiment.ipc) if size < int(wildcards.ipc)]
        return [self._path(layout.SAMPLED, wildcards, ipc=size) for size in smaller]

    def external(self, wildcards: Wildcards) -> list[str]:
        """The file of a set that was made elsewhere; none where it is a folder."""
        block = self._external(wildcards)
        seed = self.experiment.seed(wildcards.run)
        return external_files(block.images, int(wildcards.ipc), seed, block.labels)

    def external_content(self, wildcards: Wildcards) -> str:
        """A digest that changes with what is in a set that was made elsewhere."""
        block = self._external(wildcards)
        seed = self.experiment.seed(wildcards.run)
        return external_content(block.images, int(wildcards.ipc), seed, block.labels)

    def _external(self, wildcards: Wildcards) -> External:
        return self.experiment.method_of(wildcards.method, External)

    def parts(self, wildcards: Wildcards) -> list[str]:
        """The files that the distilled set of a size is collected from."""
        parts = self.experiment.methods[wildcards.method].parts(int(wildcards.ipc), self.experiment.ipc)
        return [self._path(layout.PARTS[part.name], wildcards, **part.wildcards) for part in parts]

    def compared_sets(self, wildcards: Wildcards) -> list[str]:
        """The sets of other methods that one is chosen among."""
        methods = self.experiment.methods[wildcards.method].uses_sets_of
        return [self._path(layout.DISTILLED, wildcards, method=name) for name in methods]

    # ---- images that are optimised -----------------------------------------------------------------------------------

    def _experts(self, run: str, name: str | None) -> list[str]:
        """The trajectories of experts: trained here, or those that the experiment names."""
        if name is None:
            return []
        block = self.experiment.experts[name]
        trained = [
            self.experiment.path(layout.TRAJECTORIES, run=run, experts=name, shard=i) for i in range(block.shards)
        ]
        return block.files or trained

    def experts(self, wildcards: Wildcards) -> list[str]:
        """The trajectories that a method matches."""
        return self._experts(wildcards.run, self._needs(wildcards).experts)

    def rendered(self, wildcards: Wildcards) -> list[str]:
        """The pictures of all snapshots of a size."""
        shards = range(self.experiment.method_of(wildcards.method, Matched).shards)
        return [self._path(layout.RENDERED, wildcards, shard=shard) for shard in shards]

    def _measured(self) -> Needs:
        gradients = self.experiment.analysis.gradients
        assert gradients is not None
        return self.experiment.methods[gradients.method].needs

    def measured_generator(self, wildcards: Wildcards) -> list[str]:
        """The generator whose gradients are measured."""
        return self._generator(wildcards.run, self._measured().generator)

    def measured_experts(self, wildcards: Wildcards) -> list[str]:
        """The trajectories that the method whose gradients are measured matches."""
        return self._experts(wildcards.run, self._measured().experts)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    @property
    def tested_images(self) -> str:
        """The images that networks are tested on."""
        return layout.VALIDATION if self.experiment.evaluation.split == "validation" else layout.TEST

    def evaluated_images(self, wildcards: Wildcards) -> str:
        """The images that networks are trained on: a distilled set, or all real ones."""
        return layout.TRAIN if wildcards.ipc == "full" else self._path(layout.DISTILLED, wildcards)

    def _recipe(self, wildcards: Wildcards) -> Recipe:
        evaluation = self.experiment.evaluation
        return self.experiment.recipe(evaluation.labelled(wildcards.protocol), evaluation.networks[0], wildcards.ipc)

    def teacher(self, wildcards: Wildcards) -> list[str]:
        """The network that gives soft labels."""
        recipe = self._recipe(wildcards)
        return [self._path(layout.REFERENCE, wildcards, reference=recipe.teacher)] if recipe.labels == "soft" else []

    def online_teacher(self, wildcards: Wildcards) -> list[str]:
        """The teacher, where it answers while networks are trained."""
        return self.teacher(wildcards) if self._recipe(wildcards).soft_labels == "online" else []

    def stored_labels(self, wildcards: Wildcards) -> list[str]:
        """The teacher's answers, where they are stored."""
        recipe = self._recipe(wildcards)
        stored = recipe.labels == "soft" and recipe.soft_labels == "stored"
        return [self._path(layout.SOFT_LABELS, wildcards)] if stored else []

    def redundancy_images(self, wildcards: Wildcards) -> str:
        """The set whose redundancy is measured."""
        ipc = self.experiment.redundancy_ipc
        if self.experiment.cut(wildcards.method) == "real":
            return layout.TRAIN
        return self._path(layout.DISTILLED, wildcards, ipc=ipc)

    def redundancy_teacher(self, wildcards: Wildcards) -> list[str]:
        """The network that gives soft labels where redundancy is measured under a protocol that has them."""
        evaluation = self.experiment.evaluation
        redundancy = self.experiment.analysis.redundancy
        network = redundancy.network or evaluation.networks[0]
        recipe = self.experiment.recipe(evaluation.protocols[0], network, redundancy.increment_size)
        path = self._path(layout.REFERENCE, wildcards, reference=recipe.teacher)
        return [path] if recipe.labels == "soft" else []

    def coverage_features(self, wildcards: Wildcards) -> str:
        """The features of the real images that coverage is measured with."""
        return self._path(layout.FEATURES, wildcards, reference=self._coverage_reference())

    def coverage_reference(self, wildcards: Wildcards) -> str:
        """The network that coverage is measured with."""
        return self._path(layout.REFERENCE, wildcards, reference=self._coverage_reference())

    def _coverage_reference(self) -> str:
        coverage = self.experiment.analysis.coverage
        assert coverage is not None
        return coverage.features

    # ---- tables and figures ------------------------------------------------------------------------------------------

    def _each_run(self, pattern: str, names: Sequence[dict[str, object]] = ({},)) -> list[str]:
        """A file of every run, for each of these values of its other wildcards; once where runs share it."""
        files = (self.experiment.path(pattern, run=run, **values) for run in self.experiment.runs for values in names)
        return list(dict.fromkeys(files))

    def _sets(self) -> list[dict[str, object]]:
        """Method and size of every set that is evaluated."""
        return [
            {"method": name, "ipc": ipc}
            for name in sorted(self.experiment.methods)
            for ipc in self.experiment.methods[name].sizes(self.experiment.ipc)
        ]

    def published_table(self, wildcards: Wildcards) -> list[str]:
        """The table of published numbers beside ours, where the experiment has one."""
        return [layout.table("published")["parquet"]] if self.experiment.analysis.published else []

    def all_evaluations(self, wildcards: Wildcards) -> list[str]:
        """The evaluations of every run, method, size, network and protocol."""
        evaluation = self.experiment.evaluation
        names = [
            {**distilled, "network": network, "protocol": label}
            for distilled in self._sets()
            for network in sorted(evaluation.networks)
            for label in sorted(protocol.label for protocol in evaluation.protocols)
        ]
        return self._each_run(layout.EVALUATION, names)

    def histories(self, wildcards: Wildcards) -> list[str]:
        """The histories of all trainings of a run."""
        return [training.history for training in trainings(self.experiment, wildcards.run)]

    def all_reconstructions(self, wildcards: Wildcards) -> list[str]:
        """The measurement of the autoencoder of every run."""
        return self._each_run(layout.RECONSTRUCTION)

    def all_gradient_norms(self, wildcards: Wildcards) -> list[str]:
        """The gradients of every run."""
        return self._each_run(layout.GRADIENT_NORMS)

    def all_matrices(self, wildcards: Wildcards) -> list[str]:
        """The redundancy matrices of every run and method that the experiment names."""
        redundancy = self.experiment.analysis.redundancy
        methods = sorted({*redundancy.methods, *filter(None, [redundancy.baseline])})
        return self._each_run(layout.REDUNDANCY, [{"method": method} for method in methods])

    def all_coverages(self, wildcards: Wildcards) -> list[str]:
        """The coverages of every distilled set."""
        return self._each_run(layout.COVERAGE, [names for names in self._sets() if names["ipc"] != "full"])

    def all_increments(self, wildcards: Wildcards) -> list[str]:
        """Every increment of every run and LGD method."""
        names: list[dict[str, object]] = [
            {"method": name, "k": k}
            for name in sorted(self.experiment.made_by("generate_increment"))
            for k in range(1, self._lgd(name).increments(self.experiment.ipc) + 1)
        ]
        return self._each_run(layout.INCREMENT, names)

    # ---- guidances ---------------------------------------------------------------------------------------------------

    def guidance_files(self, wildcards: Wildcards) -> list[str]:
        """The files of all guidances of a method, in the order in which its stage takes them."""
        if k := wildcards.get("k"):
            files = self.experiment.increment_files(wildcards.run, wildcards.method, int(k))
        else:
            ipc = int(wildcards.ipc) if wildcards.get("ipc") else None
            files = self.experiment.guidance_files(wildcards.run, wildcards.method, ipc)
        return [path for paths in files.values() for path in paths]

    def guidance_decoder(self, wildcards: Wildcards) -> list[str]:
        """The files of the autoencoder that guidances decode with, where it is another one and the method has some."""
        return self.guidance_autoencoder(wildcards) if self.experiment.guidance(wildcards.method).present() else []
