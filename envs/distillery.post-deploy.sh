#!/bin/sh
# Run by Snakemake in the new environment (`--sdm conda`), in the folder that Snakemake runs in: that of the project.
set -eu
test -f pyproject.toml || { echo "run Snakemake in the project's folder: $PWD has no pyproject.toml" >&2; exit 1; }
python -m pip install -c constraints.txt .
