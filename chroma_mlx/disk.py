"""A full disk, whoever notices it first, told as one error."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chromadb.errors import ChromaError

from .errors import DatabaseUnreachable, DiskFull, IngestStopped

NUMBERS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# SQLite's and the system's own: Chroma passes these on as a text, and nothing else that tells a full disk.
WORDS: Final = ("disk is full", "No space left on device", "Disk quota exceeded")
# Chroma does not pass on all of them ("Failed to apply logs"): where a database that fails has less room, that is why.
LITTLE_ROOM_BYTES: Final = 8 * 2**20
TELLING: Final = (ChromaError, DatabaseUnreachable, IngestStopped, sqlite3.Error)


def is_full(error: BaseException) -> bool:
    """Whether an error is that of a disk, of this machine or a server's, which has no room left."""
    if isinstance(error, OSError) and error.errno in NUMBERS:
        return True
    return isinstance(error, TELLING) and any(words in str(error) for words in WORDS)


def is_nearly_full(folder: Path) -> bool:
    """Whether the disk that a folder is on has hardly any room left."""
    free = free_bytes(folder)
    return free is not None and free < LITTLE_ROOM_BYTES


def free_bytes(folder: Path) -> int | None:
    """The room left on the disk that a folder is on; None where nobody can tell."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # it is gone, which is another failure
        return None


@contextmanager
def disk_errors(*, kept: bool = True) -> Iterator[None]:
    """Raises DiskFull for the errors of a full disk; `kept` says whether what was written until then stays."""
    try:
        yield
    except (OSError, *TELLING) as error:
        if not is_full(error):
            raise
        reason = error.reason if isinstance(error, IngestStopped) else f"{type(error).__name__}: {error}"
        raise DiskFull(reason=reason, kept=kept) from error
