# How sets are learned: figures 4 to 6 of arXiv 2604.00519.
#
# in:  <results>/{run}distilled/{method}/, <results>/data/*.parquet, references
# out: <results>/{run}analysis/incremental_dynamics/{method}.parquet   loss of a student over the increments
#      <results>/{run}analysis/learning_{dynamics,shares}.parquet      probability of each image over a training
#      <results>/{run}analysis/validity/{method}.parquet               losses and probabilities of candidates
#      <results>/tables/ and <results>/figures/ incremental_dynamics, learning_dynamics, validity


rule measure_incremental_dynamics:
    """Measure the loss of a student that goes on from increment to increment of a set."""
    input:
        images=analyses.largest_set,
        test=inputs.tested_images,
        teacher=analyses.incremental_teacher,
        network=checked("measure_incremental_dynamics"),
    output:
        dynamics=layout.INCREMENTAL_DYNAMICS,
    log:
        **layout.logs("measure_incremental_dynamics", "method", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("measure_incremental_dynamics"),
        settings=settings("measure_incremental_dynamics"),
    shell:
        command("measure_incremental_dynamics")


rule measure_learning_dynamics:
    """Measure how sure a network is of each image over a training, original and distilled."""
    input:
        data=layout.TRAIN,
        images=analyses.learning_images,
        teacher=analyses.learning_teacher,
        network=checked("measure_learning_dynamics"),
    output:
        dynamics=layout.LEARNING_DYNAMICS,
        shares=layout.LEARNING_SHARES,
    log:
        **layout.logs("measure_learning_dynamics", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("measure_learning_dynamics"),
        settings=settings("measure_learning_dynamics"),
    shell:
        command("measure_learning_dynamics")


rule measure_validity:
    """Measure what student, reference and judge say of each candidate, and which was chosen."""
    input:
        candidates=analyses.candidates,
        judge=analyses.judge,
    output:
        validity=layout.VALIDITY,
    log:
        **layout.logs("measure_validity", "method", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="1h",
    params:
        *code("measure_validity"),
        settings=settings("measure_validity"),
    shell:
        command("measure_validity")


rule tabulate_incremental_dynamics:
    """Tabulate spikes of the loss and test accuracies, increment by increment."""
    input:
        dynamics=analyses.incremental_dynamics,
    output:
        **shown(layout.table("incremental_dynamics")),
    log:
        **layout.logs("tabulate_incremental_dynamics"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_incremental_dynamics"),
        settings=settings("tabulate_incremental_dynamics"),
    shell:
        command("tabulate_incremental_dynamics")


rule plot_incremental_dynamics:
    """Draw the loss over the increments with each spike, and the test accuracy after each."""
    input:
        dynamics=analyses.incremental_dynamics,
    output:
        **shown(layout.figure("incremental_dynamics")),
    log:
        **layout.logs("plot_incremental_dynamics"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_incremental_dynamics"),
        settings=settings("plot_incremental_dynamics"),
    shell:
        command("plot_incremental_dynamics")


rule tabulate_learning_dynamics:
    """Tabulate shares of easy, informative and hard images, and divergences from the original ones."""
    input:
        shares=analyses.learning_shares,
    output:
        **shown(layout.table("learning_dynamics")),
    log:
        **layout.logs("tabulate_learning_dynamics"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_learning_dynamics"),
        settings=settings("tabulate_learning_dynamics"),
    shell:
        command("tabulate_learning_dynamics")


rule plot_learning_dynamics:
    """Draw the density of each set over mean and deviation of the probability."""
    input:
        dynamics=analyses.learning_dynamics,
        shares=analyses.learning_shares,
    output:
        **shown(layout.figure("learning_dynamics")),
    log:
        **layout.logs("plot_learning_dynamics"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_learning_dynamics"),
        settings=settings("plot_learning_dynamics"),
    shell:
        command("plot_learning_dynamics")


rule tabulate_validity:
    """Tabulate loss and probability of candidates and of chosen ones."""
    input:
        validity=analyses.validity,
    output:
        **shown(layout.table("validity")),
    log:
        **layout.logs("tabulate_validity"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_validity"),
        settings=settings("tabulate_validity"),
    shell:
        command("tabulate_validity")


rule plot_validity:
    """Draw the reference's probability against the student's loss, of candidates and of chosen ones."""
    input:
        validity=analyses.validity,
    output:
        **shown(layout.figure("validity")),
    log:
        **layout.logs("plot_validity"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_validity"),
        settings=settings("plot_validity"),
    shell:
        command("plot_validity")
