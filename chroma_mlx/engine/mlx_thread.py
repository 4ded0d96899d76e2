"""The one thread that all MLX work runs on.

MLX's streams belong to a thread: an array made lazily in one and evaluated in another raises, and so does
much else (https://github.com/ml-explore/mlx/issues: thread and stream errors are the first complaint about
servers built on it). So loading, computing and reading back all happen here, one job after another, and
callers on any thread wait for their own job.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, ParamSpec, TypeVar

from ..blas import load_fast_blas
from ..errors import EngineError, ForkedProcess, MissingPackage

P = ParamSpec("P")
R = TypeVar("R")

# MLX keeps freed buffers for reuse, by default up to 1.5 times the GPU's working set. Lengths vary from
# batch to batch, so most of that is never asked for again. On a CPU a buffer costs next to nothing, and where layers
# work on NumPy's arrays MLX makes few: from 4 to 128 MiB no difference in speed was measured, but all of it is filled
# in time, since each length leaves buffers of its own.
CACHE_LIMIT_BYTES: Final = {"gpu": 512 * 2**20, "cpu": 16 * 2**20}
# After so long without work they go back to the system.
IDLE_S: Final = 10.0


class MLXThread:
    """Runs jobs one after another on a thread of its own, started with the first job.

    A daemon that `atexit` brings to rest, so that threads which Python waits for at exit may embed to their
    end (an executor would refuse their work: Python closes executors first), and nothing of MLX runs while
    the interpreter is torn down. It rests and never ends: MLX keeps Python objects in the thread's local
    storage, whose release, racing with the tearing down, kills the process with "terminate called without
    an active exception". A thread that does not end releases nothing.
    """

    def __init__(self, *, idle_s: float = IDLE_S, on_idle: Callable[[], None] | None = None) -> None:
        """`on_idle` runs on the thread once it has had no job for `idle_s` seconds since the last."""
        self._idle_s, self._on_idle = idle_s, on_idle or _release_memory
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._resting = threading.Event()
        self._pid = os.getpid()

    def submit(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Queues `job`, which does not need MLX started; its result or error comes through the future.

        Raises ForkedProcess when the thread was running in the parent of this process, since MLX's state
        does not survive a fork; EngineError when the interpreter is shutting down, or no thread can be started.
        """
        if self._pid != os.getpid():
            if self._thread is not None:
                raise ForkedProcess(
                    "MLX was in use in the parent process when this one was forked, and its threads and device "
                    "queues do not survive a fork. Start workers with the 'spawn' or 'forkserver' method, or fork "
                    "before the first text is embedded."
                )
            # Nothing was started; the lock may have been held, though.
            self.__init__(idle_s=self._idle_s, on_idle=self._on_idle)  # type: ignore[misc]
        future: Future[R] = Future()
        with self._lock:
            if self._stopping:
                raise EngineError(
                    "The interpreter is shutting down, so no more texts can be embedded. Embed before the end of the "
                    "program, not in a handler that runs at its exit."
                )
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="chroma-mlx", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise EngineError(f"No thread can be started to compute on: {error}.") from error
                self._thread = thread
                atexit.register(self.rest)
            self._jobs.put((future, functools.partial(job, *args, **kwargs)))
        return future

    def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Starts MLX if it is not yet, runs `job` on the thread and waits for it; from the thread itself, at once."""
        if threading.current_thread() is self._thread:
            return job(*args, **kwargs)
        return self.submit(on_mlx, functools.partial(job, *args, **kwargs)).result()

    def _work(self) -> None:
        while (item := self._next_job()) is not None:
            future, job = item
            if self._stopping:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            # The next wait may be long: hold nothing of a caller's meanwhile.
            del item, future, job
        self._resting.set()
        threading.Event().wait()

    def _next_job(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        try:
            return self._jobs.get(timeout=self._idle_s)
        except queue.Empty:
            self._on_idle()
        return self._jobs.get()

    def rest(self) -> None:
        """Brings the thread to rest after the job it is at; jobs of daemon threads behind it are not begun.

        For the end of the program.
        """
        if self._pid != os.getpid() or self._thread is None:
            return
        with self._lock:
            self._stopping = True
        self._jobs.put(None)
        self._resting.wait()


def _release_memory() -> None:
    """Gives MLX's freed buffers back to the system.

    On Linux they go to malloc, which keeps them for its thread unless it is told not to (malloc_trim(3), glibc's
    own): half a gigabyte otherwise stays resident until the process ends.
    """
    if (mx := sys.modules.get("mlx.core")) is None:
        return
    mx.clear_cache()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def mlx_memory() -> tuple[int, int]:
    """The bytes that MLX has in use in this process, and those that it keeps for reuse."""
    mx = sys.modules.get("mlx.core")  # before the first text it may not be loaded
    return (0, 0) if mx is None else (mx.get_active_memory(), mx.get_cache_memory())


def on_mlx(job: Callable[[], R]) -> R:
    """Runs a job on the MLX thread, which this is; before the first, MLX is started. Raises MissingPackage."""
    _start_mlx()
    return job()


@functools.cache
def _start_mlx() -> None:
    """Imports MLX behind a fast BLAS, once; a failure is not cached, so the next job tries again."""
    load_fast_blas()
    try:
        import mlx.core as mx
    except ImportError as error:
        requirement = "mlx" if sys.platform == "darwin" else "'mlx[cpu]'"
        raise MissingPackage("mlx", requirement) from error
    mx.set_cache_limit(CACHE_LIMIT_BYTES["gpu" if mx.default_device().type == mx.DeviceType.gpu else "cpu"])


mlx_thread: Final = MLXThread()
