"""Dry runs as forks of one process that has imported Snakemake and nothing of this project: its import is paid once."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

SERVER = """
import json, os, sys, traceback
import pydantic, yaml
import snakemake.cli, snakemake.dag, snakemake.rules, snakemake.scheduling, snakemake.workflow
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry
OURS = ("distillery", "snakemake_logger_plugin_distillery")
snakemake.cli.parse_args(["-n"])  # which imports the plugins
print("ready", flush=True)
for line in sys.stdin:
    call = json.loads(line)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, call["output"], os.O_WRONLY | os.O_APPEND)):
                os.dup2(os.open(name, flags), number)
            os.dup2(1, 2)
            os.chdir(call["folder"])
            os.environ.clear()
            os.environ.update(call["environment"])
            sys.path[0] = os.path.join(call["folder"], "src")
            for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
                del sys.modules[name]  # an installed copy, which the plugin of the project has imported
            LoggerPluginRegistry().collect_plugins()
            sys.argv = ["snakemake", *call["arguments"]]
            snakemake.cli.main(call["arguments"])
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@cache
def _server() -> subprocess.Popen[str]:
    """The process that forks, one for each process of pytest."""
    from clone import clean_environment

    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=tempfile.gettempdir(),
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def snakemake(folder: Path, environment: Mapping[str, str], arguments: Sequence[str]) -> tuple[int, str]:
    """Exit status of Snakemake in a folder, and what it printed; for dry runs, which start no process."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.NamedTemporaryFile() as output:
        call = {"folder": str(folder), "environment": dict(environment), "arguments": list(arguments)}
        server.stdin.write(json.dumps({**call, "output": output.name}) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return status, Path(output.name).read_text("utf-8")
