"""The command line: `python -m distillery STAGE --settings '{…}' --images … --output …`, and commands for people.

Finds the stage, parses its arguments, leases a GPU, runs it, and records what it cost.
"""

from __future__ import annotations

import argparse
import ast
import errno
import importlib
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from distillery.processes import accept_all_characters
from distillery.signature import option, stage_files

if TYPE_CHECKING:
    from pydantic import ValidationError

STAGES = Path(__file__).parent / "stages"
COMMANDS = Path(__file__).parent / "commands"


def stage_names() -> list[str]:
    """The stages, by the files that are there."""
    return sorted(file.stem for file in STAGES.glob("*.py") if file.stem != "__init__")


def command_names() -> list[str]:
    """The commands for people, by the files that are there."""
    return sorted(file.stem for file in COMMANDS.glob("*.py") if file.stem != "__init__")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage or command; the exit status."""
    accept_all_characters()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name = arguments[0]
    if name in command_names():
        return _reported(name, lambda: importlib.import_module(f"distillery.commands.{name}").main(arguments[1:]))
    if name not in stage_names():
        there = f"stages: {', '.join(stage_names())}; commands: {', '.join(command_names())}"
        print(f"distillery: no stage or command {name!r}; {there}", file=sys.stderr)
        return 2
    return _run(name, importlib.import_module(f"distillery.stages.{name}"), arguments[1:])


def _overview() -> str:
    lines = [
        "usage: python -m distillery STAGE --settings JSON [FILES]",
        "       python -m distillery COMMAND ARGUMENTS",
    ]
    for title, folder, names in (("commands", COMMANDS, command_names()), ("stages", STAGES, stage_names())):
        lines += ["", f"{title}:", *(f"  {name:22} {_first_words(folder / f'{name}.py')}" for name in names)]
    lines += ["", "`python -m distillery STAGE --help` shows what a stage or a command reads and writes."]
    return "\n".join(lines)


def _first_words(module: Path) -> str:
    doc = ast.get_docstring(ast.parse(module.read_text("utf-8"))) or ""
    return doc.splitlines()[0] if doc else ""


def _parser(name: str, stage: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m distillery {name}",
        description=stage.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,  # `--image` shall not pass for `--images`
    )
    parser.add_argument("--settings", required=True, help="JSON: " + ", ".join(stage.Settings.model_fields))
    parser.add_argument(
        "--threads", type=_threads, default=None, help="threads to compute with; none: all that are allowed"
    )
    parser.add_argument("--cost", type=Path, help="file for seconds and peak memory")
    parser.add_argument(
        "--checkpoint-seconds",
        type=_seconds,
        default=os.environ.get("DISTILLERY_CHECKPOINT_SECONDS", "120"),  # a text is read by `type` too
        help="between two checkpoints; DISTILLERY_CHECKPOINT_SECONDS sets it for the jobs of a workflow",
    )
    for argument, file in stage_files(stage.run).items():
        parser.add_argument(
            option(argument),
            type=Path,
            nargs="+" if file.many and not file.optional else "*" if file.optional else None,
            required=not file.optional,
            default=[] if file.many or file.optional else None,
            help=f"{file.kind}{' files' if file.many else ' file'}{', optional' if file.optional else ''}",
        )
    return parser


def _threads(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of threads; allowed: 1 to 1024")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds; allowed: 0 to 1e9")
    return seconds


def _faults(stage: ModuleType, text: str, error: ValidationError) -> list[str]:
    """What is wrong with the settings of a stage, one line per key."""
    from distillery.plan.messages import described, one_line

    try:
        given = json.loads(text)
    except ValueError as wrong:
        return [f"no JSON: {wrong}"]
    except RecursionError:
        return ["no JSON of settings: too many blocks within one another"]
    if not isinstance(given, dict):
        return [f"a JSON object is wanted: {', '.join(stage.Settings.model_fields)}"]
    return list(map(one_line, described(error.errors(), given, stage.Settings)))


def _wrong_path(path: Path, kind: str) -> str | None:
    """Why a file cannot be read or written at a path; None if it can."""
    if path.is_dir():
        return "a folder; give a file"
    if path.exists() and not path.is_file():
        return "no plain file (a pipe, a socket or a device); give a file"
    return "no such file" if kind == "input" and not path.exists() else None


def _run(name: str, stage: ModuleType, arguments: list[str]) -> int:
    from pydantic import ValidationError

    parsed = _parser(name, stage).parse_args(arguments)
    try:
        settings = stage.Settings.model_validate_json(parsed.settings)
    except ValidationError as error:
        for line in _faults(stage, parsed.settings, error):
            print(f"distillery {name}: --settings: {line}", file=sys.stderr)
        return 2
    files: dict[str, Any] = {}
    inputs: list[Path] = []
    wrong: list[str] = []
    for argument, file in stage_files(stage.run).items():
        value = getattr(parsed, argument)
        paths = value if isinstance(value, list) else [value]
        if file.kind == "input":
            inputs += paths
        files[argument] = paths if file.many else (paths[0] if paths else None)
        wrong += [f"{path}: {why}" for path in paths if (why := _wrong_path(path, file.kind))]
    if wrong:
        print(f"distillery {name}: {wrong[0]}", file=sys.stderr)
        return 2

    def carry_out() -> int:
        _carry_out(name, stage, arguments, parsed, settings, files, inputs)
        return 0

    return _reported(name, carry_out, lambda error: _unmade(stage, files, error))


def _reported(name: str, work: Callable[[], int], more: Callable[[Exception], str] = lambda error: "") -> int:
    """Do the work of a stage or a command, and say in one line why it did not end; the exit status."""
    from distillery.errors import BadInput, DamagedArtifact

    try:
        return work()
    except (BadInput, DamagedArtifact, TimeoutError) as error:
        print(f"distillery {name}: {error}{more(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        print(f"distillery {name}: {_of_storage(error)}", file=sys.stderr)
        return 1


def _carry_out(
    name: str,
    stage: ModuleType,
    arguments: list[str],
    parsed: argparse.Namespace,
    settings: Any,
    files: dict[str, Any],
    inputs: list[Path],
) -> None:
    from distillery import parallel
    from distillery.devices import allowed_cores, bound_cores, lease_card, prepare, visible_cards
    from distillery.job import Job

    threads = parsed.threads or bound_cores()
    cores = min(threads, allowed_cores())
    processes = stage.processes(settings) if hasattr(stage, "processes") else 1
    if processes > 1 and not parallel.inside():
        parallel.launch(processes, [name, *arguments])
    if getattr(stage, "COMPUTES", True):
        from distillery.storage.resume import stop_on_signals

        parallel.choose_card(visible_cards())
        lease_card()
        device: Any = prepare(threads)
        stop_on_signals()
        parallel.join(device)
    else:
        device, threads = _Nothing(), 0  # its bytes depend on neither
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # temporary files go with it
    job = Job(name, parsed.settings, device, threads, tuple(inputs), parsed.checkpoint_seconds, cores)
    try:
        stage.run(settings, job=job, **files)
        if parallel.rank() == 0:
            _record_cost(parsed.cost, name, device.type, threads)
    finally:
        parallel.leave()


def _unmade(stage: ModuleType, files: dict[str, Any], error: Exception) -> str:
    """Which generator, network or method has diverged, by the file that it would have been or made."""
    from distillery.errors import Diverged

    outputs = [files[argument] for argument, file in stage_files(stage.run).items() if file.kind == "output"]
    return f". Not made: {outputs[0]}" if outputs and isinstance(error, Diverged) else ""


_WAYS_OUT = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or ask for a larger quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "mount it to be written, or work in another folder",
    errno.EACCES: "ask its owner, or work in another folder",
    errno.ENOENT: "something has removed it, or its folder, while this stage ran",
}


def _of_storage(error: OSError) -> str:
    """What a disk did not do, in one line."""
    number = error.errno or 0
    way_out = _WAYS_OUT.get(number, "look after the disk")
    return f"{error.filename or 'the disk'}: {os.strerror(number)}; {way_out}; then run the same command again"


class _Nothing:
    """The device of a stage that computes nothing with torch."""

    type = "none"


def _record_cost(path: Path | None, stage: str, device: str, threads: int) -> None:
    from distillery import parallel
    from distillery.processes import peak_memory_mb
    from distillery.progress import WORK

    seconds = WORK.seconds
    cost: dict[str, Any] = {
        "stage": stage,
        "device": device,
        "threads": max(threads, 1),
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }
    if WORK.images:
        cost["images"] = WORK.images
        cost["images_per_second"] = round(WORK.images / seconds, 1)
        cost["images_by_seconds"] = WORK.rates
    if device == "cuda":
        import torch

        cost["gpu"] = torch.cuda.get_device_name()
        cost["cards"] = parallel.size()
        cost["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    print(json.dumps(cost), file=sys.stderr)
    if path is not None:
        from distillery.storage.atomic import write_json

        write_json(path, cost)


if __name__ == "__main__":
    sys.exit(main())
