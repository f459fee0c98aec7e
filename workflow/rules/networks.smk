# The networks that judge and guide.
#
# in:  <results>/data/train.parquet, increments
# out: <results>/networks/   a file for each network of timm and side of its images: it takes them
#      <results>/{run}reference/{reference}.safetensors, its accuracy on each class beside it
#      <results>/{run}features/{reference}.parquet
#      <results>/{run}distilled/{method}/increment-{k}/student.safetensors, and the other students of a method
#      beside it
#      <results>/{run}surrogates/{surrogate}/   every epoch of a network, and its gradients where learning turns


rule check_network:
    """Build a network of timm for the side of its images, and pass a batch through it."""
    output:
        checked=layout.CHECKED_NETWORK,
    log:
        **layout.logs("check_network", "foreign", "side", "need"),
    # first, and with all cores: on this machine nothing is trained before it has ended
    priority: 1000
    conda:
        "../../envs/distillery.yaml"
    threads: 1024
    resources:
        cpus_per_task=1,
        mem=memory(4),
        runtime="1h",
    params:
        *code("check_network"),
        settings=settings("check_network"),
    shell:
        command("check_network")


rule train_reference:
    """Train a reference network on all training images."""
    input:
        images=layout.TRAIN,
        weights=inputs.reference_weights,
        network=checked("train_reference"),
    output:
        model=layout.REFERENCE,
        by_class=layout.REFERENCE_BY_CLASS,
        history=layout.REFERENCE_HISTORY,
    log:
        **layout.logs("train_reference", "reference", run="{run}"),
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("train_reference"),
        settings=settings("train_reference"),
        content=inputs.content(inputs.reference_weights),
    shell:
        command("train_reference")


rule extract_features:
    """Describe every training image by the last hidden layer of a reference network."""
    input:
        images=layout.TRAIN,
        reference=layout.REFERENCE,
        network=inputs.checked_features,
    output:
        features=layout.FEATURES,
    log:
        **layout.logs("extract_features", "reference", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="4h",
    params:
        *code("extract_features"),
        settings=settings("extract_features"),
    shell:
        command("extract_features")


rule train_surrogate:
    """Train the surrogate of influence guidance on all training images, and keep every epoch."""
    input:
        images=layout.TRAIN,
        network=checked("train_surrogate"),
    output:
        checkpoints=layout.CHECKPOINTS,
        history=layout.SURROGATE_HISTORY,
    log:
        **layout.logs("train_surrogate", "surrogate", run="{run}"),
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="24h",
    params:
        *code("train_surrogate"),
        settings=settings("train_surrogate"),
    shell:
        command("train_surrogate")


rule select_checkpoints:
    """Select the checkpoints of a surrogate at which learning turns, with the gradient of each class there."""
    input:
        data=layout.TRAIN,
        checkpoints=inputs.checkpoints,
    output:
        gradients=layout.GRADIENTS,
        by_class=layout.SURROGATE_BY_CLASS,
    log:
        **layout.logs("select_checkpoints", "surrogate", run="{run}"),
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="12h",
    params:
        *code("select_checkpoints"),
        settings=settings("select_checkpoints"),
        content=inputs.content(inputs.checkpoints),
    shell:
        command("select_checkpoints")


rule train_student:
    """Train the student on increments 1 to k; it guides increment k+1."""
    input:
        images=inputs.increments_up_to,
        previous=inputs.continued_from,
        previous_others=inputs.others_continued_from,
        teacher=inputs.student_teacher,
        network=checked("train_student"),
    output:
        model=layout.STUDENT,
        others=[],
        history=layout.STUDENT_HISTORY,
    log:
        **layout.logs("train_student", "method", "k", run="{run}"),
    wildcard_constraints:
        method=one_of(set(EXPERIMENT.methods) - set(EXPERIMENT.several_students)),
    priority: 10
    group:
        inputs.increment_group
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("train_student"),
        settings=settings("train_student"),
    shell:
        command("train_student")


use rule train_student as train_students with:
    output:
        model=layout.STUDENT,
        others=layout.OTHER_STUDENTS,
        history=layout.STUDENT_HISTORY,
    wildcard_constraints:
        method=one_of(EXPERIMENT.several_students),
