"""Seconds and peak memory of the stages of a finished run, from what each job recorded.

python benchmarks/stages.py results/digits
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path


def main() -> None:
    jobs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(Path(sys.argv[1]).rglob("cost/*.json")):
        cost = json.loads(path.read_text("utf-8"))
        jobs[cost["stage"]].append(cost)
    if not jobs:
        sys.exit(f"{sys.argv[1]}: no recorded costs; run the experiment first")
    print(f"{'stage':22} {'jobs':>5} {'seconds':>9} {'longest':>9} {'peak MB':>9}")
    for stage, costs in sorted(jobs.items(), key=lambda item: -sum(cost["seconds"] for cost in item[1])):
        seconds = [cost["seconds"] for cost in costs]
        peak = max(cost["peak_memory_mb"] for cost in costs)
        print(f"{stage:22} {len(costs):5} {sum(seconds):9.1f} {max(seconds):9.1f} {peak:9.0f}")
    total = sum(cost["seconds"] for costs in jobs.values() for cost in costs)
    print(f"{'all':22} {sum(map(len, jobs.values())):5} {total:9.1f}")


if __name__ == "__main__":
    main()
