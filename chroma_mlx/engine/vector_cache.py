"""The vector cache: vectors by key in a file of SQLite, bounded in size, shared by threads and processes.

A vector that comes out is the one that went in under that key, or none comes out. What else may happen to
the file (damage, a full disk, another's lock) makes texts be computed again, and never makes a call fail.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import CacheSetAside, ConfigError
from .vector_file import ROWS_AT_ONCE, check_header, make_room, prepare, transaction, wait_at_most

Vectors = npt.NDArray[np.float32]

FIND: Final = "SELECT id, used, checksum, vector FROM vectors WHERE key = ?"
STORE: Final = (
    "INSERT INTO vectors (key, used, checksum, vector) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
    "SET used = excluded.used, checksum = excluded.checksum, vector = excluded.vector"
)

CHECKSUM_BYTES: Final = 16
# The last use is written anew only when it is this far off: a hit then is a read, and no write.
USE_PRECISION_S: Final = 600
BUSY_TIMEOUT_S: Final = 5.0
# The last use is approximate, and the next hit writes it: a lock is hardly worth waiting for.
USE_TIMEOUT_S: Final = 0.05
# Lots of rows in a row that a lock may keep out; the last of these sets the cache aside, so that waiting ends.
LOCKS_IN_A_ROW: Final = 3
# What may happen to a cache's file. UnicodeDecodeError: damage that SQLite names in its message, for which sqlite3
# has no text then.
DAMAGE: Final = (sqlite3.Error, OSError, UnicodeDecodeError)
# What may happen to one in use. ConfigError: another program's file has taken its place.
FAILURES: Final = (*DAMAGE, ConfigError)


class VectorCache:
    """Vectors by key, in one file of at most `max_bytes`; safe from any thread, and across processes and forks.

    The bound is the file's. SQLite's log beside it (`-wal`) takes some 4 MB more while a process has the file
    open, and an empty cache is 20 KiB however small the bound. Those used least recently leave, to within ten
    minutes. What fails once the cache is open sets it aside for this process, with one warning of the class
    CacheSetAside: nothing is found then, and nothing stored. Only a last use that cannot be written, and a lock
    that `put` meets once or twice in a row, do not.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens the file, and makes it and its folders where they are not there.

        `busy_timeout_s` is how long another's lock is waited for. Raises ConfigError, and changes nothing,
        when the file is something else than a vector cache of this version.
        """
        self.path, self.max_bytes = Path(os.path.realpath(path)), max_bytes
        self._busy_timeout_s, self._clock = busy_timeout_s, clock
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._aside = False
        self._locks_met = 0  # in a row
        _caches.add(self)
        try:
            self._connect()
        except DAMAGE as error:
            self._set_aside(error)

    @property
    def is_aside(self) -> bool:
        """Whether the cache was given up in this process."""
        return self._aside

    def get(self, keys: Sequence[bytes], dimension: int) -> dict[bytes, Vectors]:
        """The vectors that are there, (dimension,) float32 each, by key.

        One that is damaged, of another width or not finite is not there. Their last use is written where it is
        long ago, unless a lock or a missing right is in the way.
        """
        found: dict[bytes, Vectors] = {}
        for start in range(0, len(keys), ROWS_AT_ONCE):
            with self._in_use() as connection:
                if connection is None:
                    break
                vectors, old = self._read(connection, keys[start : start + ROWS_AT_ONCE], dimension)
                found |= vectors  # before anything is written, which may fail
                if old:
                    self._note_use(connection, old)
        return found

    def put(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Stores vectors, (len(keys), dimension) float32, in place of what is there under their keys.

        What does not fit into the bound at all is left out. So is, of every ROWS_AT_ONCE rows, a lot for which
        another's lock was waited for in vain; the third such lot in a row sets the cache aside, and so does any
        other failure at once, a file that may only be read among them.
        """
        stored = np.ascontiguousarray(vectors, dtype="<f4")
        now = int(self._clock())
        for start in range(0, len(keys), ROWS_AT_ONCE):
            rows = []
            for key, vector in zip(keys[start : start + ROWS_AT_ONCE], stored[start:], strict=False):
                blob = vector.tobytes()
                rows.append((key, now, _checksum(key, blob), blob))
            with self._in_use() as connection:
                if connection is None:
                    return
                self._write(connection, rows, stored.shape[1] * 4)

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[sqlite3.Connection | None]:
        """The open file for one transaction, None where it was set aside; what fails inside sets it aside."""
        with self._lock:
            connection = None
            try:
                connection = None if self._aside else self._ready()
            except FAILURES as error:
                self._set_aside(error)
            try:
                yield connection
            except FAILURES as error:
                self._set_aside(error)

    def _ready(self) -> sqlite3.Connection:
        """The connection, made anew after a fork, and where the file was replaced or deleted under it."""
        if self._connection is not None and _identity(self.path) != self._identity:
            self.close()
        return self._connection or self._connect()

    def _connect(self) -> sqlite3.Connection:
        """Opens the file, having made sure that it is nobody else's. Raises ConfigError or one of DAMAGE."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            # Vectors tell of their texts: a new file is its owner's alone. SQLite gives the log the same rights.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        check_header(self.path)
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            connection.text_factory = bytes  # a damaged row may hold text that is no UTF-8
            prepare(connection, self.path)
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity = connection, _identity(self.path)
        return connection

    def _read(
        self, connection: sqlite3.Connection, keys: Sequence[bytes], dimension: int
    ) -> tuple[dict[bytes, Vectors], list[int]]:
        """The sound ones of some rows, and the ids of those whose last use is long ago."""
        width, now = dimension * 4, int(self._clock())
        found: dict[bytes, bytes] = {}
        old = []
        with transaction(connection, "BEGIN"):
            for key in keys:
                row = connection.execute(FIND, (key,)).fetchone()
                if row is None:
                    continue
                place, used, checksum, blob = row
                if isinstance(blob, bytes) and len(blob) == width and checksum == _checksum(key, blob):
                    found[key] = blob
                    if not isinstance(used, int) or abs(now - used) > USE_PRECISION_S:
                        old.append(place)
        if not found:
            return {}, []
        vectors = np.frombuffer(b"".join(found.values()), dtype="<f4").reshape(len(found), dimension)
        sound = np.isfinite(vectors).all(axis=1)
        return {key: vectors[row].astype(np.float32) for row, key in enumerate(found) if sound[row]}, old

    def _note_use(self, connection: sqlite3.Connection, places: Sequence[int]) -> None:
        """Writes that rows are used now, where that can be done without much of a wait."""
        now = int(self._clock())
        wait_at_most(connection, min(USE_TIMEOUT_S, self._busy_timeout_s))
        try:
            with contextlib.suppress(sqlite3.OperationalError), transaction(connection):
                connection.executemany("UPDATE vectors SET used = ? WHERE id = ?", [(now, place) for place in places])
        finally:
            wait_at_most(connection, self._busy_timeout_s)

    def _write(self, connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]], vector_bytes: int) -> None:
        """Stores rows where they fit, or leaves them out where a lock is in the way that was not met often."""
        begun = False
        try:
            with transaction(connection):
                # Here the lock is had. (Which failure it was, Python 3.10 does not tell, but for its message.)
                begun, self._locks_met = True, 0
                if make_room(connection, len(rows), vector_bytes, self.max_bytes):
                    connection.executemany(STORE, rows)
        except sqlite3.OperationalError:
            if begun:
                raise
            self._locks_met += 1
            if self._locks_met >= LOCKS_IN_A_ROW:
                raise

    def _set_aside(self, error: Exception) -> None:
        self.close()
        if self._aside:
            return
        self._aside = True
        why = error.object.decode("utf-8", "replace") if isinstance(error, UnicodeDecodeError) else error
        warnings.warn(
            f"The vector cache {self.path} is left aside until this program ends, since it cannot be used ({why}). "
            "The vectors are right, but every text is computed. See to the disk and the rights of the file; if it "
            "is damaged, delete it, and it is made again.",
            CacheSetAside,
            stacklevel=2,
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells the file at a path from another; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _checksum(key: bytes, blob: bytes) -> bytes:
    return hashlib.blake2b(blob, digest_size=CHECKSUM_BYTES, key=key).digest()


_caches: weakref.WeakSet[VectorCache] = weakref.WeakSet()
_shared: dict[str, VectorCache] = {}
_shared_lock = threading.RLock()
_held: list[VectorCache] = []  # by the thread that forks
_of_parent: list[sqlite3.Connection] = []


def shared_cache(path: Path | None, max_gb: float) -> VectorCache | None:
    """The cache of a file, opened at the first call and shared by the process from then on; None for no path.

    Its bound, in 10**9 bytes, is that of the last call. Raises ConfigError as VectorCache does, each time.
    """
    if path is None:
        return None
    place, max_bytes = os.path.realpath(path), int(min(max_gb * 1e9, 2**63))
    with _shared_lock:
        if place not in _shared:
            _shared[place] = VectorCache(Path(place), max_bytes)
        cache = _shared[place]
    cache.max_bytes = max_bytes
    return cache


def close_caches() -> None:
    """Closes every file, which also takes SQLite's logs away; the next use opens it again."""
    for cache in list(_caches):
        cache.close()


def _before_fork() -> None:
    """SQLite's connections must not cross a fork: they are closed, between two transactions, and made anew."""
    _shared_lock.acquire()
    for cache in list(_caches):
        cache._lock.acquire()
        _held.append(cache)
        cache.close()


def _in_parent() -> None:
    while _held:
        _held.pop()._lock.release()
    _shared_lock.release()


def _in_child() -> None:
    """New locks; and after a fork that did not ask first, connections that are never touched, nor ever freed."""
    global _shared_lock
    _held.clear()
    _shared_lock = threading.RLock()
    for cache in list(_caches):
        cache._lock = threading.RLock()
        if cache._connection is not None:
            _of_parent.append(cache._connection)
            cache._connection = None


atexit.register(close_caches)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
