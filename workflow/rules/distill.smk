# From a generator, or from real images, to distilled sets.
#
# in:  data, generator, autoencoder, reference, students, modes, gradients of a surrogate
# out: <results>/{run}distilled/{lgd}/increment-{k}/   candidates of each shard, images
#      <results>/{run}distilled/{lgd}/guidance.json, <results>/{run}tables/calibration-{lgd}.{parquet,csv}
#      <results>/{run}distilled/{method}/ipc{ipc}.parquet


rule generate_increment:
    """Generate increment k, one shard of classes: candidates steered by the student of the increments before, and a choice."""
    input:
        data="<results>/data/train.parquet",
        generator=generator_of,
        autoencoder=autoencoder_of,
        guidance_autoencoder=guidance_autoencoder_of,
        previous=increments_before,
        student=student_before,
        reference=reference_after_first,
        calibrated=calibrated,
        guidance_files=guidance_files_of,
        seed_images=seed_images,
    output:
        candidates="<results>/{run}distilled/{lgd}/increment-{k}/candidates-{shard}.parquet",
    log:
        text="<results>/{run}logs/generate_increment-{lgd}-{k}-{shard}.log",
        cost="<results>/{run}cost/{lgd}/generate_increment-{k}-{shard}.json",
    priority: 10
    group:
        candidates_group
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="12h",
    params:
        *code("generate_increment"),
        settings=settings("generate_increment"),
    shell:
        "python -m distillery generate_increment"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --generator {input.generator:q}"
        " --autoencoder {input.autoencoder:q}"
        " --guidance-autoencoder {input.guidance_autoencoder:q}"
        " --previous {input.previous:q}"
        " --student {input.student:q}"
        " --reference {input.reference:q}"
        " --calibrated {input.calibrated:q}"
        " --guidance-files {input.guidance_files:q}"
        " --seed-images {input.seed_images:q}"
        " --candidates {output.candidates:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule select_increment:
    """Collect increment k: the candidates of all shards that were chosen, one per class and slot."""
    input:
        candidates=candidates_of,
    output:
        images="<results>/{run}distilled/{lgd}/increment-{k}/images.parquet",
    log:
        text="<results>/{run}logs/select_increment-{lgd}-{k}.log",
        cost="<results>/{run}cost/{lgd}/select_increment-{k}.json",
    priority: 10
    group:
        increment_group
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(4),
        runtime="1h",
    params:
        *code("select_increment"),
        settings=settings("select_increment"),
    shell:
        "python -m distillery select_increment"
        " --settings {params.settings:q}"
        " --threads 1"
        " --candidates {input.candidates:q}"
        " --images {output.images:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule calibrate_guidance:
    """Choose the strength of the guidance from a pilot that a reference network judges."""
    input:
        data="<results>/data/train.parquet",
        generator=generator_of,
        autoencoder=autoencoder_of,
        guidance_autoencoder=guidance_autoencoder_of,
        increment="<results>/{run}distilled/{lgd}/increment-1/images.parquet",
        student="<results>/{run}distilled/{lgd}/increment-1/student.safetensors",
        reference=reference_of,
        judge=judge_of,
        guidance_files=guidance_files_of,
    output:
        guidance="<results>/{run}distilled/{lgd}/guidance.json",
        curve="<results>/{run}tables/calibration-{lgd}.parquet",
        csv="<results>/{run}tables/calibration-{lgd}.csv",
    log:
        text="<results>/{run}logs/calibrate_guidance-{lgd}.log",
        cost="<results>/{run}cost/{lgd}/calibrate_guidance.json",
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="12h",
    params:
        *code("calibrate_guidance"),
        settings=settings("calibrate_guidance"),
    shell:
        "python -m distillery calibrate_guidance"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --generator {input.generator:q}"
        " --autoencoder {input.autoencoder:q}"
        " --guidance-autoencoder {input.guidance_autoencoder:q}"
        " --increment {input.increment:q}"
        " --student {input.student:q}"
        " --reference {input.reference:q}"
        " --judge {input.judge:q}"
        " --guidance-files {input.guidance_files:q}"
        " --guidance {output.guidance:q}"
        " --curve {output.curve:q}"
        " --csv {output.csv:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule sample:
    """Sample a size, or what it adds to the next smaller one, with the guidances of a method, one shard of classes."""
    input:
        data="<results>/data/train.parquet",
        generator=generator_of,
        autoencoder=autoencoder_of,
        guidance_autoencoder=guidance_autoencoder_of_method,
        previous=smaller_shards,
        guidance_files=guidance_files_of,
    output:
        images="<results>/{run}distilled/{sampled}/sampled-{ipc}-{shard}.parquet",
    log:
        text="<results>/{run}logs/sample-{sampled}-{ipc}-{shard}.log",
        cost="<results>/{run}cost/{sampled}/sample-{ipc}-{shard}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        gpu=1,
        mem=gigabytes(16),
        runtime="12h",
    params:
        *code("sample"),
        settings=settings("sample"),
    shell:
        "python -m distillery sample"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --generator {input.generator:q}"
        " --autoencoder {input.autoencoder:q}"
        " --guidance-autoencoder {input.guidance_autoencoder:q}"
        " --previous {input.previous:q}"
        " --guidance-files {input.guidance_files:q}"
        " --images {output.images:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule discover_modes:
    """Discover the modes of each class, which images are drawn to."""
    input:
        latents=latents_of,
    output:
        modes="<results>/{run}distilled/{method}/modes-{modes}.safetensors",
    log:
        text="<results>/{run}logs/discover_modes-{method}-{modes}.log",
        cost="<results>/{run}cost/{method}/discover_modes-{modes}.json",
    priority: 10
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(8),
        runtime="2h",
    params:
        *code("discover_modes"),
        settings=settings("discover_modes"),
    shell:
        "python -m distillery discover_modes"
        " --settings {params.settings:q}"
        " --threads 1"
        " --latents {input.latents:q}"
        " --modes {output.modes:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule select_by_learnability:
    """Select increment k among the real images: those of largest learnability."""
    input:
        data="<results>/data/train.parquet",
        previous=increments_before,
        student=student_before,
        reference=reference_after_first,
    output:
        images="<results>/{run}distilled/{learned}/increment-{k}/images.parquet",
    log:
        text="<results>/{run}logs/select_by_learnability-{learned}-{k}.log",
        cost="<results>/{run}cost/{learned}/select_by_learnability-{k}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(8),
        runtime="1h",
    params:
        *code("select_by_learnability"),
        settings=settings("select_by_learnability"),
    shell:
        "python -m distillery select_by_learnability"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --previous {input.previous:q}"
        " --student {input.student:q}"
        " --reference {input.reference:q}"
        " --images {output.images:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule select:
    """Select real images, class by class."""
    input:
        data="<results>/data/train.parquet",
        features=features_for,
    output:
        images="<results>/{run}distilled/{real}/selected-{ipc}.parquet",
    log:
        text="<results>/{run}logs/select-{real}-{ipc}.log",
        cost="<results>/{run}cost/{real}/select-{ipc}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(8),
        runtime="1h",
    params:
        *code("select"),
        settings=settings("select"),
    shell:
        "python -m distillery select"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --features {input.features:q}"
        " --images {output.images:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule import_images:
    """Open a distilled set that was made elsewhere."""
    input:
        external=external_file,
        data="<results>/data/train.parquet",
    output:
        images="<results>/{run}distilled/{external}/imported-{ipc}.parquet",
    log:
        text="<results>/{run}logs/import_images-{external}-{ipc}.log",
        cost="<results>/{run}cost/{external}/import_images-{ipc}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(8),
        runtime="1h",
    params:
        *code("import_images"),
        settings=settings("import_images"),
        listing=external_listing,
    shell:
        "python -m distillery import_images"
        " --settings {params.settings:q}"
        " --threads 1"
        " --data {input.data:q}"
        " --images {output.images:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"


rule collect:
    """Collect shards and increments into the distilled set of one size."""
    input:
        parts=parts_of,
    output:
        images="<results>/{run}distilled/{method}/ipc{ipc}.parquet",
    log:
        text="<results>/{run}logs/collect-{method}-{ipc}.log",
        cost="<results>/{run}cost/{method}/collect-{ipc}.json",
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=1,
        mem=gigabytes(8),
        runtime="1h",
    params:
        *code("collect"),
        settings=settings("collect"),
    shell:
        "python -m distillery collect"
        " --settings {params.settings:q}"
        " --threads 1"
        " --parts {input.parts:q}"
        " --images {output.images:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
