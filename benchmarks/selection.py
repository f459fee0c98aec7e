"""Random, Herding and K-Center on ImageNette, under `minimax` at 64 px with a share of its epochs: which order holds?

python benchmarks/selection.py FOLDER

FOLDER holds `imagenette128-train.parquet` and `imagenette128-val.parquet`, in the Hugging Face image layout. The
experiment is `experiments/imagenette128-selection.yaml`; it resumes where it was stopped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "imagenette128-selection.yaml"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1]).resolve()
    experiment = yaml.safe_load(EXPERIMENT.read_text("utf-8"))
    source = experiment["dataset"]["source"]
    for split in ("train", "test"):
        source[split] = [str(folder / Path(path).name) for path in source[split]]
    results = Path("results", experiment["name"])
    results.mkdir(parents=True, exist_ok=True)
    local = results / "experiment.yaml"
    local.write_text(yaml.safe_dump(experiment, sort_keys=False), "utf-8")
    subprocess.run(["snakemake", "--cores", "all", "--configfile", str(local)], check=True)
    for name in ("accuracy", "statistics"):
        print((results / "tables" / f"{name}.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
