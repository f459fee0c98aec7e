# Images that are optimised: experts, the loop, pictures of its snapshots, and the choice among them.
#
# in:  <results>/data/{train,validation}.parquet, generator, autoencoder
# out: <results>/{run}experts/{experts}/trajectories-{shard}.safetensors
#      <results>/{run}distilled/{method}/   snapshots and losses of each shard, their pictures, the set that is kept
#      <results>/{run}analysis/gradients.parquet
#      <results>/cost/steps.csv and its figure


rule train_experts:
    """Train experts on the real images, one shard, and keep their weights after every epoch."""
    input:
        data=layout.TRAIN,
        whitening=inputs.whitening,
        network=checked("train_experts", "compared"),
    output:
        trajectories=layout.TRAJECTORIES,
        history=layout.EXPERTS_HISTORY,
    log:
        **layout.logs("train_experts", "experts", "shard", run="{run}"),
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="12h",
    params:
        *code("train_experts"),
        settings=settings("train_experts"),
    shell:
        command("train_experts")


rule match:
    """Optimise the images of one size, one shard of classes, and keep a snapshot every so many iterations."""
    input:
        data=layout.TRAIN,
        whitening=inputs.whitening,
        generator=inputs.generator,
        autoencoder=inputs.method_autoencoder,
        experts=inputs.experts,
        network=checked("match", "compared"),
    output:
        snapshots=layout.SNAPSHOTS,
        history=layout.MATCHING_HISTORY,
    log:
        **layout.logs("match", "method", "ipc", "shard", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="24h",
    params:
        *code("match"),
        settings=settings("match"),
        content=inputs.content(inputs.experts),
    shell:
        command("match")


rule render:
    """Render the snapshots of one size, one shard of classes."""
    input:
        snapshots=layout.SNAPSHOTS,
        whitening=inputs.whitening,
        generator=inputs.generator,
        autoencoder=inputs.method_autoencoder,
    output:
        images=layout.RENDERED,
    log:
        **layout.logs("render", "method", "ipc", "shard", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="4h",
    params:
        *code("render"),
        settings=settings("render"),
    shell:
        command("render")


rule choose_snapshot:
    """Choose the snapshot that networks learn most from, on validation images."""
    input:
        rendered=inputs.rendered,
        validation=inputs.validation,
        whitening=inputs.whitening,
        network=checked("choose_snapshot"),
    output:
        images=layout.CHOSEN,
        choice=layout.CHOICE,
    log:
        **layout.logs("choose_snapshot", "method", "ipc", run="{run}"),
    wildcard_constraints:
        method=one_of(EXPERIMENT.made_by("match")),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("choose_snapshot"),
        settings=settings("choose_snapshot"),
    shell:
        command("choose_snapshot")


rule measure_gradients:
    """Measure how much of the gradient reaches the latents, for each residual and several numbers of steps."""
    input:
        data=layout.TRAIN,
        whitening=inputs.whitening,
        generator=inputs.measured_generator,
        autoencoder=inputs.autoencoder,
        experts=inputs.measured_experts,
    output:
        norms=layout.GRADIENT_NORMS,
    log:
        **layout.logs("measure_gradients", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="4h",
    params:
        *code("measure_gradients"),
        settings=settings("measure_gradients"),
        content=inputs.content(inputs.measured_experts),
    shell:
        command("measure_gradients")


rule plot_gradients:
    """Set the gradients that reach the latents beside the published decay, as a table and a plot."""
    input:
        norms=inputs.all_gradient_norms,
    output:
        **shown(layout.figure("gradients")),
        csv=shown(layout.table("gradients"))["csv"],
        markdown=layout.table("gradients")["markdown"],
    log:
        **layout.logs("plot_gradients"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_gradients"),
        settings=settings("plot_gradients"),
    shell:
        command("plot_gradients")


rule plot_steps:
    """Draw accuracy, time and memory of LD3M over the steps of its chain, from the records of the jobs."""
    input:
        accuracy=layout.table("accuracy")["parquet"],
    output:
        **shown(layout.figure("steps", folder="cost")),
        csv=layout.STEPS_TABLE,
    log:
        **layout.logs("plot_steps"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_steps"),
        settings=settings("plot_steps"),
    shell:
        command("plot_steps")
