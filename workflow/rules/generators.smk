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
        images=layout.TRAIN,
        reference=inputs.perceptual_reference,
    output:
        **layout.autoencoder("{run}autoencoder"),
        history=layout.AUTOENCODER_HISTORY,
    log:
        **layout.logs("train_autoencoder", run="{run}"),
    wildcard_constraints:
        run=one_of([]) if "autoencoder" in OPENED else ANY_RUN,
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="12h",
    params:
        *code("train_autoencoder"),
        settings=settings("train_autoencoder"),
    shell:
        command("train_autoencoder")


rule open_autoencoder:
    """Open a pretrained autoencoder, check it, and keep it with its scale and shift."""
    input:
        source=inputs.opened_autoencoder,
    output:
        **layout.autoencoder("{opened}"),
    log:
        **layout.logs("open_autoencoder", "opened"),
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        mem=memory(4),
        runtime="1h",
    params:
        *code("open_autoencoder"),
        settings=settings("open_autoencoder"),
        content=inputs.content(inputs.opened_autoencoder),
    shell:
        command("open_autoencoder")


rule encode_latents:
    """Encode one shard of the training images: mean and standard deviation of their latents."""
    input:
        images=layout.TRAIN,
        autoencoder=inputs.autoencoder,
    output:
        latents=layout.LATENTS,
    log:
        **layout.logs("encode_latents", "shard", run="{run}"),
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=4,
        gpu=1,
        mem=memory(4),
        runtime="4h",
    params:
        *code("encode_latents"),
        settings=settings("encode_latents"),
    shell:
        command("encode_latents")


rule measure_autoencoder:
    """Measure what the autoencoder keeps of the tested images, and what reference networks lose by it."""
    input:
        test=inputs.tested_images,
        autoencoder=inputs.autoencoder,
        guidance_autoencoder=inputs.guidance_autoencoder,
        references=inputs.references,
    output:
        table=layout.RECONSTRUCTION,
    log:
        **layout.logs("measure_autoencoder", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="2h",
    params:
        *code("measure_autoencoder"),
        settings=settings("measure_autoencoder"),
    shell:
        command("measure_autoencoder")


rule train_generator:
    """Train a class-conditional DiT on the latents."""
    input:
        latents=inputs.latents,
    output:
        **layout.generator(),
        history=layout.GENERATOR_HISTORY,
    log:
        **layout.logs("train_generator", "generator", run="{run}"),
    wildcard_constraints:
        generator=one_of(EXPERIMENT.generators_of("train_generator")),
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=inputs.cards,
        mem=memory(16),
        runtime="24h",
    params:
        *code("train_generator"),
        settings=settings("train_generator"),
    shell:
        command("train_generator")


rule open_generator:
    """Open a pretrained class-conditional DiT, check it, and keep it with the names of its classes."""
    input:
        source=inputs.opened_generator,
    output:
        **layout.generator(run=""),
        classes=[],
    log:
        **layout.logs("open_generator", "generator"),
    wildcard_constraints:
        generator=one_of(set(EXPERIMENT.generators_of("open_generator")) - set(UNETS)),
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        mem=memory(16),
        runtime="2h",
    params:
        *code("open_generator"),
        settings=settings("open_generator"),
        content=inputs.content(inputs.opened_generator),
    shell:
        command("open_generator")


use rule open_generator as open_unet with:
    output:
        **layout.unet(),
    wildcard_constraints:
        generator=one_of(UNETS),


rule finetune_generator:
    """Train another generator further on the latents, and keep what changed by itself too."""
    input:
        latents=inputs.latents,
        base=inputs.base,
        autoencoder=inputs.autoencoder,
    output:
        **layout.finetuned(),
        history=layout.GENERATOR_HISTORY,
    log:
        **layout.logs("finetune_generator", "generator", run="{run}"),
    wildcard_constraints:
        generator=one_of(EXPERIMENT.generator_parts_of("finetune_generator")),
    priority: 100
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=inputs.cards,
        mem=memory(16),
        runtime="24h",
    params:
        *code("finetune_generator"),
        settings=settings("finetune_generator"),
    shell:
        command("finetune_generator")
