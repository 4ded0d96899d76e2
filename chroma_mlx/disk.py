"""A full disk, whoever notices it first, told as one error; and whether there is room for a write, before it."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from chromadb.errors import ChromaError

from .errors import DatabaseUnreachable, DiskFull, IngestStopped

NUMBERS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# SQLite's and the system's own: Chroma passes these on as a text, and nothing else that tells a full disk.
WORDS: Final = ("disk is full", "No space left on device", "Disk quota exceeded")
# Chroma does not pass on all of them ("Failed to apply logs"): where a database that fails has less room, that is why.
LITTLE_ROOM_BYTES: Final = 8 * 2**20
# Of Chroma's index: the records after which it is written (`sync_threshold`), and what it has of one beside the vector.
HELD_BACK: Final = 1_000
RECORD_BYTES: Final = 256
# What the database has of a record beside its text and vector, with the indexes over it.
METADATA_BYTES: Final = 2_048
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


def folder_of(client: Any) -> Path | None:
    """Where a client of Chroma's has its database on this machine; None of a server's, and of one in memory."""
    stated = getattr(client, "get_settings", None)
    if stated is None:
        return None
    settings = stated()
    return Path(settings.persist_directory) if settings.is_persistent else None


def room_for(texts: Sequence[str | None], width: int) -> int:
    """The bytes that storing records may take, with the vectors of earlier ones that Chroma's index holds back.

    Chroma writes its index over the old one: where the disk is full in the middle of that, neither can be read again.
    """
    written = sum(len((text or "").encode()) for text in texts)
    vectors = (2 * len(texts) + HELD_BACK) * (4 * width + RECORD_BYTES)
    return 4 * written + len(texts) * METADATA_BYTES + vectors


def need_room(folder: Path | None, needed: int) -> None:
    """Raises DiskFull where the disk that a database's folder is on has fewer bytes left."""
    free = None if folder is None else free_bytes(folder)
    if free is not None and free < needed:
        raise DiskFull(
            reason=f"{free / 10**6:.1f} MB are left for {folder}, and the next write may take {needed / 10**6:.1f}"
        )


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
