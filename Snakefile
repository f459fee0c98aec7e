from snakemake.utils import min_version

min_version("9.19")


# The default experiment is loaded only when none was given: Snakemake would merge the two.
if not workflow.configfiles:

    configfile: "config.yaml"


include: "workflow/rules/common.smk"


snakemake_internals.remove_stale_lock()
snakemake_internals.tell_jobs(workflow)
snakemake_internals.limit_to_cards(workflow, len(visible_cards()))
snakemake_internals.before_planning(
    workflow, partial(slurm.clear, workflow), slurm.SlurmProblem
)


pathvars:
    results=RESULTS,


# ---- rules, in the order of the pipeline ------------------------------------------------------------------------------


include: "workflow/rules/data.smk"
include: "workflow/rules/generators.smk"
include: "workflow/rules/networks.smk"
include: "workflow/rules/distill.smk"
include: "workflow/rules/match.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/pictures.smk"


# ---- targets ------------------------------------------------------------------------------------------------------------


rule all:
    """Everything that the experiment file asks for: distilled sets, tables, figures and the report page."""
    default_target: True
    input:
        experiment=layout.EXPERIMENT,
        distilled=targets.distilled_sets(EXPERIMENT),
        tables=targets.tables(EXPERIMENT),
        figures=targets.figures(EXPERIMENT),
        report=layout.PAGE,
        receipts=targets.receipts(EXPERIMENT),
    localrule: True


rule distilled:
    """The distilled sets alone, without evaluation."""
    input:
        experiment=layout.EXPERIMENT,
        distilled=targets.distilled_sets(EXPERIMENT),
    localrule: True


onstart:
    snakemake_internals.note_holder()
    with snakemake_internals.without_traceback(slurm.SlurmProblem, ExperimentError):
        slurm.prepare(workflow)
        refuse_here(
            EXPERIMENT, snakemake_internals.rules_run_here(workflow), Path(RESULTS)
        )
    targets.note_rules(snakemake_internals.rule_graph(workflow), Path(RESULTS))


onsuccess:
    closing.print_closing_words(EXPERIMENT, Path(RESULTS))
