# What a distilled set is worth, and what repeats in it.
#
# in:  <results>/{run}distilled/{method}/ipc{ipc}.parquet, <results>/data/*.parquet, teachers
# out: <results>/{run}soft_labels/{method}/ipc{ipc}/{protocol}.safetensors
#      <results>/{run}evaluation/{method}/ipc{ipc}/{network}/{protocol}.parquet   accuracy of each network at each look
#      <results>/{run}analysis/redundancy/{method}.parquet, <results>/{run}analysis/coverage/{method}-{ipc}.parquet


rule store_soft_labels:
    """Store what the teacher answers to every augmented image of every epoch."""
    input:
        images=evaluated_images,
        teacher=teacher_of,
    output:
        soft_labels="<results>/{run}soft_labels/{method}/ipc{ipc}/{protocol}.safetensors",
    log:
        text="<results>/{run}logs/store_soft_labels-{method}-{ipc}-{protocol}.log",
        cost="<results>/{run}cost/{method}/store_soft_labels-{ipc}-{protocol}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
        runtime="12h",
    params:
        *code("store_soft_labels"),
        settings=settings("store_soft_labels"),
    shell:
        "python -m distillery store_soft_labels"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --teacher {input.teacher:q}"
        " --soft-labels {output.soft_labels:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule evaluate:
    """Train networks of one architecture on a distilled set and test them on real images."""
    input:
        images=evaluated_images,
        test="<results>/data/test.parquet",
        teacher=online_teacher,
        soft_labels=stored_labels,
    output:
        history="<results>/{run}evaluation/{method}/ipc{ipc}/{network}/{protocol}.parquet",
    log:
        text="<results>/{run}logs/evaluate-{method}-{ipc}-{network}-{protocol}.log",
        cost="<results>/{run}cost/{method}/evaluate-{ipc}-{network}-{protocol}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
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
        " --teacher {input.teacher:q}"
        " --soft-labels {input.soft_labels:q}"
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
        cost="<results>/{run}cost/{method}/measure_redundancy.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
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


rule measure_coverage:
    """Measure how much of the real set lies near a distilled one."""
    input:
        data="<results>/data/train.parquet",
        features=coverage_features,
        reference=coverage_reference,
        images="<results>/{run}distilled/{method}/ipc{ipc}.parquet",
    output:
        coverage="<results>/{run}analysis/coverage/{method}-{ipc}.parquet",
    log:
        text="<results>/{run}logs/measure_coverage-{method}-{ipc}.log",
        cost="<results>/{run}cost/{method}/measure_coverage-{ipc}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(8),
        runtime="1h",
    params:
        *code("measure_coverage"),
        settings=settings("measure_coverage"),
    shell:
        "python -m distillery measure_coverage"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --features {input.features:q}"
        " --reference {input.reference:q}"
        " --images {input.images:q}"
        " --coverage {output.coverage:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
