"""The data card of a distilled set, in the layout of the hub: YAML, and Markdown in which text from data is text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distillery.report.tables import MEAN, markdown_table, mean_and_std
from distillery.report.text import markdown_text

MADE_OF = {
    "generate_increment": "Images drawn from a generative model, increment by increment.",
    "sample": "Images drawn from a generative model.",
    "match": "Images that were optimised.",
    "select": "Training images of the source data.",
    "select_by_learnability": "Training images of the source data.",
    "select_by_modes": "Training images of the source data.",
    "stitch_crops": "Crops of training images of the source data, stitched together.",
    "import_images": "Images that were distilled elsewhere.",
    "choose_set": "One of several sets, chosen by the accuracy of networks on validation images.",
}
"""What the last stage before a set makes."""

UNFILLED = "unknown"
"""The licence of a set whose publisher has named none, as the hub calls it."""


class Shown(str):
    """Text that is Markdown or code already."""

    __slots__ = ()


@dataclass(frozen=True)
class Facts:
    """What a card says.

    Attributes:
        about: lineage of the set, as `plan.lineage` has it.
        classes: names in the order of the labels.
        images, ipc, side, channels: of the set.
        columns: of its table, beside image and label.
        files: name as code and content in words, of each file or folder of the export.
        missing: sentences about what is missing.
        commit: of the code that made the final tables, or why there is none.
        calibrated: what a calibration chose, by name.
        learned_rate: the step size that was learned with the set; None: none was.
        accuracy, redundancy: rows of the final tables, or why there are none.
        split: the images that accuracies are of: test or validation.
        licence: of the set, as the hub abbreviates it.
        generator_licence: of weights from elsewhere, in words.
        place: name on the hub; none: it is opened where it lies.
        class_folders, folders_named_by_label: whether the images are files too, in folders named by label and class.
        shards: the pattern of the WebDataset shards; none: there are none.
    """

    about: Mapping[str, Any]
    classes: Sequence[str]
    images: int
    ipc: int
    side: int
    channels: int
    columns: Sequence[str]
    files: Sequence[tuple[str, str]]
    missing: Sequence[str]
    commit: str
    calibrated: Mapping[str, Any]
    accuracy: pd.DataFrame | str
    redundancy: pd.DataFrame | str
    learned_rate: float | None = None
    split: str = "test"
    licence: str = UNFILLED
    generator_licence: str | None = None
    place: str | None = None
    class_folders: bool = False
    folders_named_by_label: bool = False
    shards: str | None = None


def data_card(facts: Facts) -> str:
    """The card as one Markdown file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Shown) else markdown_text(str(value)),
    )
    about = facts.about
    settings = about["settings"]
    title = f"{about['experiment']}: {about['method']}, {facts.ipc} images per class"
    tables = {"accuracy": facts.accuracy, "redundancy": facts.redundancy}
    missing = {f"no_{name}": table if isinstance(table, str) else "" for name, table in tables.items()}
    shown = {name: "" if isinstance(table, str) else _TABLES[name](table) for name, table in tables.items()}
    return environment.get_template("card.md.jinja").render(
        front_matter=Shown(_front_matter(facts, title)),
        title=title,
        made_of=_made_of(about["stages"]),
        images=facts.images,
        classes=len(facts.classes),
        class_table=Shown(_classes(facts.classes)),
        ipc=facts.ipc,
        side=facts.side,
        colour=", grey" if facts.channels == 1 else "",
        about=about,
        split=facts.split,
        columns=Shown(", ".join(f"`{name}`" for name in facts.columns)),
        files=[(Shown(name), content) for name, content in facts.files],
        sentences_missing=list(facts.missing),
        place=Shown(json.dumps(facts.place)) if facts.place else "",
        class_folders=facts.class_folders,
        folders_named_by_label=facts.folders_named_by_label,
        shards=Shown(json.dumps(facts.shards)) if facts.shards else "",
        source=list(_source(settings["ingest"]["dataset"])),
        making=list(_making(about, facts)),
        licences=list(_licences(about, facts)),
        generated=any(name.startswith("open_generator") for name in settings),
        settings=Shown(_code_block({stage: settings[stage] for stage in about["stages"]})),
        **missing,
        **{name: Shown(text) for name, text in shown.items()},
    )


def _classes(names: Sequence[str], most: int = 100) -> str:
    """Labels and class names, the first of them where there are many."""
    table = markdown_table(["label", "class"], [[str(label), name] for label, name in enumerate(names[:most])])
    return table if len(names) <= most else f"{table}\n{len(names) - most} more are in `classes.json`.\n"


def _made_of(stages: Sequence[str]) -> str:
    """What the images are, in words: of the stage that the set is collected from, and of sets of other methods."""
    kinds = [kind for kind in (stage.partition(":")[0] for stage in stages) if kind in MADE_OF]
    words = MADE_OF[kinds[-1]]
    if others := [sentence for sentence in dict.fromkeys(map(MADE_OF.__getitem__, kinds)) if sentence != words]:
        named = "The sets" if kinds[-1] == "choose_set" else "The first images of each class"
        words += f" {named}: {' '.join(others)}"
    return words


def _code_block(settings: Mapping[str, Any]) -> str:
    """Settings as a block of YAML, which nothing in them ends."""
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=False, width=100)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}yaml\n{text}{fence}"


def _front_matter(facts: Facts, title: str) -> str:
    size = next(words for most, words in _SIZES if facts.images < most)
    content = {
        "pretty_name": title,
        "license": facts.licence,
        "task_categories": ["image-classification"],
        "size_categories": [size],
        "tags": ["dataset-distillation", "image", str(facts.about["kind"])],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


_SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    (10**12, "10M<n<100M"),
)


def _source(dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The data that were distilled, in words."""
    source = dataset["source"]
    kinds = {
        "digits": "the 1,797 handwritten digits that scikit-learn ships (sklearn.datasets.load_digits)",
        "folder": "class folders of images",
        "parquet": "Parquet files of images",
    }
    rows = [("images", kinds[source["kind"]])]
    places = source.get("train")
    if places:
        rows.append(("place", places if isinstance(places, str) else ", ".join(places)))
    if source.get("origin"):
        rows.append(("origin", source["origin"]))
    crop = {"center": "the middle square", "stretch": "stretched to a square", "pad": "padded to a square"}
    rows.append(("resolution", f"{dataset['resolution']} pixels, {dataset['channels']}, {crop[dataset['crop']]}"))
    if dataset.get("holdout"):
        fraction = dataset["holdout"]["fraction"]
        rows.append(("test images", f"{100 * fraction:g} % of each class, held out"))
    if dataset.get("validation"):
        fraction = dataset["validation"]["fraction"]
        rows.append(("validation images", f"{100 * fraction:g} % of each class of the training images, held out"))
    return rows


def _making(about: Mapping[str, Any], facts: Facts) -> list[str]:
    stages = [stage.replace(":", " ") for stage in about["stages"]]
    calibrated = sorted(facts.calibrated.items(), reverse=True)
    return [
        f"Stages: {', '.join([*stages, 'collect'])}.",
        f"Seed of the experiment: {about['seed']}.",
        f"Commit of the code: {facts.commit}.",
        *(f"The calibration chose {name.replace('_', ' ')} {value}." for name, value in calibrated),
        *_learned_rate(facts.learned_rate),
    ]


def _learned_rate(rate: float | None) -> list[str]:
    if rate is None:
        return []
    return [f"Step size that was learned with the set: {rate:.6g}, the learning rate of SGD that it was made for."]


def _licences(about: Mapping[str, Any], facts: Facts) -> list[str]:
    """Which weights stand behind the set, with their licences, and its own licence."""
    trained = {"train_generator": "Generator", "finetune_generator": "Generator", "train_autoencoder": "Autoencoder"}
    opened = {"open_generator": "Generator", "open_autoencoder": "Autoencoder"}
    licence = facts.generator_licence or "not stated here; see where the weights come from"
    sentences = []
    for stage in about["stages"]:
        settings = about["settings"][stage]
        kind, _, name = stage.partition(":")
        weights = settings.get("generator", settings.get("autoencoder", {}))
        if kind in trained:
            base = f", from the weights of {weights['base']}" if kind == "finetune_generator" else ""
            sentences.append(f"{' '.join([trained[kind], name]).strip()}: trained on the source data{base}.")
        elif kind in opened:
            revision = f" at {weights['revision']}" if weights.get("revision") else ""
            words = f"{weights['weights']}{revision}. Licence: {licence}"
            sentences.append(f"{' '.join([opened[kind], name]).strip()}: {words}.")
    if not sentences:
        sentences.append("No generator: the images come from the source data or from elsewhere.")
    own = "not filled in yet; set license at the head of this file" if facts.licence == UNFILLED else facts.licence
    return [*sentences, f"Licence of this set: {own}."]


def _accuracy(table: pd.DataFrame) -> str:
    if table["network"].nunique() == 2:  # the mean of one network is that network
        table = table[table["network"] != MEAN]
    header = ["method", "IPC", "network", "protocol", "n", "accuracy"]
    rows = [
        [
            str(row["method"]),
            str(row["ipc"]),
            "mean of networks" if row["network"] == MEAN else str(row["network"]),
            str(row["protocol"]),
            str(row["n"]),
            mean_and_std(row["accuracy_mean"], row["accuracy_std"]),
        ]
        for row in table.to_dict("records")
    ]
    return markdown_table(header, rows)


def _redundancy(table: pd.DataFrame) -> str:
    header = ["method", "parts", "n", "redundancy"]
    rows = [
        [
            str(row["method"]),
            str(row["increments"]),
            str(row["n"]),
            mean_and_std(row["off_diagonal_mean"], row["off_diagonal_std"]),
        ]
        for row in table.to_dict("records")
    ]
    return markdown_table(header, rows)


_TABLES = {"accuracy": _accuracy, "redundancy": _redundancy}
