# Images that are optimised: experts, the loop, pictures of its snapshots, and the choice among them.
#
# in:  <results>/data/train.parquet, generator, autoencoder
# out: <results>/{run}experts/{experts}/trajectories-{shard}.safetensors
#      <results>/{run}distilled/{matched}/   snapshots and losses of each shard, their pictures, the set that is kept
#      <results>/{run}analysis/gradients.parquet


rule train_experts:
    """Train experts on the real images, one shard, and keep their weights after every epoch."""
    input:
        data="<results>/data/train.parquet",
    output:
        trajectories="<results>/{run}experts/{experts}/trajectories-{shard}.safetensors",
    log:
        text="<results>/{run}logs/train_experts-{experts}-{shard}.log",
        cost="<results>/{run}cost/train_experts-{experts}-{shard}.json",
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="12h",
    params:
        *code("train_experts"),
        settings=settings("train_experts"),
    shell:
        "python -m distillery train_experts"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --trajectories {output.trajectories:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule match:
    """Optimise the images of one size, one shard of classes, and keep a snapshot every so many iterations."""
    input:
        data="<results>/data/train.parquet",
        generator=generator_of_space,
        autoencoder=autoencoder_of_space,
        experts=experts_of,
    output:
        snapshots="<results>/{run}distilled/{matched}/snapshots-{ipc}-{shard}.safetensors",
        history="<results>/{run}distilled/{matched}/history-{ipc}-{shard}.parquet",
    log:
        text="<results>/{run}logs/match-{matched}-{ipc}-{shard}.log",
        cost="<results>/{run}cost/{matched}/match-{ipc}-{shard}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="24h",
    params:
        *code("match"),
        settings=settings("match"),
    shell:
        "python -m distillery match"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --generator {input.generator:q}"
        " --autoencoder {input.autoencoder:q}"
        " --experts {input.experts:q}"
        " --snapshots {output.snapshots:q}"
        " --history {output.history:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule render:
    """Render the snapshots of one size, one shard of classes."""
    input:
        snapshots="<results>/{run}distilled/{matched}/snapshots-{ipc}-{shard}.safetensors",
        generator=generator_of_space,
        autoencoder=autoencoder_of_space,
    output:
        images="<results>/{run}distilled/{matched}/rendered-{ipc}-{shard}.parquet",
    log:
        text="<results>/{run}logs/render-{matched}-{ipc}-{shard}.log",
        cost="<results>/{run}cost/{matched}/render-{ipc}-{shard}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="4h",
    params:
        *code("render"),
        settings=settings("render"),
    shell:
        "python -m distillery render"
        " --settings {params.settings:q}"
        " --threads 1"
        " --snapshots {input.snapshots:q}"
        " --generator {input.generator:q}"
        " --autoencoder {input.autoencoder:q}"
        " --images {output.images:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule choose_snapshot:
    """Choose the snapshot that networks learn most from, on training images that were held out."""
    input:
        data="<results>/data/train.parquet",
        rendered=rendered_shards,
    output:
        images="<results>/{run}distilled/{matched}/chosen-{ipc}.parquet",
        choice="<results>/{run}distilled/{matched}/choice-{ipc}.parquet",
    log:
        text="<results>/{run}logs/choose_snapshot-{matched}-{ipc}.log",
        cost="<results>/{run}cost/{matched}/choose_snapshot-{ipc}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(8),
        runtime="12h",
    params:
        *code("choose_snapshot"),
        settings=settings("choose_snapshot"),
    shell:
        "python -m distillery choose_snapshot"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --rendered {input.rendered:q}"
        " --images {output.images:q}"
        " --choice {output.choice:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule measure_gradients:
    """Measure how much of the gradient reaches the latents, for each residual and several numbers of steps."""
    input:
        data="<results>/data/train.parquet",
        generator=measured_generator,
        autoencoder=autoencoder_of,
        experts=measured_experts,
    output:
        norms="<results>/{run}analysis/gradients.parquet",
    log:
        text="<results>/{run}logs/measure_gradients.log",
        cost="<results>/{run}cost/measure_gradients.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="4h",
    params:
        *code("measure_gradients"),
        settings=settings("measure_gradients"),
    shell:
        "python -m distillery measure_gradients"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --generator {input.generator:q}"
        " --autoencoder {input.autoencoder:q}"
        " --experts {input.experts:q}"
        " --norms {output.norms:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule plot_gradients:
    """Set the gradients that reach the latents beside the published decay, as a table and a plot."""
    input:
        norms=all_norms,
    output:
        csv="<results>/tables/gradients.csv",
        markdown="<results>/tables/gradients.md",
        png="<results>/figures/gradients.png",
        svg="<results>/figures/gradients.svg",
    log:
        text="<results>/logs/plot_gradients.log",
        cost="<results>/cost/plot_gradients.json",
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_gradients"),
        settings=settings("plot_gradients"),
    shell:
        "python -m distillery plot_gradients"
        " --settings {params.settings:q}"
        " --threads 1"
        " --norms {input.norms:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " --png {output.png:q}"
        " --svg {output.svg:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
