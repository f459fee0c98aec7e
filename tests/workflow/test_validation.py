"""An experiment that searches settings: its networks are tested on validation images, and its tables say so."""

from __future__ import annotations

from pathlib import Path

import yaml
from clone import Clone

from distillery.data.reading import ImageTable
from distillery.storage.tables import read_table

EXPERIMENT = {
    "name": "search",
    "dataset": {
        "source": {"kind": "digits"},
        "resolution": 16,
        "channels": "grey",
        "classes": ["0", "1"],
        "holdout": {"fraction": 0.5},
        "validation": {"fraction": 0.2},
    },
    "methods": {"random": {"kind": "random"}},
    "ipc": [1],
    "evaluation": {
        "protocol": {"preset": "small", "epochs": 2, "evaluations": 1},
        "networks": ["convnet1_w8"],
        "students": 1,
        "split": "validation",
    },
}


def test_networks_are_trained_without_validation_images_tested_on_them_and_the_tables_say_so(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "clone")
    (clone.folder / "experiments/search.yaml").write_text(yaml.safe_dump(EXPERIMENT), "utf-8")
    targets = [f"results/search/tables/{name}.md" for name in ("accuracy", "statistics")]
    done = clone.run("snakemake", "--cores", "2", "--configfile", "experiments/search.yaml", "--", *targets)
    assert done.returncode == 0, done.stdout
    results = clone.folder / "results/search"
    images = {name: len(ImageTable(results / f"data/{name}.parquet")) for name in ("train", "validation", "test")}
    assert len(set(images.values())) == 3
    for method, size, trained in (("random", "ipc1", 2), ("full", "ipcfull", images["train"])):
        [file] = (results / f"evaluation/{method}/{size}/convnet1_w8").glob("*.parquet")
        [row] = read_table(file, "evaluate").to_pylist()
        assert (row["images"], row["test_images"]) == (trained, images["validation"])
    accuracy, statistics = ((clone.folder / target).read_text("utf-8") for target in targets)
    assert "data set digits (2 classes of 16 px; validation images)" in accuracy
    assert "best epoch on the validation set" in accuracy and "validation set 95 %" in statistics
