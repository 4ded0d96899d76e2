"""A shortcut, kept on this machine: files that nothing has changed since a run that was complete are not read again.

It is never the truth. What is stored says so itself; where the journal is missing, damaged or does not fit, every file
is read and compared. It fits when the collection bears the mark that the last complete run left in it, and has as many
records as then.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import platformdirs

from .sources import File

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS collections (id TEXT PRIMARY KEY, mark TEXT, count INTEGER);
CREATE TABLE IF NOT EXISTS files (
    collection TEXT, source TEXT, sha TEXT, options TEXT, passages INTEGER, PRIMARY KEY (collection, source)
);
"""
BUSY_S: Final = 5.0


class Journal:
    """What is known of one collection. Every failure of its file makes it know nothing."""

    def __init__(self, collection: str, options: str, *, mark: str, count: int, folder: Path | None = None) -> None:
        """`mark` and `count` are those of the collection now; `options` is all that decides what a file becomes."""
        self._file = (folder or platformdirs.user_state_path("chroma-mlx")) / "ingest.sqlite3"
        self._collection, self._options = collection, options
        # Source to (SHA-256, passages).
        self.known: dict[str, tuple[str, int]] = {}
        self._fits = False
        with contextlib.suppress(sqlite3.Error, OSError), self._open() as file:
            stored = file.execute("SELECT mark, count FROM collections WHERE id = ?", (collection,)).fetchone()
            self._fits = bool(mark) and stored == (mark, count)
            if self._fits:
                files = "SELECT source, sha, passages FROM files WHERE collection = ? AND options = ?"
                self.known = {row[0]: (row[1], row[2]) for row in file.execute(files, (collection, options))}

    def passages_of(self, source: str, sha: str | None) -> int | None:
        """How many passages the file has, if it was ingested as it is now; else None."""
        known = self.known.get(source)
        return known[1] if known is not None and known[0] == sha else None

    def forget(self) -> None:
        """Before anything is written: what is known holds no more until `keep`."""
        with contextlib.suppress(sqlite3.Error, OSError), self._open() as file:
            file.execute("DELETE FROM collections WHERE id = ?", (self._collection,))

    def keep(
        self, files: Iterable[tuple[str, str, int]], *, gone: Iterable[str], mark: str, count: int, alone: bool
    ) -> None:
        """After a complete run: (source, SHA-256, passages) of its files, and the collection's new state.

        A SHA-256 of "" is of no file: that one is read again. Of the sources that are `gone` the records were
        deleted, so that a file that comes back is no longer known. `alone` says that the run may have written over what
        other files became, so that nothing else holds any more; nor does what had other options.
        """
        with contextlib.suppress(sqlite3.Error, OSError), self._open() as file:
            others = "DELETE FROM files WHERE collection = ? AND (? OR options != ?)"
            file.execute(others, (self._collection, alone or not self._fits, self._options))
            file.executemany(
                "DELETE FROM files WHERE collection = ? AND source = ?", ((self._collection, source) for source in gone)
            )
            rows = ((self._collection, source, sha, self._options, passages) for source, sha, passages in files)
            file.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
            file.execute("INSERT OR REPLACE INTO collections VALUES (?, ?, ?)", (self._collection, mark, count))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self._file, timeout=BUSY_S)) as file, file:
            file.executescript(SCHEMA)
            yield file


def sha_of(file: File) -> str | None:
    """The SHA-256 of a file's bytes; None of standard input and pipes, and of what cannot be read."""
    if file.path is None or not file.path.is_file():
        return None
    try:
        with file.path.open("rb") as opened:
            digest = hashlib.sha256()
            while part := opened.read(2**20):
                digest.update(part)
            return digest.hexdigest()
    except OSError:
        return None
