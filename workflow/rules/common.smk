# Helpers of the rules: what a stage is told (settings, code), which files an experiment asks for, and input functions.
# No rule stands here, and nothing here computes.

import importlib
import re
from pathlib import Path

from snakemake.exceptions import WorkflowError

from distillery.plan import experiment as experiments
from distillery import processes, slurm, snakemake_internals
from distillery.data import external
from distillery.data.sources import input_files, listing_digest
from distillery.devices import visible_cards
from distillery.diffusion.weights import files_here
from distillery.plan.messages import keys_twice
from distillery.provenance import code_digests
from distillery.settings import canonical


def load_experiment():
    """The experiment of this run; a wrong file ends here, before the DAG is built."""
    for path in workflow.configfiles:
        if twice := keys_twice(Path(path).read_bytes()):
            raise WorkflowError(f"{path} is wrong:\n" + "\n".join(twice))
    try:
        return experiments.load(config)
    except experiments.ExperimentError as error:
        name = ", ".join(map(str, workflow.configfiles)) or "the experiment"
        raise WorkflowError(f"{name} is wrong:\n{error}") from None


EXPERIMENT = load_experiment()
RESULTS = f"results/{EXPERIMENT.name}"
RUNS = [EXPERIMENT.run(seed) for seed in EXPERIMENT.seeds]

KINDS = {
    kind: [name for name, method in EXPERIMENT.methods.items() if method.kind == kind]
    for kind in (
        *("lgd", "plain", *experiments.GUIDED, *experiments.MATCHED),
        *(*experiments.CHOOSING, "full", "external"),
    )
}
GENERATORS = {
    kind: [name for name, block in EXPERIMENT.generators.items() if block.kind == kind]
    for kind in ("train", "pretrained", "finetune")
}
UNETS = [
    name
    for name in GENERATORS["pretrained"]
    if EXPERIMENT.generators[name].network == "unet"
]
OPENED = [
    block
    for block in ("autoencoder", "guidance_autoencoder")
    if getattr(getattr(EXPERIMENT, block), "kind", None) == "pretrained"
]
PROTOCOLS = [protocol.label for protocol in EXPERIMENT.evaluation.protocols]


def one_of(names):
    """A wildcard constraint: one of these names, or nothing at all where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


ANY_RUN = r"(seed-\d+/)?"
TRAINED_RUN = one_of([]) if "autoencoder" in OPENED else ANY_RUN


wildcard_constraints:
    run=ANY_RUN,
    method=one_of(EXPERIMENT.methods),
    lgd=one_of(KINDS["lgd"]),
    plain=one_of(KINDS["plain"]),
    guided=one_of([name for kind in experiments.GUIDED for name in KINDS[kind]]),
    matched=one_of([name for kind in experiments.MATCHED for name in KINDS[kind]]),
    experts=one_of(EXPERIMENT.experts),
    loop=one_of([*KINDS["lgd"], *KINDS["real_by_learnability"]]),
    learned=one_of(KINDS["real_by_learnability"]),
    real=one_of([name for kind in experiments.REAL for name in KINDS[kind]]),
    external=one_of(KINDS["external"]),
    generator=one_of(EXPERIMENT.generators),
    reference=one_of(EXPERIMENT.references),
    surrogate=one_of(EXPERIMENT.surrogates),
    network=one_of(EXPERIMENT.evaluation.networks),
    protocol=one_of(PROTOCOLS),
    k=r"[1-9]\d*",
    ipc=r"[1-9]\d*|full",
    opened=one_of(OPENED),
    shard=r"\d+",
    modes=r"[1-9]\d*",


# ---- where jobs run ------------------------------------------------------------------------------------------------------


# The stage takes the place of its shell: it gets itself the signal that ends a job, and saves. A shell would die of it alone.
shell.prefix("set -euo pipefail; exec ")


def gigabytes(first):
    """Memory of a first attempt; a job that was killed asks for as much again with each further one."""

    def of(wildcards, attempt):
        return f"{first * attempt}GB"

    return of


OF_METHODS = (
    *("method", "lgd", "plain", "guided", "matched"),
    *("loop", "learned", "real", "external"),
)
"""The wildcards that hold the name of a method; which one says what kinds a rule is for."""


# ---- what a stage is told -------------------------------------------------------------------------------------------------


def settings(stage):
    """The settings of a stage for the wildcards of a job, as one canonical JSON."""
    stage_module = importlib.import_module(f"distillery.stages.{stage}")

    def of(wildcards):
        named = {
            "method" if key in OF_METHODS else key: value
            for key, value in wildcards.items()
        }
        return canonical(stage_module.Settings.of(EXPERIMENT, **named))

    return of


def code(stage):
    """The digests of the code behind a stage: a job runs again when one changes, and the reason names the module."""
    return code_digests(stage)


# ---- files ---------------------------------------------------------------------------------------------------------------


AUTOENCODER = [
    "<results>/{run}{block}/config.json",
    "<results>/{run}{block}/diffusion_pytorch_model.safetensors",
]
GENERATOR = [
    "<results>/{run}generators/{generator}/model_index.json",
    "<results>/{run}generators/{generator}/transformer/config.json",
    "<results>/{run}generators/{generator}/transformer/diffusion_pytorch_model.safetensors",
    "<results>/{run}generators/{generator}/scheduler/scheduler_config.json",
]


UNET = [
    "<results>/generators/{generator}/model_index.json",
    "<results>/generators/{generator}/unet/config.json",
    "<results>/generators/{generator}/unet/diffusion_pytorch_model.safetensors",
    "<results>/generators/{generator}/unet/classes.safetensors",
    "<results>/generators/{generator}/scheduler/scheduler_config.json",
]


def source_files(wildcards):
    """Files that the images are read from, where there are few; folders are compared by their listing instead."""
    return input_files(EXPERIMENT.dataset.source)


def source_listing(wildcards):
    """What tells a folder of images from the same folder with one file more."""
    return listing_digest(EXPERIMENT.dataset.source)


def external_file(wildcards):
    """The file that a set made elsewhere is; none where it is a folder, which is compared by its listing."""
    seed = EXPERIMENT.seed(wildcards.run)
    return external.files_of(
        EXPERIMENT.methods[wildcards.external], int(wildcards.ipc), seed
    )


def external_listing(wildcards):
    """What tells a folder of a set made elsewhere from the same folder with one file more."""
    seed = EXPERIMENT.seed(wildcards.run)
    return external.listing_of(
        EXPERIMENT.methods[wildcards.external], int(wildcards.ipc), seed
    )


def method_name(wildcards):
    """The name of the method of a job, whatever kind of method its rule is for."""
    return next(wildcards.get(key) for key in OF_METHODS if wildcards.get(key))


def autoencoder_run(wildcards):
    """The place of the run that the autoencoder and its latents belong to: one that is opened is the same for all."""
    return wildcards.run if EXPERIMENT.autoencoder.kind == "train" else ""


def autoencoder_of(wildcards):
    """The files of the autoencoder."""
    return [
        file.format(run=autoencoder_run(wildcards), block="autoencoder")
        for file in AUTOENCODER
    ]


def guidance_autoencoder_of(wildcards):
    """The files of the autoencoder that guidances decode with, where it is another one."""
    opened = EXPERIMENT.guidance_autoencoder is not None
    return [
        file.format(run="", block="guidance_autoencoder")
        for file in AUTOENCODER
        if opened
    ]


def perceptual_reference(wildcards):
    """The network that the autoencoder's perceptual term asks."""
    term = EXPERIMENT.autoencoder.perceptual
    return (
        [f"<results>/{wildcards.run}reference/{term.reference}.safetensors"]
        if term
        else []
    )


def latents_of(wildcards):
    """The files of the latents."""
    return [
        f"<results>/{autoencoder_run(wildcards)}latents/train-{shard}.safetensors"
        for shard in range(EXPERIMENT.latents.shards)
    ]


def generator_files(wildcards, name):
    """The files of a generator: one that is opened is the same for all runs."""
    if name in UNETS:
        return [file.format(generator=name) for file in UNET]
    run = "" if EXPERIMENT.generators[name].kind == "pretrained" else wildcards.run
    return [file.format(run=run, generator=name) for file in GENERATOR]


def generator_of(wildcards):
    """The files of the generator of a method."""
    return generator_files(
        wildcards, EXPERIMENT.methods[method_name(wildcards)].generator
    )


def generator_of_space(wildcards):
    """The files of the generator that images are optimised through, where they are."""
    method = EXPERIMENT.methods[wildcards.matched]
    return generator_of(wildcards) if method.kind == "ld3m" else []


def autoencoder_of_space(wildcards):
    """The files of the autoencoder whose latents are optimised, where they are."""
    kind = EXPERIMENT.methods[wildcards.matched].kind
    return autoencoder_of(wildcards) if kind in ("ld3m", "autoencoder") else []


def expert_files(wildcards, method):
    """The trajectories that a method matches: trained here, or those that the experiment names."""
    objective = getattr(EXPERIMENT.methods[method], "objective", None)
    name = getattr(objective, "experts", None)
    if name is None:
        return []
    block = EXPERIMENT.experts[name]
    return block.files or [
        f"<results>/{wildcards.run}experts/{name}/trajectories-{shard}.safetensors"
        for shard in range(block.shards)
    ]


def experts_of(wildcards):
    """The trajectories that the method of a job matches."""
    return expert_files(wildcards, wildcards.matched)


def rendered_shards(wildcards):
    """The pictures of all snapshots of a size."""
    folder = f"<results>/{wildcards.run}distilled/{wildcards.matched}"
    shards = range(EXPERIMENT.methods[wildcards.matched].shards)
    return [f"{folder}/rendered-{wildcards.ipc}-{shard}.parquet" for shard in shards]


def measured_generator(wildcards):
    """The generator whose gradients are measured."""
    method = EXPERIMENT.methods[EXPERIMENT.analysis.gradients.method]
    return generator_files(wildcards, method.generator)


def measured_experts(wildcards):
    """The trajectories that the method whose gradients are measured matches."""
    return expert_files(wildcards, EXPERIMENT.analysis.gradients.method)


def all_norms(wildcards):
    """The gradients of every run."""
    return [f"<results>/{run}analysis/gradients.parquet" for run in RUNS]


def base_of(wildcards):
    """The files of the generator that a fine-tuned one starts from."""
    return generator_files(wildcards, EXPERIMENT.generators[wildcards.generator].base)


def cards_of(wildcards):
    """The cards of a training: one for each process that shares it."""
    return EXPERIMENT.generators[wildcards.generator].processes


def weights_of(block):
    """The files of weights in a folder that the experiment names; a name on the hub has none here."""

    def of(wildcards):
        named = (
            EXPERIMENT.generators[wildcards.generator]
            if block == "generators"
            else getattr(EXPERIMENT, wildcards.opened)
        )
        return files_here(named.weights, named.subfolder)

    return of


def all_references(wildcards):
    """Every reference of a run, by name."""
    return [
        f"<results>/{wildcards.run}reference/{name}.safetensors"
        for name in sorted(EXPERIMENT.references)
    ]


def all_reconstructions(wildcards):
    """What the autoencoder of every run keeps of the test images."""
    return [f"<results>/{run}analysis/autoencoder.parquet" for run in RUNS]


def reference_of(wildcards):
    """The reference of a method that works in increments."""
    return f"<results>/{wildcards.run}reference/{EXPERIMENT.loop(method_name(wildcards)).reference}.safetensors"


def judge_of(wildcards):
    """The network that judges the pilot of an LGD method."""
    lgd = EXPERIMENT.lgd(method_name(wildcards))
    return f"<results>/{wildcards.run}reference/{lgd.calibration.judge or lgd.reference}.safetensors"


def increment_file(wildcards, k, name):
    """A file of increment k of the method of a job."""
    return f"<results>/{wildcards.run}distilled/{method_name(wildcards)}/increment-{k}/{name}"


def increments_up_to(wildcards):
    """The increments 1 to k."""
    return [
        increment_file(wildcards, k, "images.parquet")
        for k in range(1, int(wildcards.k) + 1)
    ]


def increments_before(wildcards):
    """The increments before k, whose latents steer away from what is there."""
    return [
        increment_file(wildcards, k, "images.parquet")
        for k in range(1, int(wildcards.k))
    ]


def student_before(wildcards):
    """The student of the increments before k; increment 1 has none."""
    before = int(wildcards.k) - 1
    return [increment_file(wildcards, before, "student.safetensors")] if before else []


def continued_from(wildcards):
    """The student that a `continued` one starts from."""
    return (
        student_before(wildcards)
        if EXPERIMENT.loop(method_name(wildcards)).student.start == "continued"
        else []
    )


def reference_after_first(wildcards):
    """The reference, where there is a student beside it."""
    return [reference_of(wildcards)] if int(wildcards.k) > 1 else []


def calibrated(wildcards):
    """What the calibration chose, where the experiment leaves something to it."""
    lgd = EXPERIMENT.lgd(method_name(wildcards))
    wanted = lgd.calibrates and int(wildcards.k) > 1
    return (
        [f"<results>/{wildcards.run}distilled/{method_name(wildcards)}/guidance.json"]
        if wanted
        else []
    )


def seed_images(wildcards):
    """The set of another method that increment 1 is taken from."""
    lgd = EXPERIMENT.lgd(wildcards.lgd)
    if lgd.seed == "plain" or int(wildcards.k) > 1:
        return []
    return [
        f"<results>/{wildcards.run}distilled/{lgd.seed}/ipc{lgd.increment_size}.parquet"
    ]


def modes_of(wildcards):
    """The modes that a method is drawn to: of its size, or one set for all sizes."""
    name = method_name(wildcards)
    first = wildcards.get("k") == "1"
    if EXPERIMENT.mode(name) is None or first:
        return []
    count = EXPERIMENT.modes(name, int(wildcards.get("ipc") or max(EXPERIMENT.ipc)))
    return [f"<results>/{wildcards.run}distilled/{name}/modes-{count}.safetensors"]


def gradients_of(wildcards):
    """The gradients of the classes that influence compares with."""
    influence = EXPERIMENT.influence(method_name(wildcards))
    if influence is None or wildcards.get("k") == "1":
        return []
    return [
        f"<results>/{wildcards.run}surrogates/{influence.surrogate}/gradients.safetensors"
    ]


def checkpoints_of(wildcards):
    """The states of a surrogate: trained here, or those that the experiment names."""
    given = EXPERIMENT.surrogates[wildcards.surrogate].checkpoints
    place = f"<results>/{wildcards.run}surrogates/{wildcards.surrogate}"
    return given or f"{place}/checkpoints.safetensors"


def smaller_shards(wildcards):
    """The images of the smaller sizes, where a guided method keeps away from what it has."""
    name = method_name(wildcards)
    if EXPERIMENT.guided(name).deviation is None or not EXPERIMENT.nested(name):
        return []
    return [
        f"<results>/{wildcards.run}distilled/{name}/sampled-{size}-{wildcards.shard}.parquet"
        for size in sorted(EXPERIMENT.ipc)
        if size < int(wildcards.ipc)
    ]


def candidates_of(wildcards):
    """The candidates of all shards."""
    shards = range(EXPERIMENT.lgd(wildcards.lgd).shards)
    return [
        increment_file(wildcards, wildcards.k, f"candidates-{shard}.parquet")
        for shard in shards
    ]


def increment_group(wildcards):
    """The short stages of an increment are one submission. A slash in its name would keep Slurm waiting for ever."""
    loop = getattr(wildcards, "lgd", None) or wildcards.loop
    return f"increment-{wildcards.k}-{loop}@{wildcards.run.strip('/')}"


def candidates_group(wildcards):
    """Candidates that one job makes go with them; many shards are one submission each."""
    several = EXPERIMENT.lgd(wildcards.lgd).shards > 1
    return None if several else increment_group(wildcards)


def scores_of(wildcards):
    """The scores of the candidates; increment 1 has none."""
    return (
        [increment_file(wildcards, wildcards.k, "scores.parquet")]
        if int(wildcards.k) > 1
        else []
    )


def parts_of(wildcards):
    """What the distilled set of a size is collected from: increments, shards, or one selection."""
    method, name = EXPERIMENT.methods[wildcards.method], wildcards.method
    folder = f"<results>/{wildcards.run}distilled/{name}"
    if method.kind in ("lgd", "real_by_learnability"):
        last = -(-int(wildcards.ipc) // method.increment_size)
        return [f"{folder}/increment-{k}/images.parquet" for k in range(1, last + 1)]
    if method.kind in experiments.MATCHED:
        return [f"{folder}/chosen-{wildcards.ipc}.parquet"]
    if method.kind == "external":
        return [f"{folder}/imported-{wildcards.ipc}.parquet"]
    if not EXPERIMENT.nested(name):
        return [
            f"{folder}/sampled-{wildcards.ipc}-{shard}.parquet"
            for shard in range(method.shards)
        ]
    if method.kind in ("plain", *experiments.GUIDED):
        sizes = [
            size
            for size in sorted(EXPERIMENT.ipc)
            if EXPERIMENT.smaller(size) < int(wildcards.ipc)
        ]
        return [
            f"{folder}/sampled-{size}-{shard}.parquet"
            for size in sizes
            for shard in range(method.shards)
        ]
    return [f"{folder}/selected-{wildcards.ipc}.parquet"]


def all_evaluations(wildcards):
    """The evaluations of every run, method, size, network and protocol."""
    return [
        f"<results>/{run}evaluation/{method}/ipc{ipc}/{network}/{protocol}.parquet"
        for run in RUNS
        for method in sorted(EXPERIMENT.methods)
        for ipc in EXPERIMENT.sizes(method)
        for network in sorted(EXPERIMENT.evaluation.networks)
        for protocol in sorted(PROTOCOLS)
    ]


def evaluated_images(wildcards):
    """The images that networks are trained on: a distilled set, or all real ones."""
    if wildcards.ipc == "full":
        return "<results>/data/train.parquet"
    return f"<results>/{wildcards.run}distilled/{wildcards.method}/ipc{wildcards.ipc}.parquet"


def recipe_of(wildcards):
    """The constants of a protocol, as far as they say where labels come from."""
    protocol = EXPERIMENT.evaluation.labelled(wildcards.protocol)
    network = EXPERIMENT.evaluation.networks[0]
    return EXPERIMENT.recipe(protocol, network, wildcards.ipc)


def teacher_of(wildcards):
    """The network that gives soft labels."""
    recipe = recipe_of(wildcards)
    return (
        [f"<results>/{wildcards.run}reference/{recipe.teacher}.safetensors"]
        if recipe.labels == "soft"
        else []
    )


def online_teacher(wildcards):
    """The teacher, where it answers while networks are trained."""
    return teacher_of(wildcards) if recipe_of(wildcards).soft_labels == "online" else []


def stored_labels(wildcards):
    """The teacher's answers, where they are stored."""
    recipe = recipe_of(wildcards)
    wanted = recipe.labels == "soft" and recipe.soft_labels == "stored"
    place = f"{wildcards.method}/ipc{wildcards.ipc}/{wildcards.protocol}"
    return (
        [f"<results>/{wildcards.run}soft_labels/{place}.safetensors"] if wanted else []
    )


def features_for(wildcards):
    """What a selection chooses by, where it is not chance."""
    method = EXPERIMENT.methods[wildcards.real]
    return (
        []
        if method.kind == "random"
        else [f"<results>/{wildcards.run}features/{method.features}.parquet"]
    )


def pretrained_weights(wildcards):
    """The file that a reference is opened from, where it is not trained here."""
    weights = EXPERIMENT.references[wildcards.reference].weights
    return [weights] if weights not in (None, "timm") else []


def all_matrices(wildcards):
    """The redundancy matrices of every run and method that the experiment names."""
    methods = sorted(
        {
            *EXPERIMENT.analysis.redundancy.methods,
            *filter(None, [EXPERIMENT.analysis.redundancy.baseline]),
        }
    )
    return [
        f"<results>/{run}analysis/redundancy/{method}.parquet"
        for run in RUNS
        for method in methods
    ]


def coverage_features(wildcards):
    """What the network that coverage is measured with sees in the real images."""
    name = EXPERIMENT.analysis.coverage.features
    return f"<results>/{wildcards.run}features/{name}.parquet"


def coverage_reference(wildcards):
    """The network that coverage is measured with."""
    name = EXPERIMENT.analysis.coverage.features
    return f"<results>/{wildcards.run}reference/{name}.safetensors"


def all_coverages(wildcards):
    """The coverages of every distilled set."""
    return [
        f"<results>/{run}analysis/coverage/{method}-{ipc}.parquet"
        for run in RUNS
        for method in sorted(EXPERIMENT.methods)
        for ipc in EXPERIMENT.sizes(method)
        if ipc != "full"
    ]


def every_increment(wildcards):
    """Every increment of every run and LGD method."""
    return [
        f"<results>/{run}distilled/{method}/increment-{k}/images.parquet"
        for run in RUNS
        for method in sorted(KINDS["lgd"])
        for k in range(1, EXPERIMENT.increments(method) + 1)
    ]


def largest_set(wildcards):
    """The largest set of a method."""
    return f"<results>/{wildcards.run}distilled/{wildcards.method}/ipc{max(EXPERIMENT.ipc)}.parquet"


def all_increments(wildcards):
    """Every increment of an LGD method."""
    numbers = range(1, EXPERIMENT.increments(wildcards.lgd) + 1)
    return [increment_file(wildcards, k, "images.parquet") for k in numbers]


# ---- targets -------------------------------------------------------------------------------------------------------------


def distilled_sets():
    """The distilled set of every run, method and size."""
    return [
        f"{RESULTS}/{run}distilled/{method}/ipc{ipc}.parquet"
        for run in RUNS
        for method in EXPERIMENT.methods
        for ipc in EXPERIMENT.sizes(method)
        if ipc != "full"
    ]


def tables():
    """The tables that the experiment asks for."""
    names = ["accuracy", "statistics"]
    if EXPERIMENT.generators:
        names.append("autoencoder")
    if KINDS["lgd"]:
        names.append("increments")
    if EXPERIMENT.analysis.published:
        names.append("published")
    if EXPERIMENT.analysis.redundancy.methods:
        names.append("redundancy")
    if EXPERIMENT.analysis.coverage:
        names.append("coverage")
    if EXPERIMENT.analysis.gradients:
        names.append("gradients")
    if EXPERIMENT.analysis.front:
        names.append("front")
    return [f"{RESULTS}/tables/{name}.csv" for name in names]


def figures():
    """The figures that the experiment asks for."""
    names = ["accuracy"]
    if EXPERIMENT.analysis.redundancy.methods:
        names.append("redundancy")
    if EXPERIMENT.analysis.gradients:
        names.append("gradients")
    if EXPERIMENT.analysis.front:
        names.append("front")
    per_run = [
        f"{run}figures/{kind}-{name}"
        for run in RUNS
        for name in KINDS["lgd"]
        for kind in (
            "increments",
            *(["calibration"] if EXPERIMENT.lgd(name).calibrates else []),
        )
    ]
    return [
        f"{RESULTS}/{name}.{end}"
        for name in [*(f"figures/{name}" for name in names), *per_run]
        for end in ("png", "svg")
    ]


def closing_words():
    """Where the results of a finished run are, and the main table."""
    table = Path(RESULTS, "tables/accuracy.md")
    return "\n".join(
        [
            "",
            table.read_text("utf-8") if table.exists() else "",
            f"tables:         {RESULTS}/tables/",
            f"figures:        {RESULTS}/figures/",
            f"distilled sets: {RESULTS}/distilled/<method>/ipc<n>.parquet",
        ]
    )
