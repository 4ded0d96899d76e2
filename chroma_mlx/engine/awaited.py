"""Futures of the MLX thread, awaited in an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

R = TypeVar("R")

# Futures that are passed on in one round of a loop. Who waits for one may do much with it, such as send an answer: a
# server that sent all of a pass at once would hear nobody meanwhile, for some 40 ms where sixty were answered.
AT_ONCE: Final = 2


def awaitable(future: Future[R]) -> asyncio.Future[R]:
    """As asyncio.wrap_future, but the futures that a pass answers wake the loop once or twice, and not each.

    To wake it the MLX thread gives the interpreter away, and gets it back only when the loop is through: with a
    hundred callers in a pass the next one would begin late by a hundred of these. The loop passes them on a few at a
    time, and does between them what else there is to do.
    """
    loop = asyncio.get_running_loop()
    if (deliveries := _of_loop.get(loop)) is None:
        for closed in [each for each in list(_of_loop) if each.is_closed()]:
            _of_loop.pop(closed, None)
        deliveries = _of_loop[loop] = _Deliveries(loop)
    waiting: asyncio.Future[R] = loop.create_future()
    waiting.add_done_callback(lambda done: future.cancel() if done.cancelled() else None)
    future.add_done_callback(partial(deliveries.put, waiting))
    return waiting


def is_delivering(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether there are futures that are done, and that the loop has still to pass on."""
    return loop in _of_loop and _of_loop[loop].woken


class _Deliveries:
    """What other threads have for those who wait in a loop. `woken`: the loop is about to look."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self.woken = False

    def put(self, waiting: asyncio.Future[R], future: Future[R]) -> None:
        """A future is done: in any thread."""
        self._done.append((waiting, future))
        if not self.woken:
            # If another thread comes here at the same time the loop is woken twice, and finds nothing the second time.
            self.woken = True
            with suppress(RuntimeError):  # it is closed, and nobody waits there
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        try:
            for _ in range(min(AT_ONCE, len(self._done))):
                _pass_on(*self._done.popleft())
        finally:
            if not self._done:
                self.woken = False  # what comes from here on wakes it again
            if self._done:
                self.woken = True
                self._loop.call_soon(self._deliver)


def _pass_on(waiting: asyncio.Future[R], future: Future[R]) -> None:
    if waiting.done():  # cancelled
        return
    if future.cancelled():
        waiting.cancel()
    elif isinstance(error := future.exception(), StopIteration):  # which no asyncio.Future takes
        waiting.set_exception(RuntimeError(f"the call ended with {error!r}"))
    elif error is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(future.result())


_of_loop: Final[dict[asyncio.AbstractEventLoop, _Deliveries]] = {}
