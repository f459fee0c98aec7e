# What a distilled set is worth, and what repeats in it.
#
# in:  <results>/{run}distilled/{method}/ipc{ipc}.parquet, <results>/data/*.parquet, teachers
# out: <results>/{run}soft_labels/{method}/ipc{ipc}/{protocol}.safetensors
#      <results>/{run}evaluation/{method}/ipc{ipc}/{network}/{protocol}.parquet   accuracy of each network at each look
#      <results>/{run}analysis/redundancy/{method}.parquet, <results>/{run}analysis/coverage/{method}-{ipc}.parquet


rule store_soft_labels:
    """Store what the teacher answers to every augmented image of every epoch."""
    input:
        images=inputs.evaluated_images,
        teacher=inputs.teacher,
    output:
        soft_labels=layout.SOFT_LABELS,
    log:
        **layout.logs("store_soft_labels", "method", "ipc", "protocol", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("store_soft_labels"),
        settings=settings("store_soft_labels"),
    shell:
        command("store_soft_labels")


rule evaluate:
    """Train networks of one architecture on a distilled set and test them on real images."""
    input:
        images=inputs.evaluated_images,
        test=inputs.tested_images,
        teacher=inputs.online_teacher,
        soft_labels=inputs.stored_labels,
        whitening=inputs.whitening,
        network=checked("evaluate"),
    output:
        evaluations=layout.EVALUATION,
        history=layout.EVALUATION_HISTORY,
    log:
        **layout.logs("evaluate", "method", "ipc", "network", "protocol", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="24h",
    params:
        *code("evaluate"),
        settings=settings("evaluate"),
    shell:
        command("evaluate")


rule measure_redundancy:
    """Measure what a network trained on one increment already knows of the others."""
    input:
        images=inputs.redundancy_images,
        teacher=inputs.redundancy_teacher,
        network=checked("measure_redundancy"),
    output:
        matrix=layout.REDUNDANCY,
    log:
        **layout.logs("measure_redundancy", "method", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("measure_redundancy"),
        settings=settings("measure_redundancy"),
    shell:
        command("measure_redundancy")


rule measure_coverage:
    """Measure how much of the real set lies near a distilled one."""
    input:
        data=layout.TRAIN,
        features=inputs.coverage_features,
        reference=inputs.coverage_reference,
        images=layout.DISTILLED,
    output:
        coverage=layout.COVERAGE,
    log:
        **layout.logs("measure_coverage", "method", "ipc", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="2h",
    params:
        *code("measure_coverage"),
        settings=settings("measure_coverage"),
    shell:
        command("measure_coverage")
