# What the rules of every part share: the experiment of this run, bound to the functions that the rules call.
# Nothing is defined here; src/distillery/plan/ has what these names stand for, typed and tested.

import os
from functools import partial
from pathlib import Path

from distillery import processes, slurm, snakemake_internals
from distillery.devices import visible_cards
from distillery.errors import ExperimentError
from distillery.plan import closing, layout, rules, targets
from distillery.plan.check_limits import refuse_here
from distillery.plan.inputs import Inputs
from distillery.plan.analysis_inputs import AnalysisInputs
from distillery.plan.load import load_files
from distillery.plan.picture_inputs import PictureInputs
from distillery.plan.rules import code, command, memory, one_of
from distillery.report.captions import Captions

with snakemake_internals.without_traceback(ExperimentError):
    EXPERIMENT = load_files(list(map(Path, workflow.configfiles)), config)

RESULTS = f"results/{EXPERIMENT.name}"
UNETS = [name for name, block in EXPERIMENT.generators.items() if block.part == "unet"]
OPENED = EXPERIMENT.opened_autoencoders

inputs = Inputs(EXPERIMENT)
pictures = PictureInputs(EXPERIMENT)
analyses = AnalysisInputs(EXPERIMENT)
settings = partial(rules.settings, EXPERIMENT)
checked = partial(rules.checked, EXPERIMENT)
captions = Captions.below(Path(os.path.relpath(workflow.basedir), "workflow", "report"))
shown = partial(rules.shown, report, captions)

ANY_RUN = r"(seed-\d+/)?"


wildcard_constraints:
    run=ANY_RUN,
    method=one_of(EXPERIMENT.methods),
    experts=one_of(EXPERIMENT.experts),
    generator=one_of(EXPERIMENT.parts_of_generators),
    reference=one_of(EXPERIMENT.references),
    surrogate=one_of(EXPERIMENT.surrogates),
    foreign=r"\w[\w.]*",
    side=r"\d+",
    need="trained|compared|features",
    network=one_of(EXPERIMENT.evaluation.networks),
    protocol=one_of(protocol.label for protocol in EXPERIMENT.evaluation.protocols),
    k=r"[1-9]\d*",
    ipc=r"[1-9]\d*|full",
    opened=one_of(OPENED),
    shard=r"\d+",
    modes=r"[1-9]\d*",


shell.prefix(snakemake_internals.shell_prefix(workflow))
