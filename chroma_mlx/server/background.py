"""Work beside the event loop: what may be left behind when the process ends, and what is bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from ..engine.scheduler import UNKNOWN_S
from ..errors import QueueFull

R = TypeVar("R")

# Checks of tokens that run at the same time, and requests that wait for one, or for a model to be loaded.
CHECKS_AT_ONCE: Final = 4
MOST_WAITING: Final = 64


def in_daemon(work: Callable[[], R]) -> asyncio.Future[R]:
    """A future of what `work` gives in a thread that, unlike an executor's, neither loop nor process waits for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def settle(result: R | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, name="chroma-mlx-load", daemon=True).start()
    return future


class Checks:
    """Runs what takes a thread for a moment, a few at the same time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(CHECKS_AT_ONCE, thread_name_prefix="chroma-mlx-check")
        self._room = threading.Semaphore(MOST_WAITING)

    async def run(self, check: Callable[..., R], *arguments: object) -> R:
        """What `check` gives. Raises QueueFull where too many wait."""
        if not self._room.acquire(blocking=False):
            raise QueueFull(
                pending=MOST_WAITING,
                limit=MOST_WAITING,
                retry_after_s=UNKNOWN_S,
                what="requests wait for their tokens to be counted",
                bound="the most at once",
            )
        try:
            future = self._pool.submit(check, *arguments)
        except BaseException:  # no thread can be started
            self._room.release()
            raise
        future.add_done_callback(lambda done: self._room.release())
        return await asyncio.wrap_future(future)
