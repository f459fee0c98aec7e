"""Every path below `results/<experiment>/`, written once.

A pattern holds wildcards of Snakemake. `<results>` stands for the folder of the experiment. `{run}` is empty for the
first seed of an experiment and `seed-<n>/` for any other: the files of a single seed lie at the top.
"""

from __future__ import annotations

Pattern = str

RESULTS = "<results>/"
"""What every path of a file begins with that a job makes."""

EXPERIMENT = "<results>/experiment.yaml"
"""The resolved experiment."""

TRAIN = "<results>/data/train.parquet"
VALIDATION = "<results>/data/validation.parquet"
TEST = "<results>/data/test.parquet"
WHITENING = "<results>/data/whitening.safetensors"
REJECTED = "<results>/data/rejected.parquet"
DUPLICATES = "<results>/data/duplicates.parquet"

CHECKED_NETWORK = "<results>/networks/{foreign}-{side}-{need}.csv"

AUTOENCODER_HISTORY = "<results>/{run}autoencoder/history.parquet"
GENERATOR_HISTORY = "<results>/{run}generators/{generator}/history.parquet"
LATENTS = "<results>/{run}latents/train-{shard}.safetensors"
REFERENCE = "<results>/{run}reference/{reference}.safetensors"
REFERENCE_HISTORY = "<results>/{run}reference/history/{reference}.parquet"
REFERENCE_BY_CLASS = "<results>/{run}reference/{reference}.by-class.csv"
FEATURES = "<results>/{run}features/{reference}.parquet"
CHECKPOINTS = "<results>/{run}surrogates/{surrogate}/checkpoints.safetensors"
GRADIENTS = "<results>/{run}surrogates/{surrogate}/gradients.safetensors"
SURROGATE_HISTORY = "<results>/{run}surrogates/{surrogate}/history.parquet"
SURROGATE_BY_CLASS = "<results>/{run}surrogates/{surrogate}/by-class.csv"
TRAJECTORIES = "<results>/{run}experts/{experts}/trajectories-{shard}.safetensors"
EXPERTS_HISTORY = "<results>/{run}experts/{experts}/history-{shard}.parquet"

RECONSTRUCTION = "<results>/{run}analysis/autoencoder.parquet"

MODELS = frozenset(
    {LATENTS, REFERENCE, FEATURES, CHECKPOINTS, GRADIENTS, TRAJECTORIES, RECONSTRUCTION}
    | {AUTOENCODER_HISTORY, GENERATOR_HISTORY, REFERENCE_HISTORY, SURROGATE_HISTORY, EXPERTS_HISTORY}
)
"""What belongs to the run that trains a model; several runs may share it."""

DISTILLED = "<results>/{run}distilled/{method}/ipc{ipc}.parquet"
INCREMENT = "<results>/{run}distilled/{method}/increment-{k}/images.parquet"
CANDIDATES = "<results>/{run}distilled/{method}/increment-{k}/candidates-{shard}.parquet"
STUDENT = "<results>/{run}distilled/{method}/increment-{k}/student.safetensors"
OTHER_STUDENTS = "<results>/{run}distilled/{method}/increment-{k}/other-students.safetensors"
"""The networks beside the one of `STUDENT`, where a method has several."""
STUDENT_HISTORY = "<results>/{run}distilled/{method}/increment-{k}/history.parquet"
CALIBRATED = "<results>/{run}distilled/{method}/guidance.json"
MODES = "<results>/{run}distilled/{method}/modes-{modes}.safetensors"
SAMPLED = "<results>/{run}distilled/{method}/sampled-{ipc}-{shard}.parquet"
SELECTED = "<results>/{run}distilled/{method}/selected-{ipc}.parquet"
IMPORTED = "<results>/{run}distilled/{method}/imported-{ipc}.parquet"
SNAPSHOTS = "<results>/{run}distilled/{method}/snapshots-{ipc}-{shard}.safetensors"
MATCHING_HISTORY = "<results>/{run}distilled/{method}/history-{ipc}-{shard}.parquet"
RENDERED = "<results>/{run}distilled/{method}/rendered-{ipc}-{shard}.parquet"
CHOSEN = "<results>/{run}distilled/{method}/chosen-{ipc}.parquet"
CHOICE = "<results>/{run}distilled/{method}/choice-{ipc}.parquet"

PARTS: dict[str, Pattern] = {
    "increment": INCREMENT,
    "sampled": SAMPLED,
    "selected": SELECTED,
    "imported": IMPORTED,
    "chosen": CHOSEN,
}
"""What a distilled set is collected from, by the name that a method gives it."""

TRACKED = "<results>/{run}tracking/receipt.json"

SOFT_LABELS = "<results>/{run}soft_labels/{method}/ipc{ipc}/{protocol}.safetensors"
EVALUATION = "<results>/{run}evaluation/{method}/ipc{ipc}/{network}/{protocol}.parquet"
EVALUATION_HISTORY = "<results>/{run}evaluation/{method}/ipc{ipc}/{network}/history/{protocol}.parquet"
GRADIENT_NORMS = "<results>/{run}analysis/gradients.parquet"
REDUNDANCY = "<results>/{run}analysis/redundancy/{method}.parquet"
INCREMENTAL_DYNAMICS = "<results>/{run}analysis/incremental_dynamics/{method}.parquet"
LEARNING_DYNAMICS = "<results>/{run}analysis/learning_dynamics.parquet"
LEARNING_SHARES = "<results>/{run}analysis/learning_shares.parquet"
VALIDITY = "<results>/{run}analysis/validity/{method}.parquet"
COVERAGE = "<results>/{run}analysis/coverage/{method}-{ipc}.parquet"
NEIGHBOURS = "<results>/{run}analysis/neighbours/{method}.parquet"
HELD_OUT_NEIGHBOURS = "<results>/{run}analysis/neighbours-held-out.parquet"
SAMPLE_PATH = "<results>/{run}analysis/path/{method}.parquet"
SHIFTS = "<results>/{run}analysis/shifts/{method}.parquet"
COST_TABLE = "<results>/cost/accuracy.csv"
STEPS_TABLE = "<results>/cost/steps.csv"
CALIBRATION_CURVE = "<results>/{run}tables/calibration-{method}.parquet"
PAGE = "<results>/report/index.html"
RULES = "<results>/report/rules.json"
"""The rules of the last run and what each reads, noted when the run starts; no job depends on it."""

CALIBRATION_CSV = "<results>/{run}tables/calibration-{method}.csv"


def autoencoder(folder: str) -> dict[str, Pattern]:
    """The files of an autoencoder in the layout of diffusers; the folder is relative to the results."""
    return {
        "config": f"<results>/{folder}/config.json",
        "weights": f"<results>/{folder}/diffusion_pytorch_model.safetensors",
    }


def generator(run: str = "{run}", part: str = "transformer") -> dict[str, Pattern]:
    """The files of a generator in the layout of diffusers; its network lies in the folder `part`."""
    folder = f"<results>/{run}generators/{{generator}}"
    return {
        "index": f"{folder}/model_index.json",
        "config": f"{folder}/{part}/config.json",
        "weights": f"{folder}/{part}/diffusion_pytorch_model.safetensors",
        "scheduler": f"{folder}/scheduler/scheduler_config.json",
    }


def unet() -> dict[str, Pattern]:
    """The files of a UNet that was opened, with its class vectors."""
    return {**generator("", "unet"), "classes": "<results>/generators/{generator}/unet/classes.safetensors"}


def finetuned() -> dict[str, Pattern]:
    """The files of a fine-tuned generator, its autoencoder among them: a pipeline of diffusers opens them."""
    vae = autoencoder("{run}generators/{generator}/vae")
    return {
        **generator(),
        "changed": "<results>/{run}generators/{generator}/changed.safetensors",
        **{f"vae_{name}": path for name, path in vae.items()},
    }


def table(name: str) -> dict[str, Pattern]:
    """A table in its three formats."""
    formats = {"csv": "csv", "parquet": "parquet", "markdown": "md"}
    return {file: f"<results>/tables/{name}.{end}" for file, end in formats.items()}


def figure(name: str, run: str = "", folder: str = "figures") -> dict[str, Pattern]:
    """A figure in its two formats.

    Args:
        folder: `cost` for a figure of measured times, which is another one in each run, as the costs are.
    """
    return {end: f"<results>/{run}{folder}/{name}.{end}" for end in ("png", "svg")}


def logs(stage: str, *wildcards: str, run: str = "") -> dict[str, Pattern]:
    """What a job says and what it cost, named by the wildcards of its rule; costs are grouped by method.

    Args:
        run: `{run}` for a stage that runs for every seed.
    """
    named = [f"{{{name}}}" for name in wildcards]
    group = "{method}/" if "method" in wildcards else ""
    alone = [name for name in named if name != "{method}"]
    return {
        "text": f"<results>/{run}logs/{'-'.join([stage, *named])}.log",
        "cost": f"<results>/{run}cost/{group}{'-'.join([stage, *alone])}.json",
    }


def fill(pattern: Pattern, **wildcards: object) -> str:
    """A path: the pattern with these values; `<results>` stays for Snakemake."""
    return pattern.format(**wildcards)
