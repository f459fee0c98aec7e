# Pictures: contact sheets, nearest training images, paths of samples, accuracy against cost.
#
# in:  <results>/{run}distilled/{method}/ipc{ipc}.parquet, <results>/data/*.parquet, features, students, generators
# out: <results>/{run}analysis/{neighbours,path,shifts}/*.parquet, <results>/tables/neighbours.*, <results>/{run}figures/*
#      <results>/cost/accuracy.*: another one in each run, as the costs are


rule plot_images:
    """Draw a contact sheet of the largest set of a method; rows are classes."""
    input:
        images=pictures.largest_set,
    output:
        **shown(layout.figure("images-{method}", "{run}")),
    log:
        **layout.logs("plot_images", "method", run="{run}"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_images"),
        settings=settings("plot_images"),
    shell:
        command("plot_images")


rule plot_cost:
    """Draw accuracy against what the sets cost, from the records of the jobs."""
    input:
        accuracy=layout.table("accuracy")["parquet"],
    output:
        **shown(layout.figure("accuracy", folder="cost")),
        csv=layout.COST_TABLE,
    log:
        **layout.logs("plot_cost"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_cost"),
        settings=settings("plot_cost"),
    shell:
        command("plot_cost")


rule measure_neighbours:
    """Find the nearest training image of every image of a set."""
    input:
        data=layout.TRAIN,
        features=pictures.neighbours_features,
        reference=pictures.neighbours_reference,
        images=pictures.neighbours_images,
    output:
        neighbours=layout.NEIGHBOURS,
    log:
        **layout.logs("measure_neighbours", "method", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="2h",
    params:
        *code("measure_neighbours"),
        settings=settings("measure_neighbours"),
    shell:
        command("measure_neighbours")


rule measure_held_out_neighbours:
    """Find the nearest training image of every test image."""
    input:
        data=layout.TRAIN,
        features=pictures.neighbours_features,
        reference=pictures.neighbours_reference,
        test=layout.TEST,
    output:
        neighbours=layout.HELD_OUT_NEIGHBOURS,
    log:
        **layout.logs("measure_held_out_neighbours", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(8),
        runtime="2h",
    params:
        *code("measure_held_out_neighbours"),
        settings=settings("measure_held_out_neighbours"),
    shell:
        command("measure_held_out_neighbours")


rule tabulate_neighbours:
    """Tabulate the distances to nearest training images."""
    input:
        neighbours=pictures.all_neighbours,
    output:
        **shown(layout.table("neighbours")),
    log:
        **layout.logs("tabulate_neighbours"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("tabulate_neighbours"),
        settings=settings("tabulate_neighbours"),
    shell:
        command("tabulate_neighbours")


rule plot_neighbours:
    """Draw the distribution of distances to nearest training images."""
    input:
        neighbours=pictures.all_neighbours,
    output:
        **shown(layout.figure("neighbours")),
    log:
        **layout.logs("plot_neighbours"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_neighbours"),
        settings=settings("plot_neighbours"),
    shell:
        command("plot_neighbours")


rule plot_neighbour_pairs:
    """Draw the images of a set that lie nearest to a training image, beside that image."""
    input:
        data=layout.TRAIN,
        images=pictures.neighbours_images,
        neighbours=layout.NEIGHBOURS,
        held_out=layout.HELD_OUT_NEIGHBOURS,
    output:
        **shown(layout.figure("pairs-{method}", "{run}")),
    log:
        **layout.logs("plot_neighbour_pairs", "method", run="{run}"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_neighbour_pairs"),
        settings=settings("plot_neighbour_pairs"),
    shell:
        command("plot_neighbour_pairs")


rule plot_coverage:
    """Draw precision, recall, density and coverage of each method."""
    input:
        coverages=pictures.all_coverages,
    output:
        **shown(layout.figure("coverage")),
    log:
        **layout.logs("plot_coverage"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_coverage"),
        settings=settings("plot_coverage"),
    shell:
        command("plot_coverage")


rule trace_sample:
    """Sample some images of a set again, with guidance and without, and record their paths."""
    input:
        data=layout.TRAIN,
        generator=pictures.generator,
        autoencoder=pictures.autoencoder,
        images=pictures.largest_set,
        guidance_autoencoder=pictures.guidance_decoder,
        previous=pictures.path_previous,
        student=pictures.path_student,
        other_students=pictures.path_other_students,
        reference=pictures.path_reference,
        calibrated=pictures.path_calibrated,
        guidance_files=pictures.guidance_files,
    output:
        path=layout.SAMPLE_PATH,
        shifts=layout.SHIFTS,
    log:
        **layout.logs("trace_sample", "method", run="{run}"),
    conda:
        "../../envs/distillery.yaml"
    resources:
        gpu=1,
        mem=memory(16),
        runtime="4h",
    params:
        *code("trace_sample"),
        settings=settings("trace_sample"),
    shell:
        command("trace_sample")


rule plot_path:
    """Draw the paths of samples, a block per class."""
    input:
        path=layout.SAMPLE_PATH,
    output:
        **shown(layout.figure("path-{method}", "{run}")),
    log:
        **layout.logs("plot_path", "method", run="{run}"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_path"),
        settings=settings("plot_path"),
    shell:
        command("plot_path")


rule plot_shifts:
    """Draw how far each guidance moves samples, and whether guidances pull the same way."""
    input:
        shifts=layout.SHIFTS,
    output:
        **shown(layout.figure("shifts-{method}", "{run}")),
    log:
        **layout.logs("plot_shifts", "method", run="{run}"),
    localrule: True
    conda:
        "../../envs/distillery.yaml"
    params:
        *code("plot_shifts"),
        settings=settings("plot_shifts"),
    shell:
        command("plot_shifts")
