# From training images to latents and a class-conditional generator of them.
#
# They are what everything waits for: `priority` starts them before the evaluations that are ready too. One thread each:
# on small models a second one gains a third, and where another process wants its core it costs many times that.
#
# in:  <results>/data/train.parquet, weights that the experiment names
# out: <results>/{run}autoencoder/   in the layout of diffusers; one that is opened is the same for all runs
#      <results>/{run}latents/train-{shard}.safetensors
#      <results>/{run}generators/{generator}/   transformer, scheduler and class names in the layout of diffusers; of one
#                                               that is fine-tuned also the autoencoder, and changed.safetensors
#      <results>/{run}analysis/autoencoder.parquet


rule train_autoencoder:
    """Train the autoencoder on the training images."""
    input:
        images="<results>/data/train.parquet",
        reference=perceptual_reference,
    output:
        config="<results>/{run}autoencoder/config.json",
        weights="<results>/{run}autoencoder/diffusion_pytorch_model.safetensors",
    log:
        text="<results>/{run}logs/train_autoencoder.log",
        cost="<results>/{run}cost/train_autoencoder.json",
    wildcard_constraints:
        run=TRAINED_RUN,
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
        " --reference {input.reference:q}"
        " --config {output.config:q}"
        " --weights {output.weights:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule open_autoencoder:
    """Open a pretrained autoencoder, check it, and keep it with its scale and shift."""
    input:
        source=weights_of("autoencoder"),
    output:
        config="<results>/{opened}/config.json",
        weights="<results>/{opened}/diffusion_pytorch_model.safetensors",
    log:
        text="<results>/logs/open_autoencoder-{opened}.log",
        cost="<results>/cost/open_autoencoder-{opened}.json",
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(4),
        runtime="1h",
    params:
        *code("open_autoencoder"),
        settings=settings("open_autoencoder"),
    shell:
        "python -m distillery open_autoencoder"
        " --settings {params.settings:q}"
        " --threads 1"
        " --config {output.config:q}"
        " --weights {output.weights:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule encode_latents:
    """Encode one shard of the training images: mean and standard deviation of their latents."""
    input:
        images="<results>/data/train.parquet",
        autoencoder=autoencoder_of,
    output:
        latents="<results>/{run}latents/train-{shard}.safetensors",
    log:
        text="<results>/{run}logs/encode_latents-{shard}.log",
        cost="<results>/{run}cost/encode_latents-{shard}.json",
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=4,
        gpu=1,
        mem=gigabytes(4),
        runtime="4h",
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


rule measure_autoencoder:
    """Measure what the autoencoder keeps of the test images, and what reference networks lose by it."""
    input:
        test="<results>/data/test.parquet",
        autoencoder=autoencoder_of,
        guidance_autoencoder=guidance_autoencoder_of,
        references=all_references,
    output:
        table="<results>/{run}analysis/autoencoder.parquet",
    log:
        text="<results>/{run}logs/measure_autoencoder.log",
        cost="<results>/{run}cost/measure_autoencoder.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
        runtime="2h",
    params:
        *code("measure_autoencoder"),
        settings=settings("measure_autoencoder"),
    shell:
        "python -m distillery measure_autoencoder"
        " --settings {params.settings:q}"
        " --threads 1"
        " --test {input.test:q}"
        " --autoencoder {input.autoencoder:q}"
        " --guidance-autoencoder {input.guidance_autoencoder:q}"
        " --references {input.references:q}"
        " --table {output.table:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule train_generator:
    """Train a class-conditional DiT on the latents."""
    input:
        latents=latents_of,
    output:
        index="<results>/{run}generators/{generator}/model_index.json",
        config="<results>/{run}generators/{generator}/transformer/config.json",
        weights="<results>/{run}generators/{generator}/transformer/diffusion_pytorch_model.safetensors",
        scheduler="<results>/{run}generators/{generator}/scheduler/scheduler_config.json",
    log:
        text="<results>/{run}logs/train_generator-{generator}.log",
        cost="<results>/{run}cost/train_generator-{generator}.json",
    wildcard_constraints:
        generator=one_of(GENERATORS["train"]),
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=cards_of,
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
        " --index {output.index:q}"
        " --config {output.config:q}"
        " --weights {output.weights:q}"
        " --scheduler {output.scheduler:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule open_generator:
    """Open a pretrained class-conditional DiT, check it, and keep it with the names of its classes."""
    input:
        source=weights_of("generators"),
    output:
        index="<results>/generators/{generator}/model_index.json",
        config="<results>/generators/{generator}/transformer/config.json",
        weights="<results>/generators/{generator}/transformer/diffusion_pytorch_model.safetensors",
        scheduler="<results>/generators/{generator}/scheduler/scheduler_config.json",
        classes=[],
    log:
        text="<results>/logs/open_generator-{generator}.log",
        cost="<results>/cost/open_generator-{generator}.json",
    wildcard_constraints:
        generator=one_of(
            [name for name in GENERATORS["pretrained"] if name not in UNETS]
        ),
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(16),
        runtime="2h",
    params:
        *code("open_generator"),
        settings=settings("open_generator"),
    shell:
        "python -m distillery open_generator"
        " --settings {params.settings:q}"
        " --threads 1"
        " --index {output.index:q}"
        " --config {output.config:q}"
        " --weights {output.weights:q}"
        " --scheduler {output.scheduler:q}"
        " --classes {output.classes:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


use rule open_generator as open_unet with:
    output:
        index="<results>/generators/{generator}/model_index.json",
        config="<results>/generators/{generator}/unet/config.json",
        weights="<results>/generators/{generator}/unet/diffusion_pytorch_model.safetensors",
        scheduler="<results>/generators/{generator}/scheduler/scheduler_config.json",
        classes="<results>/generators/{generator}/unet/classes.safetensors",
    wildcard_constraints:
        generator=one_of(UNETS),


rule finetune_generator:
    """Train another generator further on the latents, and keep what changed by itself too."""
    input:
        latents=latents_of,
        base=base_of,
        autoencoder=autoencoder_of,
    output:
        index="<results>/{run}generators/{generator}/model_index.json",
        config="<results>/{run}generators/{generator}/transformer/config.json",
        weights="<results>/{run}generators/{generator}/transformer/diffusion_pytorch_model.safetensors",
        scheduler="<results>/{run}generators/{generator}/scheduler/scheduler_config.json",
        changed="<results>/{run}generators/{generator}/changed.safetensors",
        vae_config="<results>/{run}generators/{generator}/vae/config.json",
        vae_weights="<results>/{run}generators/{generator}/vae/diffusion_pytorch_model.safetensors",
    log:
        text="<results>/{run}logs/finetune_generator-{generator}.log",
        cost="<results>/{run}cost/finetune_generator-{generator}.json",
    wildcard_constraints:
        generator=one_of(GENERATORS["finetune"]),
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=cards_of,
        mem=gigabytes(16),
        runtime="24h",
    params:
        *code("finetune_generator"),
        settings=settings("finetune_generator"),
    shell:
        "python -m distillery finetune_generator"
        " --settings {params.settings:q}"
        " --threads 1"
        " --latents {input.latents:q}"
        " --base {input.base:q}"
        " --autoencoder {input.autoencoder:q}"
        " --index {output.index:q}"
        " --config {output.config:q}"
        " --weights {output.weights:q}"
        " --scheduler {output.scheduler:q}"
        " --changed {output.changed:q}"
        " --vae-config {output.vae_config:q}"
        " --vae-weights {output.vae_weights:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
