"""Reads the experiment files before Snakemake opens them; `profiles/default` names this plugin. It logs nothing.

A logger plugin is what Snakemake calls first of all that belongs to a project: it opens the files of `--configfile`
afterwards, and the Snakefile last. Every Snakemake of the environment imports this module, whatever its project: so
the module imports nothing of this project before it is used.
"""

from __future__ import annotations

from logging import LogRecord
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase

__all__ = ["LogHandler"]


class LogHandler(LogHandlerBase):
    """A handler of no records, which refuses experiment files that cannot be read."""

    writes_to_stream = writes_to_file = has_filter = has_formatter = needs_rulegraph = False

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

    def emit(self, record: LogRecord) -> None:
        """Nothing."""
