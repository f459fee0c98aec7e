"""Start-up time: a dry run of the default experiment, and the help of the command. Best and median of five."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "snakemake -n (default experiment)": [sys.executable, "-m", "snakemake", "-n", "--quiet"],
    "python -m distillery --help": [sys.executable, "-m", "distillery", "--help"],
    "python -c 'import distillery.plan.experiment'": [sys.executable, "-c", "import distillery.plan.experiment"],
}


def main() -> None:
    for name, command in COMMANDS.items():
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        print(f"{name:42} best {min(seconds):5.2f} s   median {statistics.median(seconds):5.2f} s")


if __name__ == "__main__":
    main()
