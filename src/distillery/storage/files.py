"""What stands where a file is to be read: a file, or a pipe that nobody fills, a folder, a link to itself."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

IRREGULAR = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def irregular(mode: int) -> str:
    """What has this mode (`st_mode`), if it is no file that can be read; empty for one that can."""
    return IRREGULAR.get(stat.S_IFMT(mode), "")


def no_file(path: str | Path) -> str:
    """What stands in the place of a file that is to be read, in words; empty where it is a file."""
    try:
        return irregular(Path(path).stat().st_mode)
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return "a link that leads to itself" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
