# The networks that judge and guide.
#
# in:  <results>/data/train.parquet, increments
# out: <results>/{run}reference/{reference}.safetensors
#      <results>/{run}features/{reference}.parquet
#      <results>/{run}distilled/{lgd}/increment-{k}/student.safetensors


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


rule train_student:
    """Train the student on increments 1 to k; it guides increment k+1."""
    input:
        images=increments_up_to,
        previous=continued_from,
    output:
        model="<results>/{run}distilled/{lgd}/increment-{k}/student.safetensors",
    log:
        text="<results>/{run}logs/train_student-{lgd}-{k}.log",
        cost="<results>/{run}cost/{lgd}/train_student-{k}.json",
    priority: 10
    group:
        "increment-{run}{lgd}-{k}"
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
