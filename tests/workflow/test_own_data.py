"""The page on one's own pictures, command by command, on a folder as folders are."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from broken_images import bomb, encoded, picture
from clone import PROJECT, Clone
from PIL import Image

from distillery.report.pictures import write_pictures
from distillery.storage.images import ImageSet, read_images
from distillery.storage.tables import read_table

PAGE = PROJECT / "docs" / "own-data.md"
CLASSES = ["Ünïcode & co", "a b#c", "dog, 'small'"]


def deep_grey(seed: int) -> bytes:
    """A PNG of 16 bits."""
    values = np.random.default_rng(seed).integers(0, 65536, (40, 30), dtype=np.uint16)
    return encoded(Image.fromarray(values))


def see_through(seed: int) -> bytes:
    """A PNG with an alpha channel."""
    image = picture(50, 31, seed).convert("RGBA")
    image.putalpha(picture(50, 31, seed + 1).convert("L"))
    return encoded(image)


def made_folder(folder: Path) -> None:
    """Twelve usable pictures of every kind in each of three classes, and three broken files in one."""
    for number, name in enumerate(CLASSES):
        place = folder / name / "deep er"
        place.mkdir(parents=True)
        for row in range(6):
            seed = 100 * number + row
            kinds = [(encoded(picture(20 + 9 * row, 64, seed), "JPEG"), "jpg"), (encoded(picture(70, 33, seed)), "PNG")]
            for content, end in kinds:
                (place.parent / f"pic {row} (1).{end}").write_bytes(content)
        extra = [
            encoded(picture(40, 40, 7 + 1000 * number).convert("L")),
            encoded(picture(40, 40, 8 + 1000 * number).convert("P")),
            deep_grey(number),
            see_through(number),
            encoded(picture(64, 64, 9 + 1000 * number), "WEBP"),
        ]
        for row, content in enumerate(extra):
            (place / f"{row}.img").write_bytes(content)
        (place / ".hidden").write_bytes(b"not looked at")
    broken = folder / CLASSES[0]
    whole = encoded(picture(64, 64, 3), "JPEG")
    for name, content in {"cut.jpg": whole[: len(whole) // 2], "empty.png": b"", "bomb.png": bomb(60_000)}.items():
        (broken / name).write_bytes(content)


def commands() -> list[str]:
    """The five commands of the page."""
    block = re.search(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert block
    return block.group(1).strip().splitlines()


def smaller(experiment: dict[str, Any]) -> None:
    """As little work as there can be."""
    experiment["ipc"] = [10]
    experiment["dataset"]["resolution"] = 16
    experiment["autoencoder"] = {"block_out_channels": [8, 16], "steps": 5, "batch_size": 4}
    experiment["generators"]["dit"] |= {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "steps": 5}
    experiment["generators"]["dit"] |= {"batch_size": 4, "sampling": {"steps": 4, "guidance_scale": 1.5}}
    experiment["references"]["real"] = {"network": "convnet2_w8", "training": {"preset": "reference", "epochs": 1}}
    experiment["methods"]["lgd"]["student"] = {"protocol": {"preset": "small", "epochs": 2}}
    experiment["methods"]["lgd"]["guidance"]["learnability"]["strength"] = 1.0
    experiment["methods"]["lgd"]["increment_size"] = 10
    del experiment["methods"]["dit"]
    experiment["evaluation"] |= {
        "protocol": {"preset": "small", "epochs": 2},
        "networks": ["convnet2_w8"],
        "students": 1,
        "full_data": False,
    }


def test_the_page_has_five_commands() -> None:
    first, copy, plan, run, show = commands()
    assert first.startswith("make setup")
    assert "experiments/own.yaml > own.yaml" in copy
    assert plan == f"{run} --dry-run"
    assert show.startswith("python -m distillery.report.pictures results/own/distilled/lgd/ipc10.parquet")


def test_the_page_leads_from_a_folder_to_a_distilled_set(tmp_path: Path) -> None:
    made_folder(tmp_path / "my pictures")
    clone = Clone.of_project(tmp_path / "clone")
    _, copy, plan, run, show = commands()
    copied = clone.run("bash", "-ec", copy.replace("/path/to/pictures", str(tmp_path / "my pictures")))
    assert copied.returncode == 0, copied.stdout
    file = clone.folder / "own.yaml"
    experiment = yaml.safe_load(file.read_text("utf-8"))
    assert experiment["dataset"]["source"]["train"] == str(tmp_path / "my pictures")
    smaller(experiment)
    file.write_text(yaml.safe_dump(experiment), "utf-8")
    for command in (plan, run, show):
        done = clone.run("bash", "-ec", command)
        assert done.returncode == 0, done.stdout
    results = clone.folder / "results" / "own"
    rejected = read_table(results / "data/rejected.parquet", "ingest").to_pydict()
    assert sorted(Path(path).name for path in rejected["path"]) == ["bomb.png", "cut.jpg", "empty.png"]
    assert "more than dataset.max_pixels" in " ".join(rejected["reason"])
    train = read_images(results / "data/train.parquet", "ingest")
    assert train.classes == sorted(CLASSES)
    assert train.pixels().shape[1:] == (3, 16, 16)
    distilled = read_images(results / "distilled/lgd/ipc10.parquet", "collect")
    assert np.bincount(distilled.labels).tolist() == [10, 10, 10]
    pictures = sorted((clone.folder / "own-distilled").rglob("*.png"))
    assert len(pictures) == 30
    assert {path.parent.name for path in pictures} == set(CLASSES)


def test_pictures_stay_inside_their_folder(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture(8).save(buffer, "PNG")
    names = ["../up", "..", "a/b", "a_b", ""]
    images = ImageSet([buffer.getvalue()] * 5, np.arange(5), names, list("abcde"))
    written = write_pictures(images, tmp_path / "out")
    assert len({path.parent for path in written}) == 5
    assert all(path.resolve().is_relative_to((tmp_path / "out").resolve()) for path in written)
    assert all(len(path.relative_to(tmp_path / "out").parts) == 2 for path in written)


@pytest.mark.parametrize("command", commands()[2:4])
def test_a_command_of_the_page_is_one_of_snakemake(command: str) -> None:
    words = shlex.split(command)
    assert words[0] == "snakemake"
    assert "--configfile" in words
