# Tables, figures and the report page.
#
# in:  the experiment, evaluations, redundancy matrices, increments, calibration curves
# out: <results>/experiment.yaml, <results>/tables/*.{csv,parquet,md}, <results>/{run}figures/*.{png,svg},
#      <results>/report/index.html


rule write_experiment:
    """Write the experiment with all defaults filled in."""
    output:
        experiment=layout.EXPERIMENT,
    log:
        **layout.logs("write_experiment"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("write_experiment"),
        settings=settings("write_experiment"),
    shell:
        command("write_experiment")


rule tabulate_accuracy:
    """Join the evaluations into the table of accuracies."""
    input:
        evaluations=inputs.all_evaluations,
    output:
        **shown(layout.table("accuracy")),
    log:
        **layout.logs("tabulate_accuracy"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_accuracy"),
        settings=settings("tabulate_accuracy"),
    shell:
        command("tabulate_accuracy")


rule tabulate_autoencoder:
    """Tabulate what the autoencoder keeps of the test images."""
    input:
        measured=inputs.all_reconstructions,
    output:
        **shown(layout.table("autoencoder")),
    log:
        **layout.logs("tabulate_autoencoder"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_autoencoder"),
        settings=settings("tabulate_autoencoder"),
    shell:
        command("tabulate_autoencoder")


rule tabulate_statistics:
    """List what stands behind each accuracy: spread, paired differences, recovery scores."""
    input:
        evaluations=inputs.all_evaluations,
    output:
        **shown(layout.table("statistics")),
    log:
        **layout.logs("tabulate_statistics"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_statistics"),
        settings=settings("tabulate_statistics"),
    shell:
        command("tabulate_statistics")


rule compare_published:
    """Set our accuracies beside published ones of the same protocol."""
    input:
        accuracy=layout.table("accuracy")["parquet"],
    output:
        **shown(layout.table("published")),
    log:
        **layout.logs("compare_published"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("compare_published"),
        settings=settings("compare_published"),
    shell:
        command("compare_published")


rule tabulate_redundancy:
    """Join the redundancy matrices into a table."""
    input:
        matrices=inputs.all_matrices,
    output:
        **shown(layout.table("redundancy")),
    log:
        **layout.logs("tabulate_redundancy"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_redundancy"),
        settings=settings("tabulate_redundancy"),
    shell:
        command("tabulate_redundancy")


rule tabulate_coverage:
    """Join the coverages into a table."""
    input:
        coverages=inputs.all_coverages,
    output:
        **shown(layout.table("coverage")),
    log:
        **layout.logs("tabulate_coverage"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_coverage"),
        settings=settings("tabulate_coverage"),
    shell:
        command("tabulate_coverage")


rule tabulate_increments:
    """List what student and reference made of each increment."""
    input:
        increments=inputs.all_increments,
    output:
        **shown(layout.table("increments")),
    log:
        **layout.logs("tabulate_increments"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_increments"),
        settings=settings("tabulate_increments"),
    shell:
        command("tabulate_increments")


rule plot_accuracy:
    """Draw accuracy against images per class."""
    input:
        table=layout.table("accuracy")["parquet"],
        published=inputs.published_table,
    output:
        **shown(layout.figure("accuracy")),
    log:
        **layout.logs("plot_accuracy"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_accuracy"),
        settings=settings("plot_accuracy"),
    shell:
        command("plot_accuracy")


rule plot_redundancy:
    """Draw the redundancy matrices side by side."""
    input:
        matrices=inputs.all_matrices,
    output:
        **shown(layout.figure("redundancy")),
    log:
        **layout.logs("plot_redundancy"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_redundancy"),
        settings=settings("plot_redundancy"),
    shell:
        command("plot_redundancy")


rule plot_increments:
    """Draw a contact sheet of each increment; rows are classes."""
    input:
        increments=inputs.increments,
    output:
        **shown(layout.figure("increments-{method}", "{run}")),
    log:
        **layout.logs("plot_increments", "method", run="{run}"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_increments"),
        settings=settings("plot_increments"),
    shell:
        command("plot_increments")


rule plot_calibration:
    """Draw the curve that the calibration saw."""
    input:
        table=layout.CALIBRATION_CURVE,
    output:
        **shown(layout.figure("calibration-{method}", "{run}")),
    log:
        **layout.logs("plot_calibration", "method", run="{run}"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_calibration"),
        settings=settings("plot_calibration"),
    shell:
        command("plot_calibration")


rule plot_front:
    """Draw accuracy against redundancy, method by method."""
    input:
        accuracy=layout.table("accuracy")["parquet"],
        redundancy=layout.table("redundancy")["parquet"],
    output:
        **shown(layout.figure("front")),
        csv=shown(layout.table("front"))["csv"],
        markdown=layout.table("front")["markdown"],
    log:
        **layout.logs("plot_front"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_front"),
        settings=settings("plot_front"),
    shell:
        command("plot_front")


rule plot_training:
    """Draw the losses of all trainings of a run."""
    input:
        histories=inputs.histories,
    output:
        **shown(layout.figure("training-losses", "{run}")),
    log:
        **layout.logs("plot_training", run="{run}"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_training"),
        settings=settings("plot_training"),
    shell:
        command("plot_training")


rule write_report:
    """Write the report page: tables, figures, pictures, cost and provenance in one HTML file."""
    input:
        experiment=layout.EXPERIMENT,
        train=layout.TRAIN,
        test=layout.TEST,
        validation=inputs.validation,
        rejected=layout.REJECTED,
        tables=targets.tables(EXPERIMENT),
        figures=targets.figures(EXPERIMENT),
        distilled=targets.distilled_sets(EXPERIMENT),
        captions=ancient(captions.files),
    output:
        page=layout.PAGE,
    log:
        **layout.logs("write_report"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("write_report"),
        captions=captions.digest,
        settings=settings("write_report"),
    shell:
        command("write_report")


rule send_histories:
    """Send the histories of a run to the tool that `tracking` names."""
    input:
        histories=inputs.histories,
    output:
        receipt=layout.TRACKED,
    log:
        **layout.logs("send_histories", run="{run}"),
    # here, where the tool's environment variables are set, and a network is
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("send_histories"),
        settings=settings("send_histories"),
    shell:
        command("send_histories")
