# From a source of labelled images to training, validation and test images of one size.
#
# in:  the source that `dataset` names
# out: <results>/data/{train,test,rejected,duplicates}.parquet, and validation.parquet where `dataset` asks for it
#      <results>/data/whitening.safetensors, where `dataset.zca` asks for it


rule ingest:
    """Read the source, bring every image to one size, set images aside, list what cannot be read or occurs twice."""
    input:
        source=inputs.source,
    output:
        train=layout.TRAIN,
        test=layout.TEST,
        validation=targets.validation_images(EXPERIMENT),
    log:
        **layout.logs("ingest"),
        # a log outlives a failed job, and a failure is when a user wants to read it
        rejected=layout.REJECTED,
        duplicates=layout.DUPLICATES,
    conda:
        "../../envs/distillery.yaml"
    # on this machine as many as Snakemake has; a cluster gives cpus_per_task
    threads: 64
    resources:
        cpus_per_task=4,
        mem=memory(4),
        runtime="12h",
    params:
        *code("ingest"),
        settings=settings("ingest"),
        content=inputs.source_content,
    shell:
        command("ingest", "{threads}")


rule fit_whitening:
    """Fit the whitening of whole images (ZCA) on the training images."""
    input:
        data=layout.TRAIN,
    output:
        whitening=layout.WHITENING,
    log:
        **layout.logs("fit_whitening"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        cpus_per_task=4,
        mem=memory(4),
        runtime="1h",
    params:
        *code("fit_whitening"),
        settings=settings("fit_whitening"),
    shell:
        command("fit_whitening")
