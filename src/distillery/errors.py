"""Every public exception of the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class BadInput(Exception):
    """Something that the user can put right: the message names it and the way out, and no traceback is shown."""


class Diverged(BadInput):
    """Weights, latents, images or answers are no numbers any more; the message names the setting to change."""


class WeightsError(Exception):
    """Weights are absent, broken or not what they should be; the message names the file and the way out."""


class ExperimentError(Exception):
    """The experiment file is wrong; the message has one line per fault."""


class SourceError(ValueError):
    """A source is not there or not what its settings say: the message names the key and the way out."""


class UnknownClass(ValueError):
    """A generator does not know a class.

    Attributes:
        names: the classes, all of them.
        alike: one of them and a name that it knows, which differ only in how they are written; empty: there is none.
    """

    def __init__(self, names: Sequence[str], alike: str = "") -> None:
        super().__init__(", ".join(map(repr, names)) + (f" ({alike})" if alike else ""))
        self.names, self.alike = list(names), alike


class SlurmProblem(Exception):
    """Something about the cluster that the user can put right."""


class StopRequested(Exception):
    """A signal has asked this process to stop, in the midst of a step; nothing has changed since it began."""


class Unusable(Exception):
    """An image cannot be used; the text is the reason."""


class NotSafetensors(ValueError):
    """A file is no whole safetensors file; the text is the reason.

    Attributes:
        way_out: what to do where the file was downloaded.
    """

    def __init__(self, reason: str, way_out: str = "") -> None:
        super().__init__(reason)
        self.way_out = way_out


class DamagedArtifact(Exception):
    """A file that a stage made cannot be read."""


def damaged(path: Path, made_by: str, why: object) -> DamagedArtifact:
    """The error that names the file, and the stage that makes it again."""
    return DamagedArtifact(
        f"{path}: cannot be read ({why}). The stage `{made_by}` makes it: delete it and run the same command again"
    )
