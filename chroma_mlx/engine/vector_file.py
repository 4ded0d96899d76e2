"""The file of the vector cache: what is in it, whether a file is one, and room for more. Plain SQLite, no cache."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import ConfigError

APPLICATION_ID: Final = 0x434D4C58  # "CMLX", in the header of every cache
SCHEMA_VERSION: Final = 1
SCHEMA: Final = (
    # The vectors lie in the order they came in, so that storing appends; the keys' own index is small.
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, used INTEGER NOT NULL, "
    "checksum BLOB NOT NULL, vector BLOB NOT NULL)",
    "CREATE INDEX vectors_by_use ON vectors (used)",
)
EVICT: Final = "DELETE FROM vectors WHERE id IN (SELECT id FROM vectors ORDER BY used, id LIMIT ?)"

PAGE_BYTES: Final = 4_096
# Rows of a transaction: enough to share its cost, few enough that another process waits milliseconds.
ROWS_AT_ONCE: Final = 256
# More rows leave than come, so that a file over a bound that was lowered shrinks, a little at a time.
EVICTED_AT_ONCE: Final = 4 * ROWS_AT_ONCE


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Commits at the end, or takes back what was done when something is raised."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.rollback()
        raise


def wait_at_most(connection: sqlite3.Connection, seconds: float) -> None:
    """How long another's lock is waited for from now on."""
    connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def _refusal(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"embedding_cache is {str(path)!r}, which is no vector cache: {why}. It was left as it is. Set embedding_cache "
        "to a file of its own, which is made when it is not there, or to null for no cache."
    )


def check_header(path: Path) -> None:
    """Raises ConfigError unless the file is empty or a cache, by its first bytes; OSError when it cannot be read.

    Read without SQLite, which at opening may already write into a database that was left in the middle of
    something. (Closing a file drops the process's locks on it, but it has none: its connection is not open.)
    """
    if not path.is_file():
        raise _refusal(path, "it is a folder" if path.is_dir() else "it is no regular file")
    with path.open("rb") as file:
        header = file.read(100)  # https://www.sqlite.org/fileformat.html, 1.3: the id is at 68
    if header and not header.startswith(b"SQLite format 3\0"):
        raise _refusal(path, "it is no database of SQLite")
    if header and header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise _refusal(path, "it is the database of another program")


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables in an empty file, and raises ConfigError where others are in it."""
    connection.execute("PRAGMA synchronous = NORMAL")  # a power failure may lose the last vectors, no more
    connection.execute("PRAGMA cell_size_check = ON")
    if not _tables(connection):
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # So that a file can give pages back. It can be set in an empty file only, yet takes the lock in any.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # All in one transaction with the header, which thereby is never seen half done.
        with transaction(connection, "BEGIN EXCLUSIVE"):
            if not _tables(connection):  # another process may have been first
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                for statement in SCHEMA:
                    connection.execute(statement)
    [version] = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION or _tables(connection) != [statement.encode() for statement in SCHEMA]:
        raise _refusal(path, f"its tables are not those of version {SCHEMA_VERSION}, which this program writes")
    with contextlib.suppress(sqlite3.OperationalError):  # another process is just doing the same
        connection.execute("PRAGMA journal_mode = WAL").fetchone()


def _tables(connection: sqlite3.Connection) -> list[bytes]:
    """The statements that made what is in the file, in their order; indexes that SQLite itself made have none."""
    return [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master ORDER BY rowid") if sql is not None]


def make_room(connection: sqlite3.Connection, rows: int, vector_bytes: int, max_bytes: int) -> bool:
    """Deletes what was used least recently until so many rows fit; whether they do. Inside a transaction.

    The file does not grow beyond the bound then, since SQLite fills the pages that were freed before it adds
    others. One that is larger already, because the bound was lowered, gives pages back.
    """
    # A row's share of a leaf, or a leaf and the pages that its vector runs over to; keys and uses in two indexes.
    row_pages = 1 + (vector_bytes + 100) // PAGE_BYTES
    needed = rows * row_pages + rows * 128 // PAGE_BYTES + 8
    allowed = max_bytes // PAGE_BYTES

    def pages() -> tuple[int, int]:
        [count] = connection.execute("PRAGMA page_count").fetchone()
        [free] = connection.execute("PRAGMA freelist_count").fetchone()
        return count, count - free

    count, used = pages()
    for _ in range(EVICTED_AT_ONCE // ROWS_AT_ONCE):
        if used + needed <= allowed or connection.execute(EVICT, (ROWS_AT_ONCE,)).rowcount < 1:
            break
        count, used = pages()
    for _ in range(min(count - allowed, count - used, EVICTED_AT_ONCE)):
        connection.execute("PRAGMA incremental_vacuum(1)")  # more in one take a step each, which sqlite3 does not do
    return used + needed <= allowed
