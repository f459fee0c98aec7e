"""What the cluster cannot do is said before anything computes; what goes wrong on a node is said on the terminal."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
from typing import Any

import pytest
from clone import PROJECT, Clone, wait_until
from on_slurm import LOG, OURS, SMALL, TARGET, Cluster, Run, end, go_on, job_of, slurm, submit

from distillery.slurm import PROFILE, Watch

JOBS = "has been submitted with SLURM jobid"


@pytest.mark.parametrize(
    ("site", "words"),
    [
        pytest.param("  slurm_partition: nowhere", "invalid partition specified: nowhere", id="no such partition"),
        pytest.param(
            "  slurm_partition: members\n  slurm_account: strangers", "Invalid account", id="an account that is refused"
        ),
        pytest.param("  constraint: a100", "Invalid feature specification", id="no such constraint"),
        pytest.param("  runtime: 99d", "Requested time limit is invalid", id="longer than the partition allows"),
        pytest.param("  gres: 'gpu:h100:1'", "node configuration is not available", id="no such card"),
        pytest.param("  cpus_per_task: 99", "More processors requested than permitted", id="more cores than there are"),
    ],
)
def test_a_request_that_cannot_be_met_ends_before_anything_computes(
    cluster: Cluster, fresh: Clone, site: str, words: str
) -> None:
    key = site.partition(":")[0].strip()
    if key in ("runtime", "gres", "cpus_per_task"):
        fresh.edit(PROFILE, "set-resources:\n", f"set-resources:\n  ingest:\n  {site}\n")
    else:
        fresh.edit(PROFILE, "default-resources:\n", f"default-resources:\n{site}\n")
    run = Run(fresh)
    assert run.wait() != 0
    assert words.lower() in run.printed.lower(), run.printed
    assert "the cluster refuses what these rules ask for" in run.printed
    assert "ingest:" in run.printed
    assert PROFILE in run.printed
    assert "Traceback" not in run.printed
    assert JOBS not in run.printed
    assert not cluster.jobs()


def test_a_gres_takes_the_place_of_the_gpus(cluster: Cluster, untrained: Clone) -> None:
    rule = 'set-resources:\n  train_generator:\n    gpu: 0\n    gres: "gpu:1"\n'
    untrained.edit(PROFILE, "set-resources:\n", rule)
    run = Run(untrained, TARGET)
    stage = run.stage_saved()
    assert stage.environ()["CUDA_VISIBLE_DEVICES"] in ("0", "1", "2", "3")
    assert "TresPerNode=gres:gpu:1" in slurm("scontrol", "show", "job", job_of(stage))
    go_on(stage)
    end(run, signal.SIGINT)


def test_what_a_stage_says_on_a_node_reaches_the_terminal(cluster: Cluster, untrained: Clone) -> None:
    latents = untrained.folder / "results/small/latents/train-0.safetensors"
    with latents.open("r+b") as file:
        file.truncate(200)
    run = Run(untrained, TARGET, "--retries", "0")
    assert run.wait() != 0
    assert "results/small/latents/train-0.safetensors: cannot be read" in run.printed
    assert LOG in run.printed


def test_one_command_cancels_orphans_and_nothing_else(cluster: Cluster, untrained: Clone) -> None:
    stranger = submit("sleep 300")
    run = Run(untrained, TARGET)
    stage = run.stage_saved()
    clean = ("make", "--makefile", str(PROJECT / "Makefile"), "--old-file=setup", "slurm-clean")
    kept = untrained.run(*clean)
    assert kept.returncode == 0, kept.stdout
    assert "no orphans" in kept.stdout  # its Snakemake lives
    assert len(cluster.jobs("RUNNING")) == 2
    end(run, signal.SIGKILL)
    go_on(stage)
    done = untrained.run(*clean)
    assert done.returncode == 0, done.stdout
    assert "1 jobs cancelled" in done.stdout
    assert cluster.jobs("RUNNING") == [stranger]


def test_jobs_that_wait_are_explained(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    submit("sleep 300", "--nodes=2", "--exclusive")
    wait_until(lambda: cluster.jobs("RUNNING"), 120, "the cluster does not fill")
    run = f"{OURS}_waits"
    submit("true", name="waits")
    wait_until(lambda: "Resources" in slurm("squeue", "-h", "-n", run, "-o", "%r"), 30, "it does not wait")

    async def query(_command: str, _logger: Any) -> tuple[dict[str, str], float]:
        return {"1": "PENDING"}, 0.1

    watch = Watch(query, run)
    watch.explained -= 60
    with caplog.at_level(logging.INFO):
        asyncio.run(watch("", logging.getLogger()))
        asyncio.run(watch("", logging.getLogger()))
    assert [record.message for record in caplog.records if "wait in the queue" in record.message] == [
        "Jobs wait in the queue: 1 for Resources. `make slurm-queue` lists them."
    ]


def test_the_smallest_experiment_needs_no_card(cluster: Cluster, fresh: Clone) -> None:
    """A target before the first training: one job, in the line that users type, at the pace that the profile sets."""
    target = "results/small/data/train.parquet"
    done = fresh.run("snakemake", "--cores", "all", "--profile", "slurm", "--configfile", SMALL, "--", target)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(JOBS) == 1
    assert (fresh.folder / target).exists()


def test_nodes_that_are_down_for_now_are_waited_for(cluster: Cluster, untrained: Clone) -> None:
    slurm("scontrol", "update", "NodeName=cn1,cn2", "State=DRAIN", "Reason=test")
    try:
        run = Run(untrained, TARGET)
        run.until_says(JOBS)
        assert cluster.jobs("PENDING")
    finally:
        slurm("scontrol", "update", "NodeName=cn1,cn2", "State=RESUME")
    stage = run.stage_saved()
    end(run, signal.SIGINT)
    go_on(stage)


def test_a_folder_with_a_quote_and_a_space_is_text_to_every_shell(cluster: Cluster, fresh: Clone) -> None:
    """The login node's shell, that of the job, and that of the stage read its name; one with `$` is refused before."""
    target = "results/small/data/train.parquet"
    command = ("snakemake", "--cores", "all", "--profile", "slurm", "--configfile", SMALL, "--", target)
    quoted = fresh.copy(fresh.folder.with_name("it's a clone"))
    done = quoted.run(*command)
    assert done.returncode == 0, done.stdout
    assert (quoted.folder / target).exists()
    hostile = fresh.copy(fresh.folder.with_name("$(touch ran)"))
    done = hostile.run(*command)
    assert (done.returncode, done.stdout.count("has been submitted")) == (1, 0)
    assert "the shell that submits jobs would read this as a command" in done.stdout
    assert not [*fresh.folder.parent.rglob("ran")]
    shutil.rmtree(quoted.folder)
    shutil.rmtree(hostile.folder)
