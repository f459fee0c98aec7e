# What a distilled set is worth, and what repeats in it.
#
# in:  <results>/{run}distilled/{method}/ipc{ipc}.parquet, <results>/data/test.parquet
# out: <results>/{run}evaluation/{method}/ipc{ipc}/{network}.parquet   accuracy of each network at each look
#      <results>/{run}analysis/redundancy/{method}.parquet


rule evaluate:
    """Train networks of one architecture on a distilled set and test them on real images."""
    input:
        images="<results>/{run}distilled/{method}/ipc{ipc}.parquet",
        test="<results>/data/test.parquet",
    output:
        history="<results>/{run}evaluation/{method}/ipc{ipc}/{network}.parquet",
    log:
        text="<results>/{run}logs/evaluate-{method}-{ipc}-{network}.log",
        cost="<results>/{run}cost/evaluate-{method}-{ipc}-{network}.json",
    benchmark:
        "<results>/{run}benchmarks/evaluate-{method}-{ipc}-{network}.tsv"
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem="8GB",
        runtime="24h",
    params:
        *code("evaluate"),
        settings=settings("evaluate"),
    shell:
        "python -m distillery evaluate"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --test {input.test:q}"
        " --history {output.history:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule measure_redundancy:
    """Measure what a network trained on one increment already knows of the others."""
    input:
        images=largest_set,
    output:
        matrix="<results>/{run}analysis/redundancy/{method}.parquet",
    log:
        text="<results>/{run}logs/measure_redundancy-{method}.log",
        cost="<results>/{run}cost/measure_redundancy-{method}.json",
    benchmark:
        "<results>/{run}benchmarks/measure_redundancy-{method}.tsv"
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem="8GB",
        runtime="12h",
    params:
        *code("measure_redundancy"),
        settings=settings("measure_redundancy"),
    shell:
        "python -m distillery measure_redundancy"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --matrix {output.matrix:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
