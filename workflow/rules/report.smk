# Tables and figures.
#
# in:  evaluations, redundancy matrices, increments, calibration curves
# out: <results>/tables/*.{csv,parquet,md}, <results>/{run}figures/*.{png,svg}


rule tabulate_accuracy:
    """Join the evaluations into the table of accuracies."""
    input:
        evaluations=all_evaluations,
    output:
        csv="<results>/tables/accuracy.csv",
        parquet="<results>/tables/accuracy.parquet",
        markdown="<results>/tables/accuracy.md",
    log:
        text="<results>/logs/tabulate_accuracy.log",
        cost="<results>/cost/tabulate_accuracy.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_accuracy"),
        settings=settings("tabulate_accuracy"),
    shell:
        "python -m distillery tabulate_accuracy"
        " --settings {params.settings:q}"
        " --threads 1"
        " --evaluations {input.evaluations:q}"
        " --csv {output.csv:q}"
        " --parquet {output.parquet:q}"
        " --markdown {output.markdown:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule tabulate_autoencoder:
    """Tabulate what the autoencoder keeps of the test images."""
    input:
        measured=all_reconstructions,
    output:
        csv="<results>/tables/autoencoder.csv",
        parquet="<results>/tables/autoencoder.parquet",
        markdown="<results>/tables/autoencoder.md",
    log:
        text="<results>/logs/tabulate_autoencoder.log",
        cost="<results>/cost/tabulate_autoencoder.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_autoencoder"),
        settings=settings("tabulate_autoencoder"),
    shell:
        "python -m distillery tabulate_autoencoder"
        " --settings {params.settings:q}"
        " --threads 1"
        " --measured {input.measured:q}"
        " --csv {output.csv:q}"
        " --parquet {output.parquet:q}"
        " --markdown {output.markdown:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule tabulate_statistics:
    """List what stands behind each accuracy: spread, paired differences, recovery scores."""
    input:
        evaluations=all_evaluations,
    output:
        csv="<results>/tables/statistics.csv",
        parquet="<results>/tables/statistics.parquet",
        markdown="<results>/tables/statistics.md",
    log:
        text="<results>/logs/tabulate_statistics.log",
        cost="<results>/cost/tabulate_statistics.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_statistics"),
        settings=settings("tabulate_statistics"),
    shell:
        "python -m distillery tabulate_statistics"
        " --settings {params.settings:q}"
        " --threads 1"
        " --evaluations {input.evaluations:q}"
        " --csv {output.csv:q}"
        " --parquet {output.parquet:q}"
        " --markdown {output.markdown:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule compare_published:
    """Set our accuracies beside published ones of the same protocol."""
    input:
        accuracy="<results>/tables/accuracy.parquet",
    output:
        csv="<results>/tables/published.csv",
        parquet="<results>/tables/published.parquet",
        markdown="<results>/tables/published.md",
    log:
        text="<results>/logs/compare_published.log",
        cost="<results>/cost/compare_published.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("compare_published"),
        settings=settings("compare_published"),
    shell:
        "python -m distillery compare_published"
        " --settings {params.settings:q}"
        " --threads 1"
        " --accuracy {input.accuracy:q}"
        " --csv {output.csv:q}"
        " --parquet {output.parquet:q}"
        " --markdown {output.markdown:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule tabulate_redundancy:
    """Join the redundancy matrices into a table."""
    input:
        matrices=all_matrices,
    output:
        csv="<results>/tables/redundancy.csv",
        parquet="<results>/tables/redundancy.parquet",
        markdown="<results>/tables/redundancy.md",
    log:
        text="<results>/logs/tabulate_redundancy.log",
        cost="<results>/cost/tabulate_redundancy.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_redundancy"),
        settings=settings("tabulate_redundancy"),
    shell:
        "python -m distillery tabulate_redundancy"
        " --settings {params.settings:q}"
        " --threads 1"
        " --matrices {input.matrices:q}"
        " --csv {output.csv:q}"
        " --parquet {output.parquet:q}"
        " --markdown {output.markdown:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule tabulate_coverage:
    """Join the coverages into a table."""
    input:
        coverages=all_coverages,
    output:
        csv="<results>/tables/coverage.csv",
        parquet="<results>/tables/coverage.parquet",
        markdown="<results>/tables/coverage.md",
    log:
        text="<results>/logs/tabulate_coverage.log",
        cost="<results>/cost/tabulate_coverage.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_coverage"),
        settings=settings("tabulate_coverage"),
    shell:
        "python -m distillery tabulate_coverage"
        " --settings {params.settings:q}"
        " --threads 1"
        " --coverages {input.coverages:q}"
        " --csv {output.csv:q}"
        " --parquet {output.parquet:q}"
        " --markdown {output.markdown:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule tabulate_increments:
    """List what student and reference made of each increment."""
    input:
        increments=every_increment,
    output:
        csv="<results>/tables/increments.csv",
        parquet="<results>/tables/increments.parquet",
        markdown="<results>/tables/increments.md",
    log:
        text="<results>/logs/tabulate_increments.log",
        cost="<results>/cost/tabulate_increments.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_increments"),
        settings=settings("tabulate_increments"),
    shell:
        "python -m distillery tabulate_increments"
        " --settings {params.settings:q}"
        " --threads 1"
        " --increments {input.increments:q}"
        " --csv {output.csv:q}"
        " --parquet {output.parquet:q}"
        " --markdown {output.markdown:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule plot_accuracy:
    """Draw accuracy against images per class."""
    input:
        table="<results>/tables/accuracy.parquet",
    output:
        png="<results>/figures/accuracy.png",
        svg="<results>/figures/accuracy.svg",
    log:
        text="<results>/logs/plot_accuracy.log",
        cost="<results>/cost/plot_accuracy.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_accuracy"),
        settings=settings("plot_accuracy"),
    shell:
        "python -m distillery plot_accuracy"
        " --settings {params.settings:q}"
        " --threads 1"
        " --table {input.table:q}"
        " --png {output.png:q}"
        " --svg {output.svg:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule plot_redundancy:
    """Draw the redundancy matrices side by side."""
    input:
        matrices=all_matrices,
    output:
        png="<results>/figures/redundancy.png",
        svg="<results>/figures/redundancy.svg",
    log:
        text="<results>/logs/plot_redundancy.log",
        cost="<results>/cost/plot_redundancy.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_redundancy"),
        settings=settings("plot_redundancy"),
    shell:
        "python -m distillery plot_redundancy"
        " --settings {params.settings:q}"
        " --threads 1"
        " --matrices {input.matrices:q}"
        " --png {output.png:q}"
        " --svg {output.svg:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule plot_increments:
    """Draw a contact sheet of each increment; rows are classes."""
    input:
        increments=all_increments,
    output:
        png="<results>/{run}figures/increments-{lgd}.png",
        svg="<results>/{run}figures/increments-{lgd}.svg",
    log:
        text="<results>/{run}logs/plot_increments-{lgd}.log",
        cost="<results>/{run}cost/{lgd}/plot_increments.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_increments"),
        settings=settings("plot_increments"),
    shell:
        "python -m distillery plot_increments"
        " --settings {params.settings:q}"
        " --threads 1"
        " --increments {input.increments:q}"
        " --png {output.png:q}"
        " --svg {output.svg:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule plot_calibration:
    """Draw the curve that the calibration saw."""
    input:
        table="<results>/{run}tables/calibration-{lgd}.parquet",
    output:
        png="<results>/{run}figures/calibration-{lgd}.png",
        svg="<results>/{run}figures/calibration-{lgd}.svg",
    log:
        text="<results>/{run}logs/plot_calibration-{lgd}.log",
        cost="<results>/{run}cost/{lgd}/plot_calibration.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_calibration"),
        settings=settings("plot_calibration"),
    shell:
        "python -m distillery plot_calibration"
        " --settings {params.settings:q}"
        " --threads 1"
        " --table {input.table:q}"
        " --png {output.png:q}"
        " --svg {output.svg:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule plot_front:
    """Draw accuracy against redundancy, method by method."""
    input:
        accuracy="<results>/tables/accuracy.parquet",
        redundancy="<results>/tables/redundancy.parquet",
    output:
        csv="<results>/tables/front.csv",
        markdown="<results>/tables/front.md",
        png="<results>/figures/front.png",
        svg="<results>/figures/front.svg",
    log:
        text="<results>/logs/plot_front.log",
        cost="<results>/cost/plot_front.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_front"),
        settings=settings("plot_front"),
    shell:
        "python -m distillery plot_front"
        " --settings {params.settings:q}"
        " --threads 1"
        " --accuracy {input.accuracy:q}"
        " --redundancy {input.redundancy:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " --png {output.png:q}"
        " --svg {output.svg:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
