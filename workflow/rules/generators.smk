# From training images to latents and a class-conditional generator of them.
#
# They are what everything waits for: `priority` starts them before the evaluations that are ready too. One thread each:
# on small models a second one gains a third, and where another process wants its core it costs many times that.
#
# in:  <results>/data/train.parquet
# out: <results>/{run}autoencoder/   AutoencoderKL in the layout of diffusers
#      <results>/{run}latents/train.safetensors
#      <results>/{run}generators/{generator}/   transformer, scheduler and class names in the layout of diffusers


rule train_autoencoder:
    """Train the autoencoder on the training images."""
    input:
        images="<results>/data/train.parquet",
    output:
        config="<results>/{run}autoencoder/config.json",
        weights="<results>/{run}autoencoder/diffusion_pytorch_model.safetensors",
    log:
        text="<results>/{run}logs/train_autoencoder.log",
        cost="<results>/{run}cost/train_autoencoder.json",
    benchmark:
        "<results>/{run}benchmarks/train_autoencoder.tsv"
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="12h",
    params:
        *code("train_autoencoder"),
        settings=settings("train_autoencoder"),
    shell:
        "python -m distillery train_autoencoder"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --config {output.config:q}"
        " --weights {output.weights:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule encode_latents:
    """Encode the training images: mean and standard deviation of their latents."""
    input:
        images="<results>/data/train.parquet",
        autoencoder=AUTOENCODER,
    output:
        latents="<results>/{run}latents/train.safetensors",
    log:
        text="<results>/{run}logs/encode_latents.log",
        cost="<results>/{run}cost/encode_latents.json",
    benchmark:
        "<results>/{run}benchmarks/encode_latents.tsv"
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
        runtime="1h",
    params:
        *code("encode_latents"),
        settings=settings("encode_latents"),
    shell:
        "python -m distillery encode_latents"
        " --settings {params.settings:q}"
        " --threads 1"
        " --images {input.images:q}"
        " --autoencoder {input.autoencoder:q}"
        " --latents {output.latents:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule train_generator:
    """Train a class-conditional DiT on the latents, from scratch or on from another one."""
    input:
        latents="<results>/{run}latents/train.safetensors",
        initial=origin_of,
    output:
        index="<results>/{run}generators/{generator}/model_index.json",
        config="<results>/{run}generators/{generator}/transformer/config.json",
        weights="<results>/{run}generators/{generator}/transformer/diffusion_pytorch_model.safetensors",
        scheduler="<results>/{run}generators/{generator}/scheduler/scheduler_config.json",
    log:
        text="<results>/{run}logs/train_generator-{generator}.log",
        cost="<results>/{run}cost/train_generator-{generator}.json",
    benchmark:
        "<results>/{run}benchmarks/train_generator-{generator}.tsv"
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="24h",
    params:
        *code("train_generator"),
        settings=settings("train_generator"),
    shell:
        "python -m distillery train_generator"
        " --settings {params.settings:q}"
        " --threads 1"
        " --latents {input.latents:q}"
        " --initial {input.initial:q}"
        " --index {output.index:q}"
        " --config {output.config:q}"
        " --weights {output.weights:q}"
        " --scheduler {output.scheduler:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
