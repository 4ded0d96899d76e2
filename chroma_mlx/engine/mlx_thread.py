"""The one thread that all MLX work runs on.

MLX's streams belong to a thread: an array made lazily in one and evaluated in another raises, and so does
much else (https://github.com/ml-explore/mlx/issues: thread and stream errors are the first complaint about
servers built on it). So loading, computing and reading back all happen here, one job after another, and
callers on any thread wait for their own job.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from ..blas import load_fast_blas
from ..errors import EngineError, ForkedProcess, MissingPackage

P = ParamSpec("P")
R = TypeVar("R")

# MLX keeps freed buffers for reuse, by default up to 1.5 times the GPU's working set. Lengths vary from
# batch to batch, so most of that is never asked for again.
CACHE_LIMIT_BYTES: Final = 512 * 2**20


class MLXThread:
    """Runs jobs one after another on a thread of its own, started with the first job.

    An executor of one worker: Python joins it at exit before anything is torn down, so a process ends
    cleanly with work done and none begun.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._pid = os.getpid()

    def submit(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Queues `job`; its result or error comes through the future.

        Raises ForkedProcess when the thread was running in the parent of this process, since MLX's state
        does not survive a fork; EngineError when the interpreter is shutting down.
        """
        if self._pid != os.getpid():
            if self._executor is not None:
                raise ForkedProcess(
                    "MLX was in use in the parent process when this one was forked, and its threads and device "
                    "queues do not survive a fork. Start workers with the 'spawn' or 'forkserver' method, or fork "
                    "before the first text is embedded."
                )
            # Nothing had been started, so the child may start its own; the lock may have been held.
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="chroma-mlx")
            try:
                return self._executor.submit(functools.partial(_run_on_mlx, job, *args, **kwargs))
            except RuntimeError as error:  # the executor's answer once the interpreter is going down
                raise EngineError(
                    "The interpreter is shutting down, so no more texts can be embedded. Wait for the threads that "
                    "embed before the main thread ends."
                ) from error

    def run(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs `job` on the thread and waits for it."""
        return self.submit(job, *args, **kwargs).result()


def _run_on_mlx(job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    _start_mlx()
    return job(*args, **kwargs)


@functools.cache
def _start_mlx() -> None:
    """Imports MLX behind a fast BLAS, once; a failure is not cached, so the next job tries again."""
    load_fast_blas()
    try:
        import mlx.core as mx
    except ImportError as error:
        requirement = "mlx" if sys.platform == "darwin" else "'mlx[cpu]'"
        raise MissingPackage("mlx", requirement) from error
    mx.set_cache_limit(CACHE_LIMIT_BYTES)


mlx_thread: Final = MLXThread()
