"""The way of a text: tokens, batches, passes shared with other callers, one door that every vector leaves by."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from ..checkpoint.locate import local_folder
from ..errors import QueueFull, SchedulerClosed
from ..progress import progress_bar
from ..settings import MachineSettings, VectorSettings
from ..texts import check_texts
from .counts import Counts
from .mlx_thread import mlx_thread
from .model import Model, ModelSpec, find_loaded, get_model, release_model, unload_models
from .own_process import engine_process
from .plan import Kind
from .request import Embedded, Request, Vectors, finish
from .scheduler import UNKNOWN_S, Call, Limits, Scheduler
from .vector_cache import shared_cache
from .waiting import Rows, Work

R = TypeVar("R")

__all__ = ["Embedded", "Encoder", "Vectors", "counts", "finish", "scheduler"]

# Batches that wait at the MLX thread: one runs, one is ready. More would only make other callers wait.
BATCHES_AHEAD: Final = 2
# An awaited call of more text, or one that has to load or look into a file, takes a thread; a smaller one is
# tokenised in less time than a thread takes to be told (some 0.2 ms for a thousand characters).
AT_ONCE_CHARACTERS: Final = 4_096
# Awaited calls that take a thread at the same time.
THREADS: Final = 64

# Of all models and functions of the process, as there is one MLX thread.
counts: Final = Counts()
scheduler: Final = Scheduler(mlx_thread.submit, observe=counts.add_pass)


def shutdown(*, drain: bool = True) -> None:
    """Ends the embedding of this process: calls under way are answered, or with `drain` False refused.

    The models' memory is freed, and their own process ended. Returns when nothing runs any more. Refused calls, and
    all later ones, raise SchedulerClosed. A program need not call it: it is for one that has to end at a moment of its
    own choosing. Not to be called by an event loop that awaits a call itself, since it blocks.
    """
    scheduler.close(drain=drain)
    engine_process.drop(error=SchedulerClosed())  # of whole calls: none is left where it drained
    unload_models()


class _Threads:
    """The threads of awaited calls that block, and how many are taken: also by calls that nobody awaits any more."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="chroma-mlx-call")
        self._lock, self._taken = threading.Lock(), 0

    def submit(self, job: Callable[[], R], policy: str) -> Future[R]:
        """Runs a job in one of them. Raises QueueFull where all are taken and the policy is not to wait."""
        with self._lock:
            if self._taken >= THREADS and policy == "fail_fast":
                what = "long calls are being prepared"
                raise QueueFull(
                    pending=self._taken, limit=THREADS, retry_after_s=UNKNOWN_S, what=what, bound="the most at once"
                )
            self._taken += 1
        try:
            future = self._pool.submit(job)
        except BaseException:  # no thread can be started
            self._release()
            raise
        future.add_done_callback(self._release)
        return future

    def _release(self, done: Future[Any] | None = None) -> None:
        with self._lock:
            self._taken -= 1


_threads = _Threads()


def _forget() -> None:
    """In a forked child: a lock that another thread held is never released, and that thread is not there.

    The MLX thread then says what is wrong.
    """
    global _threads
    _threads = _Threads()
    scheduler.forget()
    counts.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Encoder:
    """Turns texts into vectors by one model under one set of settings. Making one costs nothing."""

    def __init__(self, vectors: VectorSettings, machine: MachineSettings) -> None:
        self.vectors, self.machine = vectors, machine
        # A folder by its absolute path: "./model" is another model once the program has changed its folder.
        folder = local_folder(vectors.model_name)
        name = vectors.model_name if folder is None else str(folder)
        self.spec = ModelSpec(name, machine.device, machine.cache_path, own_process=bool(machine.own_process))
        self._limits = Limits(
            max_texts=machine.max_queue,
            max_tokens=machine.max_queue_tokens,
            policy=machine.queue_policy,
            linger_s=machine.batch_timeout_ms / 1000,
        )
        # What was let in is not refused halfway; what would wait in the event loop's thread goes to another.
        self._let_in, self._at_once = replace(self._limits, policy="wait"), replace(self._limits, policy="fail_fast")

    def load(self) -> Model:
        """The model, loaded if it is not yet. Raises what `get_model` raises."""
        machine = self.machine
        return get_model(
            self.spec,
            auto_download=machine.auto_download,
            show_progress=machine.show_progress,
            max_cache_gb=machine.max_cache_gb,
            on_load=lambda seconds: counts.add_load(self.vectors.model_name, seconds),
        )

    def loaded(self) -> Model | None:
        """The model if it is in memory."""
        return find_loaded(self.spec)

    def release(self) -> None:
        """Forgets the model if it is in the engine's process; see `release_model`."""
        release_model(self.spec)

    def is_full(self, kind: Kind) -> bool:
        """Whether any text of a kind would be refused now, where it is not to wait: whether there is a `refusal`."""
        return not self.machine.embedding_cache and scheduler.is_full(kind, self._limits)

    def refusal(self, kind: Kind) -> QueueFull | None:
        """What any text of a kind would be refused with now, where it is not to wait; None where there may be room.

        A text that the vector cache has needs none.
        """
        return None if self.machine.embedding_cache else scheduler.refusal(kind, self._limits)

    def encode(self, texts: Sequence[str], kind: Kind, *, timeout_s: float | None = None) -> Vectors:
        """Embeds `texts`: float32, (len(texts), dimension), in their order, every value finite.

        As `embed` does, without the count of tokens.
        """
        return self.embed(texts, kind, timeout_s=timeout_s).vectors

    def embed(self, texts: Sequence[str], kind: Kind, *, timeout_s: float | None = None) -> Embedded:
        """Embeds `texts`: vectors in their order, (len(texts), dimension) float32, every value finite.

        With `normalize` every vector has unit length. Equal texts are computed once, and those that the vector
        cache has, where one is set, not at all. Safe from any thread: calls share forward passes. Raises InputError
        naming the text, ConfigError when a setting does not fit the model or the cache's file is none,
        EngineError when the forward pass gives no usable vector, QueueFull under queue_policy="fail_fast",
        DeadlineExceeded after `timeout_s` seconds (a model that is being loaded is loaded to its end), and what
        loading raises.
        """
        with _counted(kind) as answer, scheduler.call(timeout_s=timeout_s) as call:
            return answer(self._embed(call, texts, kind))

    async def aembed(self, texts: Sequence[str], kind: Kind, *, timeout_s: float | None = None) -> Embedded:
        """As `embed`, without blocking the event loop. When the task is cancelled, what still waits is not computed."""
        with _counted(kind) as answer, scheduler.call(timeout_s=timeout_s) as call:
            texts, model = check_texts(texts), self.loaded()
            if model is None or self.machine.embedding_cache or sum(map(len, texts)) > AT_ONCE_CHARACTERS:
                job = partial(self._embed, call, texts, kind)
                return answer(await call.aresult(_threads.submit(job, self.machine.queue_policy)))
            with Request(texts, kind, self.vectors, self.machine, model) as request:
                waiting, limits = [], self._limits
                for rows, work in request.batches():
                    waiting.append((rows, work.tokens, await self._aput(call, work, limits)))
                    limits = self._let_in
                for rows, tokens, future in waiting:
                    request.accept(rows, await call.aresult(future), tokens)
            return answer(request.embedded())

    def request(self, texts: Sequence[str], kind: Kind) -> Request:
        """What of texts is to be computed. Raises InputError, ConfigError and what loading raises."""
        texts = check_texts(texts)
        # Before the model, which may take long to come: a file that is none would be in vain.
        cache = shared_cache(self.machine.embedding_cache_path, self.machine.embedding_cache_gb)
        return Request(texts, kind, self.vectors, self.machine, self.load(), cache)

    def _embed(self, call: Call, texts: Sequence[str], kind: Kind) -> Embedded:
        waiting: deque[tuple[list[int], int, Future[Rows]]] = deque()
        with (
            self.request(texts, kind) as request,
            progress_bar(request.missing, self.machine.show_progress) as bar,
        ):

            def accept() -> None:
                rows, tokens, future = waiting.popleft()
                bar.update(request.accept(rows, call.result(future), tokens))

            limits = self._limits
            # The next batch is tokenised and queued while one computes.
            for rows, work in request.batches():
                if len(waiting) >= BATCHES_AHEAD:
                    accept()
                waiting.append((rows, work.tokens, call.put(work, limits)))
                limits = self._let_in
            while waiting:
                accept()
        return request.embedded()

    async def _aput(self, call: Call, work: Work, limits: Limits) -> Future[Rows]:
        """Queues work; while there is no room, a thread waits for it."""
        try:
            return call.put(work, self._at_once)
        except QueueFull:
            if limits.policy == "fail_fast":
                raise
        return await call.aresult(_threads.submit(partial(call.put, work, limits), "wait"))


@contextmanager
def _counted(kind: Kind) -> Iterator[Callable[[Embedded], Embedded]]:
    """Counts a call that gave its answer, or its error."""
    started = time.perf_counter()

    def answer(found: Embedded) -> Embedded:
        counts.add_call(kind, found, seconds=time.perf_counter() - started)
        return found

    try:
        yield answer
    except BaseException as error:
        counts.add_error(error)
        raise
