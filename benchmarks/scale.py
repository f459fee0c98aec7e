"""A schedule of the shape of ImageNet-1K on the test cluster: how long it is planned, what a job costs beside its work.

    python benchmarks/scale.py                 # plan, then run the whole schedule with stages that do nothing
    python benchmarks/scale.py --plan          # plan only
    python benchmarks/scale.py --latency       # one job that takes a second, at the pace that the profile sets

1,000 classes of stand-in images, sharded sampling and generation, IPC 50, five networks, three seeds. Every stage is
replaced by one that writes its name into its outputs: what remains is Snakemake, its executor and Slurm.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

PROJECT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "config.yaml", "envs", "profiles", "slurm", "src", "workflow")
EXPERIMENT = "experiment.yaml"
PLAN_SECONDS = 10.0

NO_OP = '''"""The door with no stage behind it: what is no file yet is an output, and gets a few bytes."""
import sys
from pathlib import Path

known = {"--settings", "--threads", "--checkpoint-seconds"}
option = ""
for word in sys.argv[2:]:
    if word.startswith("--"):
        option = word
    elif option not in known and not Path(word).exists():
        Path(word).parent.mkdir(parents=True, exist_ok=True)
        Path(word).write_text(f"{sys.argv[1]} {word}\\n", "utf-8")
'''


@dataclass(frozen=True)
class Scale:
    """How large a schedule is.

    Attributes:
        classes: of the stand-in data.
        shards: jobs that one sampling or one increment is spread over.
    """

    classes: int = 1000
    shards: int = 20
    seeds: int = 3
    networks: int = 5
    ipc: tuple[int, ...] = (10, 50)
    increment: int = 10


@dataclass(frozen=True)
class Finished:
    """What one run of a schedule was.

    Attributes:
        jobs: of Snakemake; those of a group are one submission.
        at_once: most jobs that Slurm ran at the same time.
        seconds: from start to end.
        overhead: seconds that one place of the cluster was taken per submission: all of them do nothing.
        files: that the run left, per job of Snakemake, results and Snakemake's own notes.
    """

    jobs: int
    submissions: int
    at_once: int
    seconds: float
    overhead: float
    files: float


def build(folder: Path, scale: Scale, stages: bool = False) -> None:
    """A copy of the project with stand-in data and an experiment; its stages do nothing unless they are to be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_symlink():
            (folder / part).symlink_to(source.readlink())
        elif source.is_dir():
            shutil.copytree(source, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    if not stages:
        (folder / "src/distillery/__main__.py").write_text(NO_OP, "utf-8")
    _write_data(folder / "data/train.parquet", scale)
    (folder / EXPERIMENT).write_text(yaml.safe_dump(_experiment(scale), sort_keys=False), "utf-8")


def _write_data(path: Path, scale: Scale) -> None:
    names = [f"n{label:08d}" for label in range(scale.classes)]
    labels = [label for label in range(scale.classes) for _ in range(max(scale.ipc) + 10)]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    contents = [{"bytes": row.to_bytes(8, "big"), "path": None} for row in range(len(labels))]
    images = pa.array(contents, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64())})
    path.parent.mkdir()
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    pq.write_table(table, path.with_name("test.parquet"))


def _experiment(scale: Scale) -> dict[str, Any]:
    return {
        "name": "scale",
        "seeds": list(range(scale.seeds)),
        "dataset": {
            "source": {"kind": "parquet", "train": ["data/train.parquet"], "test": ["data/test.parquet"]},
            "resolution": 64,
        },
        "autoencoder": {"block_out_channels": [8, 16, 16]},
        "generators": {"dit": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 16}},
        "references": {"real": {"network": "convnet3_w32", "training": {"preset": "reference"}}},
        "methods": {
            "lgd": {
                "kind": "lgd", "generator": "dit", "reference": "real", "increment_size": scale.increment,
                "shards": scale.shards,
            },
            "dit": {"kind": "plain", "generator": "dit", "shards": scale.shards},
            "random": {"kind": "random"},
        },
        "ipc": list(scale.ipc),
        "evaluation": {
            "protocol": "small",
            "networks": [f"convnet3_w{8 * (width + 1)}" for width in range(scale.networks)],
        },
    }  # fmt: skip


def _environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PYTHONPATH": str(folder / "src"), "PATH": path}


def plan(folder: Path) -> tuple[float, int]:
    """Seconds of a dry run, and the number of jobs that it names."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--configfile", EXPERIMENT],
        cwd=folder, env=_environment(folder), text=True, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    total = next(line for line in (done.stdout + done.stderr).splitlines() if line.startswith("total"))
    return time.monotonic() - start, int(total.split()[1])


def run(folder: Path, *targets: str, slots: int = 8) -> Finished:
    """Run a schedule on the test cluster.

    Raises:
        SystemExit: it did not finish.
    """
    since = datetime.now().isoformat(timespec="seconds")  # as Slurm shows times
    prefix = _new_prefix()
    done, times = threading.Event(), dict[str, tuple[str, str]]()

    def look() -> None:
        while not done.wait(5):
            times.update(_times_of_jobs(prefix, since))

    before, start = _files(folder), time.monotonic()
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        finished = subprocess.run(
            [sys.executable, str(PROJECT / "tests/slurm/snakemake"), "--configfile", EXPERIMENT,
             "--cores", "all", "--profile", "slurm", "--slurm-jobname-prefix", prefix,
             *(targets or ["all"]), "--no-hooks"],
            cwd=folder, env=_environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
    finally:
        done.set()
        watcher.join()
    seconds = time.monotonic() - start
    if finished.returncode:
        raise SystemExit(finished.stdout)
    submissions = finished.stdout.count("has been submitted with SLURM jobid")
    jobs = finished.stdout.count("Finished jobid")
    times.update(_times_of_jobs(prefix, since))
    peak = most_at_once(list(times.values()))
    return Finished(
        jobs, submissions, peak, seconds, seconds * min(slots, peak) / submissions, (_files(folder) - before) / jobs
    )


def _new_prefix() -> str:
    """Begins the names of all jobs of one run: nobody else's are looked at."""
    return f"distillery_{uuid.uuid4().hex[:12]}"


def _listed(prefix: str, columns: str, *options: str) -> list[list[str]]:
    """These columns of the jobs in the queue whose names begin so."""
    listed = subprocess.run(
        ["squeue", "-h", "-o", f"%j {columns}", *options], capture_output=True, text=True, check=False
    ).stdout
    return [line.split()[1:] for line in listed.splitlines() if line.startswith(prefix)]


def _times_of_jobs(prefix: str, since: str) -> dict[str, tuple[str, str]]:
    """Start and end of each job that started after a time and that Slurm still remembers, by its number."""
    jobs = _listed(prefix, "%A %S %e", "-t", "all")
    return {job: (start, end) for job, start, end in jobs if since <= start != "N/A"}


def most_at_once(times: list[tuple[str, str]]) -> int:
    """How many of some intervals lie over each other; one that ends when another starts does not count."""
    changes = sorted([(start, 1) for start, _ in times] + [(end, -1) for _, end in times])
    return max(accumulate(change for _, change in changes), default=0)


def latency(folder: Path) -> tuple[float, float]:
    """Seconds of one job of a second, from its submission to its end as Slurm has it, and as Snakemake has seen it."""
    door = folder / "src/distillery/__main__.py"
    door.write_text(f"import time\n\ntime.sleep(1)\n{NO_OP}", "utf-8")
    prefix = _new_prefix()
    process = subprocess.Popen(
        ["snakemake", "--configfile", EXPERIMENT, "--cores", "all", "--profile", "slurm", "--no-hooks",
         "--slurm-jobname-prefix", prefix, "--", "results/scale/data/train.parquet"],
        cwd=folder, env=_environment(folder), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    submitted = ended = seen = 0.0
    printed = []
    for line in process.stdout:
        printed.append(line)
        if "has been submitted with SLURM jobid" in line:
            submitted = time.monotonic()
            while _listed(prefix, "%A"):
                time.sleep(0.05)
            ended = time.monotonic()
        elif "Finished jobid" in line and not seen:
            seen = time.monotonic()
    if process.wait() or not seen:
        raise SystemExit("".join(printed))
    return ended - submitted, seen - submitted


def _files(folder: Path) -> int:
    return sum(len(files) + len(folders) for _, folders, files in os.walk(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="plan only")
    parser.add_argument("--latency", action="store_true", help="one job alone")
    parser.add_argument("--shards", type=int, default=Scale.shards)
    parser.add_argument("--classes", type=int, default=Scale.classes)
    arguments = parser.parse_args()
    scale = Scale(classes=arguments.classes, shards=arguments.shards)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "scale")
        build(folder, scale)
        if arguments.latency:
            subprocess.run(["bash", str(PROJECT / "tests/slurm/cluster.sh"), "start"], check=True)
            for _ in range(3):
                ended, seen = latency(folder)
                print(f"a job of 1 s: over in Slurm {ended:.1f} s after its submission, seen after {seen:.1f} s")
                shutil.rmtree(folder / "results")
            return
        seconds, jobs = plan(folder)
        print(
            f"plan: {seconds:.1f} s for {jobs} jobs, {scale.classes} classes (at most {PLAN_SECONDS:.0f} s)", flush=True
        )
        if not arguments.plan:
            subprocess.run(["bash", str(PROJECT / "tests/slurm/cluster.sh"), "start"], check=True)
            finished = run(folder)
            print(json.dumps(asdict(finished), indent=2))
            print(f"left in the queue: {len(_listed('distillery_', '%A'))}; to be done: {plan_left(folder)}")


def plan_left(folder: Path) -> str:
    """What a dry run after the run says."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--configfile", EXPERIMENT],
        cwd=folder, env=_environment(folder), text=True, capture_output=True, check=False,
    )  # fmt: skip
    return "nothing" if "Nothing to be done" in done.stdout + done.stderr else done.stdout + done.stderr


if __name__ == "__main__":
    main()
