"""Whatever ends a job, a node, the controller or Snakemake: it goes on, or the same command does, to the same bytes.

Each test lets the training of the generator save once and stops it there: what happens then happens in its middle.
"""

from __future__ import annotations

import contextlib
import signal
import time

import psutil
from clone import Clone, wait_until
from on_slurm import (
    LOG,
    RESUME,
    SMALL,
    TARGET,
    Cluster,
    Run,
    end,
    go_on,
    gone,
    job_of,
    node_of,
    slurm,
    stages,
    submit,
    told_to_end,
)


def log_of(clone: Clone) -> str:
    """What the last attempt of the training said."""
    return (clone.folder / LOG).read_text("utf-8")


def megabytes(shown: str) -> float:
    """Of an amount as Slurm shows it."""
    return float(shown[:-1]) * {"M": 1, "G": 1024}[shown[-1]]


def assert_resumed(clone: Clone, undisturbed: Clone) -> None:
    """The last attempt went on where the one before had saved, and nothing shows that there were two."""
    assert "resuming at" in log_of(clone)
    assert clone.artifacts() == undisturbed.artifacts()
    assert clone.plan(experiment=SMALL).nothing


def test_whatever_ends_its_job_a_stage_is_started_again_and_goes_on(
    cluster: Cluster, untrained: Clone, undisturbed: Clone
) -> None:
    run = Run(untrained, TARGET, "--retries", "4")
    before: list[int] = []
    memory: list[float] = []

    def saved() -> psutil.Process:
        stage = run.stage_saved(but=tuple(before))
        before.append(stage.pid)
        memory.append(megabytes(slurm("squeue", "-h", "-o", "%m", "-j", job_of(stage))))
        return stage

    stage = saved()
    slurm("scancel", job_of(stage))
    go_on(stage)
    run.until_says("'CANCELLED'")
    assert f"stopped by signal {signal.SIGTERM.value}; saved" in run.printed

    saved().kill()
    run.until_says("'FAILED'")

    stage = saved()
    submit("sleep 1", "--partition=urgent", "--nodes=2", "--exclusive")
    run.until(lambda: told_to_end(stage), "a signal came")
    run.until(lambda: run.printed.count("Trying to restart job") == 3, "the preempted job was started again")
    told = [line for line in run.printed.splitlines() if line.startswith("stopped by signal")]
    assert len(told) == 2, run.printed  # in the logs shown for the cancelled and the preempted job: both had time

    stage = saved()
    node = node_of(job_of(stage))
    cluster("lose", node)
    try:
        wait_until(lambda: gone(stage), 30, "the stage outlives its node")
        run.until_says("'NODE_FAIL'")
        stage = saved()
        cluster("restart", "3")  # the controller is away for a while: nobody notices
        assert not gone(stage)
        go_on(stage)
        run.succeeds()
    finally:
        cluster("return", node)
    assert_resumed(untrained, undisturbed)
    assert memory == [16_000, 32_000, 48_000, 64_000, 80_000]  # each attempt asks for more


def test_before_its_time_limit_a_stage_is_told_and_saves(
    cluster: Cluster, untrained: Clone, undisturbed: Clone
) -> None:
    run = Run(untrained, TARGET, checkpoint_seconds=0)
    stage = run.stage_saved()
    before = (untrained.folder / RESUME).stat().st_mtime_ns
    # Within the two minutes before which the signal comes.
    slurm("scontrol", "update", f"JobId={job_of(stage)}", "TimeLimit=2")
    run.until(lambda: told_to_end(stage), "a signal came")
    go_on(stage)
    wait_until(lambda: gone(stage), 60, "the stage does not end")
    assert (untrained.folder / RESUME).stat().st_mtime_ns > before
    assert "'FAILED'" in run.succeeds()  # not TIMEOUT: it was over before
    assert f"stopped by signal {signal.SIGTERM.value}; saved" in run.printed
    assert_resumed(untrained, undisturbed)


def test_a_job_without_memory_gets_more(cluster: Cluster, untrained: Clone, undisturbed: Clone) -> None:
    run = Run(untrained, TARGET, "--set-resources", "train_generator:mem_mb=450 if attempt == 1 else 6000")
    assert "'FAILED'" in run.succeeds()
    logs = [path.read_text("utf-8") for path in (untrained.folder / ".snakemake/slurm_logs").rglob("*.log")]
    assert any("exceeded memory limit" in text for text in logs)
    assert untrained.artifacts() == undisturbed.artifacts()


def test_whatever_ends_snakemake_the_same_command_goes_on(
    cluster: Cluster, untrained: Clone, undisturbed: Clone
) -> None:
    before = 0
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL):
        run = Run(untrained, TARGET)
        stage = run.stage_saved(but=(before,))
        before = stage.pid
        end(run, number)
        if number == signal.SIGINT:
            go_on(stage)
            wait_until(lambda: not cluster.jobs(), 60, "an interrupted run leaves jobs")
        else:  # an orphan, stopped as it is: the next run lets it go on by cancelling it
            assert len(cluster.jobs("RUNNING")) == 1
    last = Run(untrained, TARGET)
    assert "cancelling 1 jobs whose Snakemake is dead" in last.succeeds()
    assert_resumed(untrained, undisturbed)


def test_an_orphan_and_its_successor_do_no_harm_to_each_other(
    cluster: Cluster, untrained: Clone, undisturbed: Clone
) -> None:
    run = Run(untrained, TARGET)
    orphan = run.stage_saved()
    end(run, signal.SIGKILL)
    # As if Snakemake had been started on another login node, which cannot tell whether the first one lives.
    for note in (untrained.folder / ".snakemake/slurm-runs").iterdir():
        note.unlink()
    again = Run(untrained, TARGET)
    again.until_says("`make slurm-clean` cancels them")
    successor = again.stage_saved(but=(orphan.pid,))
    assert len(cluster.jobs("RUNNING")) == len(stages(untrained)) == 2
    go_on(orphan)
    go_on(successor)
    written = set()
    while len(stages(untrained)) == 2:  # both save into the same file, many times
        with contextlib.suppress(FileNotFoundError):
            written.add((untrained.folder / RESUME).stat().st_ino)
        time.sleep(0.02)
    again.succeeds()
    wait_until(lambda: not cluster.jobs(), 60, "the orphan does not end")
    assert len(written) > 2
    assert untrained.artifacts() == undisturbed.artifacts()
    assert untrained.plan(experiment=SMALL).nothing
