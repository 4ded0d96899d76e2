"""How many threads a product may use: one for small work, all for large.

OpenBLAS splits every product over all cores and waits for the slowest. On cores that are busy with other
work each wait is a time slice of the scheduler, some milliseconds, and a short text is some hundred
products of a tenth of a millisecond: measured, 400 ms instead of 7. Large products are worth the wait.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from .choice import load_fast_blas

# A product of this many floating-point operations takes one core some 0.2 to 0.8 ms, more for few rows. Below it
# a second thread gains little, and on a busy machine waits for its turn.
FLOPS_WORTH_ALL_THREADS: Final = 2e7
# Of our own copy alone: another library may serve the rest of the program too, whose threads are its own.
SET, GET = "chroma_mlx_scipy_openblas_set_num_threads", "chroma_mlx_scipy_openblas_get_num_threads"


def use_threads_for(flops: float) -> None:
    """Sets the threads of the matrix products to come, the largest of which takes `flops` operations.

    Never more than the library had when it was loaded, which is what OPENBLAS_NUM_THREADS and its like
    say. Does nothing where the library is not this package's own copy.
    """
    setting = _setting()
    if setting is not None:
        set_threads, _, most = setting
        set_threads(most if flops >= FLOPS_WORTH_ALL_THREADS else 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Products on one thread each, for callers that multiply on several of their own."""
    setting = _setting()
    if setting is None:
        yield
        return
    set_threads, get_threads, _ = setting
    before = get_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


def most_threads() -> int:
    """How many threads large work may use: as many as our copy of the library, else as the process has cores."""
    setting = _setting()
    if setting is not None:
        return setting[2]
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _setting() -> tuple[Callable[[int], None], Callable[[], int], int] | None:
    """The functions that set and get the number of threads, and the number at the start."""
    library = own_library()
    return None if library is None else (library[SET], library[GET], int(library[GET]()))


def own_library() -> ctypes.CDLL | None:
    """This package's own copy of OpenBLAS, None where MLX multiplies with another library."""
    path = load_fast_blas().path
    library = None if path is None else ctypes.CDLL(path)  # loaded already: this only finds it again
    return library if hasattr(library, SET) else None
