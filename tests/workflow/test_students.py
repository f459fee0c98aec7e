"""Several students in the loop as a workflow: which files their jobs make, and which jobs read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clone import Clone

LOOP = "results/smoke/distilled/lgd/increment-1"
CONTROL = "results/smoke/distilled/control/increment-1"


def several(config: dict[str, Any]) -> None:
    """The students of `lgd` are two, that of `control` is one; the strength is by increment."""
    protocol = config["methods"]["lgd"]["student"]["protocol"]
    config["methods"]["lgd"]["student"]["networks"] = ["convnet2_w8", "convnet1_w8"]
    config["methods"]["lgd"]["guidance"]["learnability"]["strength"] = {2: 1.0, 3: 2.0}
    control = {"kind": "real_by_learnability", "reference": "real", "increment_size": 1}
    config["methods"]["control"] = {**control, "student": {"protocol": protocol}}
    config["analysis"]["path"] = {"methods": ["lgd"]}


def test_the_jobs_that_score_read_all_students_of_their_method_alone(tmp_path: Path) -> None:
    clone = Clone.of_project(tmp_path / "tree")
    clone.change(several)
    plan = clone.plan()
    assert (plan.rules["train_students"], plan.rules["train_student"]) == (1, 1)
    outputs = {job.rule: set(job.outputs) for job in plan.jobs if job.rule.startswith("train_student")}
    both = {f"{LOOP}/student.safetensors", f"{LOOP}/other-students.safetensors"}
    assert outputs["train_students"] == both | {f"{LOOP}/history.parquet"}
    assert outputs["train_student"] == {f"{CONTROL}/student.safetensors", f"{CONTROL}/history.parquet"}
    readers = {job.rule for job in plan.jobs if both <= set(job.inputs)}
    assert readers == {"generate_increment", "trace_sample"}
    assert not any(path.startswith(CONTROL) and "other" in path for job in plan.jobs for path in job.inputs)
