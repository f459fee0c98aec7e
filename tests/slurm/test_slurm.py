"""`snakemake --cores all --profile slurm` on a real cluster: what it makes is what is made here, byte for byte."""

from __future__ import annotations

from clone import Clone
from on_slurm import SMALL, Cluster, Run


def test_the_cluster_makes_the_bytes_that_this_machine_makes(
    cluster: Cluster, fresh: Clone, undisturbed: Clone
) -> None:
    run = Run(fresh)
    printed = run.succeeds()
    assert fresh.artifacts() == undisturbed.artifacts()
    assert fresh.plan(experiment=SMALL).nothing
    # The chain of an increment is one submission; tables and figures are none.
    submitted = [line for line in printed.splitlines() if "has been submitted with SLURM jobid" in line]
    assert sum("group_increment-" in line for line in submitted) == 2
    for rule in ("generate_increment", "select_increment", "train_student", "tabulate_", "plot_"):
        assert not any(f"rule_{rule}" in line for line in submitted)
    assert len(submitted) < printed.count("Finished jobid")
