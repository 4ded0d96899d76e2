"""What a run has seen, in a temporary file: so memory does not grow with the number of records."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from ..errors import IngestStopped

SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE seen (id TEXT PRIMARY KEY, source TEXT, number INTEGER) WITHOUT ROWID;
CREATE TABLE spared (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE hidden (source TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE kept (source TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE files (source TEXT PRIMARY KEY, sha TEXT, passages INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE gone (id TEXT);
"""


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A failure of the file as the run's own error: where the records are read, other databases may fail, too."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason = f"its temporary file in {tempfile.gettempdir()}: {error}"
        raise IngestStopped(reason=reason, waited_s=None) from error


class Seen:
    """Ids, sources and files of a run. One thread at a time. Every method raises IngestStopped when its file fails."""

    @_told()
    def __init__(self) -> None:
        # Nameless from here on, as the system allows: so a run that is killed leaves nothing.
        with tempfile.TemporaryDirectory(prefix="chroma-mlx-ingest-", ignore_cleanup_errors=True) as folder:
            self._file = sqlite3.connect(Path(folder) / "seen", check_same_thread=False, isolation_level=None)
            self._file.executescript(SCHEMA)

    def __enter__(self) -> Seen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @_told()
    def claim(self, ids: Sequence[str], source: str, number: int) -> tuple[str, int] | None:
        """Takes ids for the record of a place; (source, number) of whoever has one of them already, else None."""
        for id in ids:
            found = self._file.execute("SELECT source, number FROM seen WHERE id = ?", (id,)).fetchone()
            if found is not None:
                return str(found[0]), int(found[1])
        self._file.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", [(id, source, number) for id in ids])
        return None

    @_told()
    def begin(self) -> None:
        """Begins a batch of claims, which are quicker together."""
        self._file.execute("BEGIN")

    @_told()
    def commit(self) -> None:
        """Ends it."""
        self._file.execute("COMMIT")

    @_told()
    def spare(self, id: str) -> None:
        """A refused record is of this id: what is stored of it stays."""
        self._file.execute("INSERT OR IGNORE INTO spared VALUES (?)", (id,))

    @_told()
    def hide(self, source: str) -> None:
        """Of this source nobody can tell which records are gone."""
        self._file.execute("INSERT OR IGNORE INTO hidden VALUES (?)", (source,))

    @_told()
    def hidden(self) -> list[str]:
        """The sources that were hidden."""
        return [str(row[0]) for row in self._file.execute("SELECT source FROM hidden ORDER BY source")]

    @_told()
    def keep(self, source: str) -> None:
        """A file that was not read, since it is as it was: so are its records."""
        self._file.execute("INSERT OR IGNORE INTO kept VALUES (?)", (source,))

    @_told()
    def add_file(self, source: str, sha: str) -> None:
        """A file was read to its end, and this is what it held."""
        add = "INSERT INTO files (source, sha) VALUES (?1, ?2) ON CONFLICT (source) DO UPDATE SET sha = ?2"
        self._file.execute(add, (source, sha))

    @_told()
    def add_passages(self, source: str, passages: int) -> None:
        """So many more are of this source."""
        add = (
            "INSERT INTO files (source, passages) VALUES (?1, ?2) "
            "ON CONFLICT (source) DO UPDATE SET passages = passages + ?2"
        )
        self._file.execute(add, (source, passages))

    def files(self) -> Iterator[tuple[str, str, int]]:
        """(source, SHA-256, passages) of each file; a SHA-256 of "" where it was not read to its end."""
        with _told():
            yield from self._file.execute("SELECT source, coalesce(sha, ''), passages FROM files")

    @_told()
    def stands_for(self, id: str) -> bool:
        """Whether a record of this id was read, or refused."""
        query = "SELECT 1 FROM seen WHERE id = ?1 UNION ALL SELECT 1 FROM spared WHERE id = ?1"
        return self._file.execute(query, (id,)).fetchone() is not None

    @_told()
    def claimed(self, id: str) -> bool:
        """Whether a record of this id was read."""
        return self._file.execute("SELECT 1 FROM seen WHERE id = ?", (id,)).fetchone() is not None

    @_told()
    def protects(self, source: str) -> bool:
        """Whether nothing of this source is to be deleted."""
        query = "SELECT 1 FROM hidden WHERE source = ?1 UNION ALL SELECT 1 FROM kept WHERE source = ?1"
        return self._file.execute(query, (source,)).fetchone() is not None

    @_told()
    def note_gone(self, ids: Sequence[str]) -> None:
        """Notes stored ids that are to be deleted."""
        self._file.executemany("INSERT INTO gone VALUES (?)", [(id,) for id in ids])

    def take_gone(self, size: int) -> Iterator[list[str]]:
        """These, so many at a time; then none is noted any more."""
        with _told():
            rows = self._file.execute("SELECT id FROM gone ORDER BY rowid")
            while part := rows.fetchmany(size):
                yield [str(row[0]) for row in part]
            self._file.execute("DELETE FROM gone")
