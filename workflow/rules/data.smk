# From a source of labelled images to training and test images of one size.
#
# in:  the source that `dataset` names
# out: <results>/data/{train,test,rejected}.parquet


rule ingest:
    """Read the source, bring every image to one size, set test images aside, list what cannot be read."""
    input:
        source=source_files,
    output:
        train="<results>/data/train.parquet",
        test="<results>/data/test.parquet",
    log:
        text="<results>/logs/ingest.log",
        # a log outlives a failed job, and a failure is when a user wants to read it
        rejected="<results>/data/rejected.parquet",
        cost="<results>/cost/ingest.json",
    conda:
        "../../envs/distillery.yaml"
    # on this machine as many as Snakemake has; a cluster gives cpus_per_task
    threads: 64
    resources:
        cpus_per_task=4,
        mem=gigabytes(4),
        runtime="12h",
    params:
        *code("ingest"),
        settings=settings("ingest"),
        listing=source_listing,
    shell:
        "python -m distillery ingest"
        " --settings {params.settings:q}"
        " --threads {threads}"
        " --train {output.train:q}"
        " --test {output.test:q}"
        " --rejected {log.rejected:q}"
        " --cost {log.cost:q}"
        " > {log.text:q} 2>&1"
