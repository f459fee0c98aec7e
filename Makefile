# `make demo` and `make test` set up all that they need; nothing has to be installed first but Python 3.11 or newer.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
RESULTS ?= results/digits
PRESET ?=
VARIANT ?=
GPU ?=
FILE = $(if $(PRESET),experiments/$(PRESET).yaml,config.yaml)
# Progress bars on a terminal; lines in a log.
BARS := $(shell test -t 2 && echo --logger rich distillery)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo seeds front published forecast test lint format schema bench cost slurm-clean slurm-queue clean-demo

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is newer than what it was made from: a changed pin installs again, anything else does not.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "distillery needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps trackio==0.43.0
	@touch $@

setup: $(VENV)/installed  ## make a virtual environment in .venv with everything

demo: setup  ## LGD with modes on real digits: table, redundancy matrix and pictures, in minutes on two cores
	snakemake --cores $(CORES) $(BARS)

seeds: setup  ## the default over three splits of the data and three experiment seeds each: the table of the README
	for split in 1 2 3; do \
		snakemake --cores $(CORES) $(BARS) --configfile experiments/digits-seeds.yaml --config variant=split-$$split || exit; \
	done
	python -m distillery compare results/digits-split-1 results/digits-split-2 results/digits-split-3

front: setup  ## accuracy against redundancy over lambda and omega
	snakemake --cores $(CORES) $(BARS) --configfile experiments/digits-front.yaml

forecast: setup  ## hours and memory of a run by stage, before it starts: make forecast PRESET=own [VARIANT=…] [GPU=H100]
	@python -m distillery.plan.forecast $(FILE) $(if $(VARIANT),--variant $(VARIANT)) $(if $(GPU),--gpu $(GPU))

# The forecast reads the file as the run does: it ends here where data or weights are missing, and says what to get.
published: setup  ## an experiment of docs/published.md beside its published table: make published PRESET=imagenette [VARIANT=…] [GPU=H100]
	@test -n "$(PRESET)" || { echo "make published PRESET=imagenette: docs/published.md lists the experiment files"; exit 2; }
	@python -m distillery.plan.forecast $(FILE) $(if $(VARIANT),--variant $(VARIANT)) $(if $(GPU),--gpu $(GPU))
	snakemake --cores $(CORES) $(BARS) --configfile $(FILE) $(if $(VARIANT),--config variant=$(VARIANT))
	@cat "$$(python -m distillery.plan.forecast $(FILE) $(if $(VARIANT),--variant $(VARIANT)) --results)/tables/published.md"

test: setup  ## the whole test suite, on two workers
	python -m pytest --numprocesses 2 --no-loadscope-reorder --durations 25

lint: setup  ## style, format, types and workflow checks
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	snakemake --lint

format: setup  ## rewrite in the style of the project
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

schema: setup  ## regenerate the JSON schema of an experiment file
	python -m distillery.plan.experiment > workflow/schemas/experiment.schema.json

bench: setup  ## start-up time, and time and memory of each stage of the last demo
	python benchmarks/startup.py
	python -m distillery.cost results/digits

cost: setup  ## GPU hours, images/s and memory of a run by stage and method: make cost RESULTS=results/digits
	@python -m distillery.cost $(RESULTS)

slurm-clean: setup  ## cancel the Slurm jobs of this folder whose Snakemake is dead
	@python -m distillery.slurm clean

slurm-queue: setup  ## list the Slurm jobs of this folder, and what they wait for
	@python -m distillery.slurm queue

clean-demo:  ## forget the results of the demo
	rm -rf results/digits
