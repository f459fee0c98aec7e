"""A small folder of results, and the report page of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from clone import PROJECT
from matplotlib.figure import Figure
from tiny import MADE_BY

from distillery.report.style import save
from distillery.report.tables import csv_bytes
from distillery.stages import write_report
from distillery.storage.images import ImageSet, encode_png, write_images
from distillery.storage.tables import write_table

HOSTILE = [
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "=cmd()",
    "{{ 7 * 7 }}",
    "a\x1b[31mb",
    "line\nbreak",
    "\u202eabc",
]

RULES = {
    "ingest": {"jobs": 1, "from": []},
    "train_student": {"jobs": 4, "from": ["ingest", "select_increment"]},
    "select_increment": {"jobs": 5, "from": ["train_student"]},
    "collect": {"jobs": 5, "from": ["ingest", "select_increment"]},
    "write_report": {"jobs": 1, "from": ["collect", "ingest"]},
    "all": {"jobs": 1, "from": ["write_report"]},
}


class Results:
    """A folder of results with two seeds, two tables and three figures, and the names of data that it is given."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder / "results/small"
        self.captions = folder / "workflow/report"
        shutil.copytree(PROJECT / "workflow/report", self.captions)
        pixels = encode_png(np.zeros((1, 4, 4), np.uint8))
        images = ImageSet([pixels] * 2, np.array([0, 1]), ["a", names[0]], ["a/0.png", "b/0.png"])
        for path in ("data/train.parquet", "data/test.parquet", "distilled/dit/ipc1.parquet"):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_images(self.folder / path, images, MADE_BY)
        rejected = {"path": pa.array(names, pa.string()), "reason": pa.array(["no picture"] * len(names), pa.string())}
        write_table(self.folder / "data/rejected.parquet", pa.table(rejected), MADE_BY)
        self.write("experiment.yaml", f"name: small\nclasses: {json.dumps(names)}\n")
        rows = [
            {"method": name, "ipc": 10 - number, "accuracy_mean": number + 0.5} for number, name in enumerate(names)
        ]
        table = pd.DataFrame([*rows, {"method": "dit", "ipc": 3}]).assign(
            experiment="small", dataset="d", commit="c0ffee"
        )
        self.write("tables/accuracy.csv", csv_bytes(table).decode())
        self.write("tables/accuracy.md", "Accuracy.")
        self.write("tables/increments.csv", "method,seed,learnability\nlgd,0,0.66666666666667\n")
        self.figures = ["figures/accuracy", "figures/increments-lgd", "seed-3/figures/increments-lgd"]
        for figure in self.figures:
            self.draw(figure, names[0])
        self.write("report/rules.json", json.dumps(RULES))
        self.cost("cost/dit/evaluate-1.json", 2.5)
        self.settings: dict[str, Any] = {
            **{"name": "small", "first_seed": 0, "facts": {"Methods": ", ".join(names)}, "look": "0"},
            "remarks": ["There is one seed."],
        }

    def write(self, path: str, text: str) -> Path:
        """Write a text file."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        return file

    def draw(self, figure: str, title: str) -> None:
        """Draw a figure in both formats."""
        drawn = Figure(figsize=(2, 2))
        drawn.add_subplot().set_title(title, parse_math=False)
        (self.folder / figure).parent.mkdir(parents=True, exist_ok=True)
        save(drawn, self.folder / f"{figure}.png", self.folder / f"{figure}.svg")

    def cost(self, path: str, seconds: float) -> None:
        """Note what a job cost."""
        record = {"stage": "evaluate", "device": "cpu", "threads": 1, "seconds": seconds, "peak_memory_mb": 1.0}
        self.write(path, json.dumps(record))

    @property
    def page(self) -> Path:
        """The report page."""
        return self.folder / "report/index.html"

    def report(self) -> str:
        """Write the page; its text."""
        write_report.run(
            write_report.Settings.model_validate(self.settings),
            experiment=self.folder / "experiment.yaml",
            train=self.folder / "data/train.parquet",
            test=self.folder / "data/test.parquet",
            rejected=self.folder / "data/rejected.parquet",
            tables=sorted(self.folder.glob("tables/*.csv")),
            figures=[self.folder / f"{name}.{end}" for name in self.figures for end in ("png", "svg")],
            captions=sorted(self.captions.glob("*/*.rst")),
            distilled=sorted(self.folder.glob("distilled/*/*.parquet")),
            page=self.page,
            job=SimpleNamespace(stage="write_report"),  # type: ignore[arg-type]
        )
        return self.page.read_text("utf-8")
