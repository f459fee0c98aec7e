# From a generator, or from real images, to distilled sets.
#
# in:  data, validation images, generator, autoencoder, reference, students, modes, gradients of a surrogate
# out: <results>/{run}distilled/{method}/increment-{k}/   candidates of each shard, scores, images
#      <results>/{run}distilled/{method}/guidance.json, <results>/{run}tables/calibration-{method}.{parquet,csv}
#      <results>/{run}distilled/{method}/chosen-{ipc}.parquet, choice-{ipc}.parquet   of the sets of other methods
#      <results>/{run}distilled/{method}/ipc{ipc}.parquet


rule generate_increment:
    """Generate the candidates of increment k, one shard of classes, steered by the student of the increments before."""
    input:
        data=layout.TRAIN,
        generator=inputs.generator,
        autoencoder=inputs.autoencoder,
        guidance_autoencoder=inputs.guidance_autoencoder,
        previous=inputs.increments_before,
        student=inputs.student_before,
        other_students=inputs.other_students_before,
        reference=inputs.reference_after_first,
        calibrated=inputs.calibrated,
        guidance_files=inputs.guidance_files,
        seed_images=inputs.seed_images,
        seed_parts=inputs.seed_parts,
    output:
        candidates=layout.CANDIDATES,
    log:
        **layout.logs("generate_increment", "method", "k", "shard", run="{run}"),
    priority: 10
    group:
        inputs.candidates_group
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="12h",
    params:
        *code("generate_increment"),
        settings=settings("generate_increment"),
    shell:
        command("generate_increment")


rule select_increment:
    """Collect increment k: the candidate that was chosen for every slot."""
    input:
        candidates=inputs.candidates,
    output:
        images=layout.INCREMENT,
    log:
        **layout.logs("select_increment", "method", "k", run="{run}"),
    wildcard_constraints:
        method=one_of(EXPERIMENT.made_by("generate_increment")),
    priority: 10
    group:
        inputs.increment_group
    conda:
        "../../envs/distillery.yaml"
    resources:
        mem=memory(4),
        runtime="1h",
    params:
        *code("select_increment"),
        settings=settings("select_increment"),
    shell:
        command("select_increment")


rule calibrate_guidance:
    """Choose the strength of the guidance from a pilot that a reference network judges."""
    input:
        validation=inputs.pilot_validation,
        teacher=inputs.pilot_teacher,
        generator=inputs.generator,
        autoencoder=inputs.autoencoder,
        guidance_autoencoder=inputs.guidance_autoencoder,
        increment=inputs.first_increment,
        student=inputs.first_student,
        other_students=inputs.first_other_students,
        reference=inputs.reference,
        judge=inputs.judge,
        guidance_files=inputs.guidance_files,
    output:
        **shown({"csv": layout.CALIBRATION_CSV}),
        guidance=layout.CALIBRATED,
        curve=layout.CALIBRATION_CURVE,
    log:
        **layout.logs("calibrate_guidance", "method", run="{run}"),
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="12h",
    params:
        *code("calibrate_guidance"),
        settings=settings("calibrate_guidance"),
    shell:
        command("calibrate_guidance")


rule sample:
    """Sample a size, or the images it adds to the next smaller one, with the guidances of a method, one shard of classes."""
    input:
        data=layout.TRAIN,
        generator=inputs.generator,
        autoencoder=inputs.autoencoder,
        guidance_autoencoder=inputs.guidance_decoder,
        previous=inputs.smaller_shards,
        guidance_files=inputs.guidance_files,
    output:
        images=layout.SAMPLED,
    log:
        **layout.logs("sample", "method", "ipc", "shard", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="12h",
    params:
        *code("sample"),
        settings=settings("sample"),
    shell:
        command("sample")


rule discover_modes:
    """Discover the modes of each class, which images are drawn to."""
    input:
        latents=inputs.latents,
    output:
        modes=layout.MODES,
    log:
        **layout.logs("discover_modes", "method", "modes", run="{run}"),
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        mem=memory(8),
        runtime="2h",
    params:
        *code("discover_modes"),
        settings=settings("discover_modes"),
    shell:
        command("discover_modes")


rule select_by_learnability:
    """Select increment k among the real images: those of largest learnability, or take it from another method's set."""
    input:
        data=layout.TRAIN,
        previous=inputs.increments_before,
        student=inputs.student_before,
        other_students=inputs.other_students_before,
        reference=inputs.reference_after_first,
        seed_images=inputs.seed_images,
    output:
        images=layout.INCREMENT,
    log:
        **layout.logs("select_by_learnability", "method", "k", run="{run}"),
    wildcard_constraints:
        method=one_of(EXPERIMENT.made_by("select_by_learnability")),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("select_by_learnability"),
        settings=settings("select_by_learnability"),
    shell:
        command("select_by_learnability")


rule select:
    """Select real images, class by class."""
    input:
        data=layout.TRAIN,
        features=inputs.features,
    output:
        images=layout.SELECTED,
    log:
        **layout.logs("select", "method", "ipc", run="{run}"),
    wildcard_constraints:
        method=one_of(EXPERIMENT.made_by("select")),
    conda:
        "../../envs/distillery.yaml"
    resources:
        mem=memory(8),
        runtime="1h",
    params:
        *code("select"),
        settings=settings("select"),
    shell:
        command("select")


rule select_by_modes:
    """Select the real images that are nearest to the modes of their class."""
    input:
        data=layout.TRAIN,
        latents=inputs.latents,
        modes=inputs.selecting_modes,
    output:
        images=layout.SELECTED,
    log:
        **layout.logs("select_by_modes", "method", "ipc", run="{run}"),
    wildcard_constraints:
        method=one_of(EXPERIMENT.made_by("select_by_modes")),
    conda:
        "../../envs/distillery.yaml"
    resources:
        mem=memory(8),
        runtime="1h",
    params:
        *code("select_by_modes"),
        settings=settings("select_by_modes"),
    shell:
        command("select_by_modes")


rule stitch_crops:
    """Stitch the crops of real images that a reference network finds easiest, several of them in one image."""
    input:
        data=layout.TRAIN,
        reference=inputs.reference,
    output:
        images=layout.SELECTED,
    log:
        **layout.logs("stitch_crops", "method", "ipc", run="{run}"),
    wildcard_constraints:
        method=one_of(EXPERIMENT.made_by("stitch_crops")),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="2h",
    params:
        *code("stitch_crops"),
        settings=settings("stitch_crops"),
    shell:
        command("stitch_crops")


rule import_images:
    """Open a distilled set that was made elsewhere."""
    input:
        external=inputs.external,
        data=layout.TRAIN,
        test=layout.TEST,
        validation=inputs.validation,
    output:
        images=layout.IMPORTED,
    log:
        **layout.logs("import_images", "method", "ipc", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        mem=memory(8),
        runtime="1h",
    params:
        *code("import_images"),
        settings=settings("import_images"),
        content=inputs.external_content,
    shell:
        command("import_images")


rule choose_set:
    """Choose the set that networks learn most from among those of several methods, on validation images."""
    input:
        sets=inputs.compared_sets,
        validation=layout.VALIDATION,
        network=checked("choose_set"),
    output:
        images=layout.CHOSEN,
        choice=layout.CHOICE,
    log:
        **layout.logs("choose_set", "method", "ipc", run="{run}"),
    wildcard_constraints:
        method=one_of(EXPERIMENT.made_by("choose_set")),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="12h",
    params:
        *code("choose_set"),
        settings=settings("choose_set"),
    shell:
        command("choose_set")


rule collect:
    """Collect shards and increments into the distilled set of one size."""
    input:
        parts=inputs.parts,
    output:
        images=layout.DISTILLED,
    log:
        **layout.logs("collect", "method", "ipc", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        mem=memory(8),
        runtime="1h",
    params:
        *code("collect"),
        settings=settings("collect"),
    shell:
        command("collect")
