"""Calls of a database that may be away for a while: made again with growing pauses, within a limit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import httpx
from chromadb.errors import ChromaError, InternalError, RateLimitError

from ..disk import is_full, is_nearly_full, need_room
from ..errors import ChromaMLXError, DatabaseUnreachable, DeadlineExceeded, DiskFull, IngestStopped, RemoteError

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 15.0

log: Final = logging.getLogger("chroma_mlx.ingestion")
R = TypeVar("R")


class Retry:
    """Makes calls, those of a server again when it is away or fails. Safe from any thread.

    `remote`: whether the database is a server; an error of a local one is not going to pass. `wait` pauses so
    many seconds, and returns True when there is to be no further try. `folder` is that of a local database.
    """

    def __init__(
        self,
        limit_s: float,
        *,
        remote: bool,
        wait: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
        folder: Path | None = None,
    ) -> None:
        self._limit_s, self._remote, self._wait, self._clock = limit_s, remote, wait, clock
        self._folder = folder

    def call(self, function: Callable[..., R], **arguments: Any) -> R:
        """What the call returns. Raises IngestStopped, or DiskFull, for an error of the database that did not pass.

        What whoever embeds raises is raised as it is: that of an embedding server that is away or busy when it did
        not pass in time, any other at once.
        """
        began: float | None = None
        pause = FIRST_PAUSE_S
        while True:
            try:
                result = function(**arguments)
            except ChromaMLXError as error:
                if not self._may_pass(error):
                    raise
                failure: Exception = error
            except (ChromaError, httpx.HTTPError, OSError) as error:
                failure = error
            except Exception as error:
                if type(error) is not Exception:  # Chroma's client raises it bare for an answer it cannot read
                    raise
                failure = error
            else:
                if began is not None:
                    log.warning("The server answers again, after %.0f s.", self._clock() - began)
                return result
            now = self._clock()
            if not self._may_pass(failure) or (began is not None and now - began >= self._limit_s):
                self._stop(failure, None if began is None else now - began)
            if began is None:
                began = now
                log.warning("The server does not answer (%s); trying again for %g s.", _words(failure), self._limit_s)
            if self._wait(min(pause, max(0.0, self._limit_s - (now - began)))):
                self._stop(failure, now - began)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def need_room(self, needed: int) -> None:
        """Raises DiskFull where the disk of a local database has fewer bytes left."""
        need_room(self._folder, needed)

    def _may_pass(self, error: Exception) -> bool:
        if isinstance(error, RemoteError):
            return error.may_pass
        if isinstance(error, DeadlineExceeded):
            return True
        if not self._remote:
            return False
        passing = httpx.TransportError | InternalError | RateLimitError | DatabaseUnreachable
        return isinstance(error, passing) or type(error) is Exception

    def _stop(self, error: Exception, waited_s: float | None) -> NoReturn:
        if isinstance(error, RemoteError | DeadlineExceeded):  # no failure of the database
            raise error
        if is_full(error) or (self._folder is not None and is_nearly_full(self._folder)):
            raise DiskFull(reason=_words(error)) from error
        raise IngestStopped(reason=_words(error), waited_s=waited_s) from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip(": ")[:300]
