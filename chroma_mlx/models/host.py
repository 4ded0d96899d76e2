"""An encoder's work on a host: NumPy's arrays, the BLAS's products, and all cores.

Outside of macOS, MLX's CPU backend has no vector instructions for exp and what is built on it: 12 ns an element, so
that a feed-forward's activation takes longer than its matrix products; NumPy's exp takes 1 to 3 ns, in blocks that
stay in a core's cache. And each array that is asked for costs a hand-over to MLX's own thread and back: a short text
has some hundred. So there the layers take and give NumPy's arrays, and weights are seen by NumPy without a copy
(https://ml-explore.github.io/mlx/build/html/usage/numpy.html). Layers run on the MLX thread, but for the blocks and
the parts of a pass (see engine/forward.py) that other threads take: these touch no mx.array that is not evaluated.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..blas import (
    FLOPS_WORTH_ALL_THREADS,
    PLAIN,
    ROW_MAJOR,
    TRANSPOSED,
    most_threads,
    one_thread,
    own_product,
    uncopied_columns,
)

Floats = npt.NDArray[np.float32]
# What goes from layer to layer: an mx.array, or on a host Floats.
Array: TypeAlias = Any

# Elements at a time, so that a pass finds what the pass before it wrote in the core's cache. Threads hand Python's
# lock to one another with every pass, so half as many take longer on two cores.
BLOCK: Final = 128 * 1024
# Of rows whose largest score is no further from 0, exponentials and their sums are as exact as they are less it.
NO_OVERFLOW: Final = 20.0
# Columns that a thread takes at a time of a product in pieces.
SHARE: Final = 512
FLOAT: Final = 4  # bytes

_within = threading.local()  # a block: what it cuts into blocks of its own it does alone
_jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_helpers = 0


def view(array: mx.array) -> Floats:
    """The memory of an evaluated array, in one piece: what is written there is in the array."""
    memory = np.asarray(array)
    assert memory.flags.c_contiguous, "of an array in pieces this would be a copy"
    return memory


def in_blocks(job: Callable[[slice], None], length: int, step: int) -> None:
    """Calls `job` with every `step` of `length`, on all threads that large work may use; one block here, at once.

    A thread takes the next block when it is done with one, and this one too: where the other cores are busy
    with something else, nobody waits for them to begin. Called within a block it goes through its own one after
    another, on that block's thread. The first error is raised, where there are other threads when all are done.
    """
    blocks = [slice(start, min(start + step, length)) for start in range(0, length, step)]
    if len(blocks) == 1 or most_threads() == 1 or getattr(_within, "block", False):
        for block in blocks:
            job(block)
        return
    taken, finished, all_done = itertools.count(), itertools.count(1), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        _within.block = True
        while (index := next(taken)) < len(blocks):
            try:
                job(blocks[index])
            except BaseException as error:
                errors.append(error)
            if next(finished) == len(blocks):
                all_done.set()
        _within.block = False

    for _ in range(min(_start_helpers(), len(blocks) - 1)):
        _jobs.put(work)
    work()
    all_done.wait()
    if errors:
        raise errors[0]


def _start_helpers() -> int:
    """The threads beside this one. Daemons: they work only while the MLX thread waits for them."""
    global _helpers
    while _helpers < most_threads() - 1:
        threading.Thread(target=_help, name="chroma-mlx-host", daemon=True).start()
        _helpers += 1
    return _helpers


def _help() -> None:
    with np.errstate(all="ignore"):  # as on the MLX thread: what is no number is found in the vectors
        while True:
            _jobs.get()()


def address(array: Floats) -> int:
    """Where it begins in memory."""
    found: int = array.__array_interface__["data"][0]
    return found


def multiply(x: Floats, weight: Floats, bias: Floats | None) -> Floats:
    """x: (T, columns); weight: (rows, columns); bias: (rows,). Returns (T, rows)."""
    T, (rows, columns) = len(x), weight.shape  # of the weight: as wide as what is given, and as x
    out = np.empty((T, rows), dtype=np.float32)
    product = own_product()
    if product is None:  # MLX has another library, and so has NumPy
        np.matmul(x, weight.T, out=out)
        if bias is not None:
            out += bias
        return out
    x = np.ascontiguousarray(x)
    if bias is not None:
        out[:] = bias
    begins = address(x), address(weight), address(out)
    piece = uncopied_columns(T, rows, columns) or rows

    def fill(part: slice) -> None:
        for start in range(part.start, part.stop, piece):
            product(
                *(ROW_MAJOR, PLAIN, TRANSPOSED, T, min(piece, part.stop - start), columns, 1.0, begins[0], columns),
                *(begins[1] + FLOAT * start * columns, columns, 0.0 if bias is None else 1.0),
                *(begins[2] + FLOAT * start, rows),
            )

    if piece == rows or 2 * T * rows * columns < FLOPS_WORTH_ALL_THREADS:
        fill(slice(0, rows))
    else:
        with one_thread():
            in_blocks(fill, rows, SHARE)
    return out


def inverse_rms(x: Floats, eps: float) -> Floats:
    """1 / sqrt(the mean square over the last axis + eps). x: (…, width). Returns (…, 1)."""
    scale: Floats = np.einsum("...d,...d->...", x, x)
    scale /= x.shape[-1]
    scale += eps
    np.sqrt(scale, out=scale)
    np.reciprocal(scale, out=scale)
    return scale[..., None]


def softmax(scores: Floats, mask: Floats | None) -> None:
    """softmax over the last axis of scores, (G, N, Q, S), written over them.

    mask: as `exponentials` takes it.
    """

    def job(heads: slice) -> None:
        part = scores[:, heads]
        part /= exponentials(part, mask)

    in_blocks(job, scores.shape[1], max(1, BLOCK // scores[:, :1].size))


def exponentials(x: Floats, mask: Floats | None) -> Floats:
    """Writes over x, (…, S), what divided by the returned sums, (…, 1), is its softmax over the last axis.

    mask: what is added to the last columns, broadcasting: 0, or minus infinity where a key is not seen. Every row
    must see a key.
    """
    if mask is not None:
        x[..., x.shape[-1] - mask.shape[-1] :] += mask
    largest = x.max(axis=-1, keepdims=True)
    # So asked that what is no number in one row leads here, too: other rows may be large.
    if not max(largest.max(), -largest.min()) <= NO_OVERFLOW:
        x -= largest
    np.exp(x, out=x)
    sums: Floats = x.sum(axis=-1, keepdims=True)
    return sums
