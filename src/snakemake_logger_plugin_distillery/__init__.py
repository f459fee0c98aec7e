"""Reads the experiment files before Snakemake opens them, and shows where running jobs stand.

`profiles/default` names this plugin. A logger plugin is what Snakemake calls first of all that belongs to a project: it
opens the files of `--configfile` afterwards, and the Snakefile last. Every Snakemake of the environment imports this
module, whatever its project: so the module imports nothing of this project before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from logging import LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from snakemake_logger_plugin_distillery.running import RunningJobs

__all__ = ["LogHandler", "LogHandlerSettings"]


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """Options of Snakemake's command line: `--logger-distillery-seconds`."""

    seconds: float | None = field(
        default=10.0,
        metadata={"help": "Seconds between two looks at the logs of running jobs; 0: none.", "type": float},
    )


class LogHandler(LogHandlerBase):
    """Refuses experiment files that cannot be read, then prints the newest line of each running job's log.

    Snakemake's own handler, or another plugin, writes the events to the console.
    """

    writes_to_stream = writes_to_file = has_formatter = needs_rulegraph = False
    has_filter = True  # all events arrive, also those that the console does not show
    _running: RunningJobs | None = None

    def __post_init__(self) -> None:
        """Read the files.

        Raises:
            CliException: one cannot be read; Snakemake prints its text and ends.
        """
        from distillery.errors import ExperimentError
        from distillery.plan.files import check_folder, read_file
        from distillery.processes import accept_all_characters
        from distillery.snakemake_internals import experiment_files, without_traceback

        accept_all_characters()
        with without_traceback(ExperimentError):
            check_folder(Path.cwd())
            for path in experiment_files():
                read_file(path)
        seconds: Any = getattr(self.settings, "seconds", 10.0)
        if seconds and not self.common_settings.dryrun and not self._quiet:
            self._running = RunningJobs(seconds)

    @property
    def _quiet(self) -> bool:
        """Whether the command line asks for no progress."""
        return any(
            str(word).lower().rpartition(".")[2] in ("all", "progress") for word in self.common_settings.quiet or ()
        )

    def emit(self, record: LogRecord) -> None:
        """Note which jobs run."""
        if self._running is not None:
            try:
                self._running.note(record)
            except Exception:
                self.handleError(record)

    def close(self) -> None:
        """Print no more."""
        if self._running is not None:
            self._running.close()
        super().close()
