# The networks that judge and guide.
#
# in:  <results>/data/train.parquet, increments
# out: <results>/{run}reference/{reference}.safetensors
#      <results>/{run}features/{reference}.parquet
#      <results>/{run}distilled/{loop}/increment-{k}/student.safetensors
#      <results>/{run}surrogates/{surrogate}/   every epoch of a network, and its gradients where learning turns


rule train_reference:
    """Train a reference network on all training images."""
    input:
        images="<results>/data/train.parquet",
        test="<results>/data/test.parquet",
        weights=pretrained_weights,
    output:
        model="<results>/{run}reference/{reference}.safetensors",
    log:
        text="<results>/{run}logs/train_reference-{reference}.log",
        cost="<results>/{run}cost/train_reference-{reference}.json",
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
        runtime="4h",
    params:
        *code("train_reference"),
        settings=settings("train_reference"),
    shell:
        "python -m distillery train_reference"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --test {input.test:q}"
        " --weights {input.weights:q}"
        " --model {output.model:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule extract_features:
    """Describe every training image by the last hidden layer of a reference network."""
    input:
        images="<results>/data/train.parquet",
        reference="<results>/{run}reference/{reference}.safetensors",
    output:
        features="<results>/{run}features/{reference}.parquet",
    log:
        text="<results>/{run}logs/extract_features-{reference}.log",
        cost="<results>/{run}cost/extract_features-{reference}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
        runtime="2h",
    params:
        *code("extract_features"),
        settings=settings("extract_features"),
    shell:
        "python -m distillery extract_features"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --reference {input.reference:q}"
        " --features {output.features:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule train_surrogate:
    """Train the surrogate of influence guidance on all training images, and keep every epoch."""
    input:
        images="<results>/data/train.parquet",
    output:
        checkpoints="<results>/{run}surrogates/{surrogate}/checkpoints.safetensors",
    log:
        text="<results>/{run}logs/train_surrogate-{surrogate}.log",
        cost="<results>/{run}cost/train_surrogate-{surrogate}.json",
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
        runtime="4h",
    params:
        *code("train_surrogate"),
        settings=settings("train_surrogate"),
    shell:
        "python -m distillery train_surrogate"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --checkpoints {output.checkpoints:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule select_checkpoints:
    """Select the checkpoints of a surrogate at which learning turns, with the gradient of each class there."""
    input:
        data="<results>/data/train.parquet",
        checkpoints=checkpoints_of,
    output:
        gradients="<results>/{run}surrogates/{surrogate}/gradients.safetensors",
    log:
        text="<results>/{run}logs/select_checkpoints-{surrogate}.log",
        cost="<results>/{run}cost/select_checkpoints-{surrogate}.json",
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="4h",
    params:
        *code("select_checkpoints"),
        settings=settings("select_checkpoints"),
    shell:
        "python -m distillery select_checkpoints"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --checkpoints {input.checkpoints:q}"
        " --gradients {output.gradients:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule train_student:
    """Train the student on increments 1 to k; it guides increment k+1."""
    input:
        images=increments_up_to,
        previous=continued_from,
    output:
        model="<results>/{run}distilled/{loop}/increment-{k}/student.safetensors",
    log:
        text="<results>/{run}logs/train_student-{loop}-{k}.log",
        cost="<results>/{run}cost/{loop}/train_student-{k}.json",
    priority: 10
    group:
        increment_group
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
        runtime="4h",
    params:
        *code("train_student"),
        settings=settings("train_student"),
    shell:
        "python -m distillery train_student"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --previous {input.previous:q}"
        " --model {output.model:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
