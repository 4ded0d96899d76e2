"""Many callers, one MLX thread: their texts are gathered into passes, within a bound.

A caller hands over the texts of a pass as a piece (waiting.py) and waits for its future. The MLX thread takes what
shares a pass, computes it, and gives each caller its own rows. There is no thread besides: a turn is a job
of the MLX thread, which queues the next turn while anything waits, so that loading a model has its turn too.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import numpy as np

from ..errors import DeadlineExceeded, QueueFull, SchedulerClosed
from .awaited import awaitable
from .waiting import Kind, Piece, Rows, TokenIds, Waiting, Work

Policy = Literal["wait", "fail_fast"]
R = TypeVar("R")

# Of the measured rate: what the newest pass counts for.
NEWEST: Final = 0.2
# Who is refused before any pass was measured is told to come back after so long.
UNKNOWN_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How a caller's texts wait: at most so many texts and tokens of all callers together.

    policy: over the bound "wait" blocks the caller until there is room, "fail_fast" raises QueueFull. `linger_s`
    is how long an idle engine waits for other callers to fill a pass.
    """

    max_texts: int
    max_tokens: int
    policy: Policy
    linger_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What a forward pass was: for the metrics. Seconds; `waited_s` of each piece.

    lengths: tokens of each text, in the order they were computed; `tokens`: those computed, a shared prefix apart;
    `padding`: see Work.
    """

    kind: Kind
    lengths: tuple[int, ...]
    tokens: int
    padding: int
    compute_s: float
    waited_s: tuple[float, ...]
    failed: bool


class Clock:
    """Time as it passes."""

    def now(self) -> float:
        """Seconds that only ever grow."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        """Waits on a condition that is held, `seconds` at most."""
        condition.wait(seconds)


class Scheduler:
    """Gathers pieces of any thread into passes that `submit` runs one after another.

    submit: queues a job for the thread that computes. `observe`, which may be set, is called there after every pass.
    """

    def __init__(
        self,
        submit: Callable[[Callable[[], None]], Any],
        *,
        clock: Clock | None = None,
        observe: Callable[[Pass], None] = lambda done: None,
    ) -> None:
        self._submit, self._clock, self.observe = submit, clock or Clock(), observe
        self.forget()

    def forget(self) -> None:
        """Begins anew, with nothing waiting and nobody under way: what a forked child does."""
        self._changed = threading.Condition()
        self._waiting = Waiting()
        self._for_room: dict[Kind, deque[Piece]] = {"query": deque(), "document": deque()}  # first come, first served
        self._calls: set[int] = set()  # those under way
        self._elsewhere: set[int] = set()  # those of them that bring no texts
        self._names = itertools.count()
        self._turning = False  # whether a turn is queued or runs
        self._computing = 0  # tokens
        self._free_since = 0.0
        self._seconds_a_token = 0.0
        self._closed = False
        self._finishing: set[int] = set()  # the calls that were under way when it was closed, and may finish

    @contextmanager
    def call(self, *, timeout_s: float | None = None, elsewhere: bool = False) -> Iterator[Call]:
        """A call under way: while it is, passes may wait for its texts. What it left behind is dropped at its end.

        One whose texts are computed `elsewhere` brings none here: only `close` waits for it.

        A `put` in another thread that comes after the end raises CancelledError: nobody waits for it. Raises
        SchedulerClosed.
        """
        with self._changed:
            if self._closed:
                raise SchedulerClosed()
            name, now = next(self._names), self._clock.now()
            self._calls.add(name)
            if elsewhere:
                self._elsewhere.add(name)
        call = Call(self, name, now, None if timeout_s is None else now + timeout_s)
        try:
            yield call
        finally:
            with self._changed:
                for calls in (self._calls, self._elsewhere, self._finishing):
                    calls.discard(name)
                for piece in list(call.pieces.values()):
                    if self._waiting.remove(piece):
                        piece.future.cancel()
                self._changed.notify_all()

    def now(self) -> float:
        """The clock's seconds."""
        return self._clock.now()

    @property
    def depth(self) -> tuple[int, int]:
        """The texts and tokens that wait now."""
        with self._changed:
            return self._waiting.texts.total(), self._waiting.tokens.total()

    def is_full(self, kind: Kind, limits: Limits) -> bool:
        """Whether no text of a kind has room now. A look at numbers that others change meanwhile: `put` decides."""
        waiting = self._waiting
        return waiting.texts[kind] >= limits.max_texts or waiting.tokens[kind] >= limits.max_tokens

    def refusal(self, kind: Kind, limits: Limits) -> QueueFull | None:
        """What any text of a kind would be refused with now under "fail_fast"; None where there may be room."""
        return self._full(kind, 1, 1, limits) if self.is_full(kind, limits) else None

    def close(self, *, drain: bool) -> None:
        """Takes no more calls; those under way go on to their end, or with `drain` False are refused.

        Returns when all is done: so not to be called on the MLX thread, or where a call of its own waits.
        """
        with self._changed:
            self._closed = True
            self._finishing = set(self._calls) if drain else set()
            if not drain:
                _refuse(self._waiting.clear(), SchedulerClosed())
            self._changed.notify_all()
            while self._turning or self._finishing:
                self._changed.wait()

    def put(self, piece: Piece, limits: Limits) -> None:
        """Queues a piece, or raises QueueFull, DeadlineExceeded, SchedulerClosed or CancelledError."""
        with self._changed:
            self._await_room(piece, limits)
            piece.arrived = self._clock.now()
            piece.at_once = not (self._computing or len(self._waiting))
            piece.linger_s = limits.linger_s
            self._waiting.put(piece)
            self._changed.notify_all()
            if not self._turning:
                self._start_turn()

    def _await_room(self, piece: Piece, limits: Limits) -> None:
        line = self._for_room[piece.work.kind]
        line.append(piece)
        try:
            while True:
                self._expire()
                self._check(piece)
                room = self._waiting.has_room(piece, max_texts=limits.max_texts, max_tokens=limits.max_tokens)
                if room and line[0] is piece:
                    return
                if limits.policy == "fail_fast":
                    raise self._full(piece.work.kind, piece.texts, piece.work.tokens, limits)
                left = None if piece.deadline is None else piece.deadline - self._clock.now()
                self._clock.wait(self._changed, left)
        finally:
            line.remove(piece)
            self._changed.notify_all()  # the next in line

    def _full(self, kind: Kind, texts: int, tokens: int, limits: Limits) -> QueueFull:
        """The error for texts that do not fit, with the seconds until they do, at the rate of late."""
        waiting, waiting_tokens = self._waiting.texts[kind], self._waiting.tokens[kind]
        over_texts = (waiting + texts - limits.max_texts) / max(1, waiting)
        over_tokens = (waiting_tokens + tokens - limits.max_tokens) / max(1, waiting_tokens)
        first = waiting_tokens * min(1.0, max(0.0, over_texts, over_tokens))
        room_in = (self._computing + first) * self._seconds_a_token
        return QueueFull(pending=waiting, limit=limits.max_texts, retry_after_s=room_in or UNKNOWN_S)

    def _check(self, piece: Piece) -> None:
        """Raises what a piece may not be queued for."""
        if self._closed and piece.call not in self._finishing:
            raise SchedulerClosed()
        if piece.call not in self._calls:
            raise CancelledError("the call has ended")
        now = self._clock.now()
        if piece.deadline is not None and now >= piece.deadline:
            raise DeadlineExceeded(waited_s=now - piece.arrived)

    def _start_turn(self) -> None:
        with self._changed:
            try:
                job = self._submit(self._turn)
            except BaseException as error:
                self._turning = False
                _refuse(self._waiting.clear(), error)
                self._changed.notify_all()
                raise
            self._turning = True
        if isinstance(job, Future):
            job.add_done_callback(self._turned)

    def _turned(self, job: Future[None]) -> None:
        """A turn that the MLX thread did not begin, since the interpreter is shutting down, leaves nobody waiting."""
        if job.cancelled():
            with self._changed:
                self._turning = False
                _refuse(self._waiting.clear(), SchedulerClosed())
                self._changed.notify_all()

    def _turn(self) -> None:
        """On the MLX thread: one pass, when it is time for it, and the next turn if anything waits."""
        try:
            batch = self._next_batch()
            if batch:
                started = self._clock.now()
                answers = _compute(batch)
                try:  # who has an answer finds its pass counted
                    self._done(batch, started, any(isinstance(answer, BaseException) for answer in answers))
                finally:
                    _answer(batch, answers)
        finally:  # whatever fails in between, who waits gets a turn
            with self._changed:
                self._turning = bool(len(self._waiting))
                again = self._turning
                self._changed.notify_all()
            if again:
                self._start_turn()

    def _next_batch(self) -> list[Piece]:
        """Waits until a pass is due and takes its pieces."""
        with self._changed:
            while True:
                self._expire()
                calls = len(self._calls) - len(self._elsewhere)
                at = self._waiting.start_at(free_since=self._free_since, calls=calls)
                if at is None:
                    return []
                if (left := at - self._clock.now()) <= 0 or self._closed:
                    break
                self._clock.wait(self._changed, left)
            batch = [piece for piece in self._waiting.take() if piece.future.set_running_or_notify_cancel()]
            self._computing = sum(piece.work.tokens for piece in batch)
            self._changed.notify_all()  # there is room
            return batch

    def _expire(self) -> None:
        """Drops the pieces that nobody waits for any more."""
        now = self._clock.now()
        for piece in self._waiting.expired(now):
            _refuse([piece], DeadlineExceeded(waited_s=now - piece.arrived))

    def _done(self, batch: list[Piece], started: float, failed: bool) -> None:
        now = self._clock.now()
        tokens = sum(piece.work.tokens for piece in batch)
        with self._changed:
            self._computing, self._free_since = 0, now
            newest = (now - started) / max(1, tokens)
            old = self._seconds_a_token or newest
            self._seconds_a_token = (1 - NEWEST) * old + NEWEST * newest
        self.observe(
            Pass(
                kind=batch[0].work.kind,
                lengths=tuple(map(len, _rows(batch))),
                tokens=tokens,
                padding=batch[0].work.padding,
                compute_s=now - started,
                waited_s=tuple(started - piece.arrived for piece in batch),
                failed=failed,
            )
        )


@dataclass(frozen=True, slots=True)
class Call:
    """One caller's call: its pieces share a name and a deadline."""

    scheduler: Scheduler
    name: int
    began: float
    deadline: float | None
    pieces: dict[Future[Rows], Piece] = field(default_factory=dict)  # whose result was not asked for yet

    def put(self, work: Work, limits: Limits) -> Future[Rows]:
        """Queues what fits into a pass. The future gives the raw vectors of its texts; wait for it with `result`.

        Raises what `Scheduler.put` raises.
        """
        piece = Piece(work=work, call=self.name, arrived=self.began, deadline=self.deadline)
        self.pieces[piece.future] = piece
        try:
            self.scheduler.put(piece, limits)
        except BaseException:
            del self.pieces[piece.future]
            raise
        return piece.future

    def result(self, future: Future[Rows]) -> Rows:
        """The vectors of a future that `put` gave, at the deadline at last. Raises DeadlineExceeded, or its error."""
        now = self.scheduler.now()
        try:
            found = future.result(None if self.deadline is None else max(0.0, self.deadline - now))
            self.pieces.pop(future, None)  # a long call holds nothing of what it was given
            return found
        except FutureTimeout:
            if future.done():
                return future.result()  # its own error, or the answer that came in the last moment
            raise DeadlineExceeded(waited_s=self.scheduler.now() - self.began) from None

    async def aresult(self, future: Future[R]) -> R:
        """As `result`, without blocking the event loop; cancelled, it takes what waits along."""
        left = None if self.deadline is None else max(0.0, self.deadline - self.scheduler.now())
        try:
            return await asyncio.wait_for(awaitable(future), left)
        except asyncio.TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()
            raise DeadlineExceeded(waited_s=self.scheduler.now() - self.began) from None


def _rows(batch: list[Piece]) -> list[TokenIds]:
    return [row for piece in batch for row in piece.work.rows]


def _refuse(pieces: list[Piece], error: BaseException) -> None:
    for piece in pieces:
        if piece.future.set_running_or_notify_cancel():
            piece.future.set_exception(error)


def _compute(batch: list[Piece]) -> list[Rows | BaseException]:
    """Runs a pass: the vectors of each piece, or its error.

    After an error each caller's texts are tried alone, so that it reaches those only who have it too.
    """
    rows = _rows(batch)
    # Neighbours alike in length are what attention wants; the longest first, as they are planned.
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    try:
        found = batch[0].work.run([rows[index] for index in order])
        vectors = np.empty_like(found)
        vectors[order] = found
    except BaseException as error:
        if len(batch) == 1:
            return [error]
        return [answer for piece in batch for answer in _compute([piece])]
    ends = list(itertools.accumulate(piece.texts for piece in batch))
    return [vectors[end - piece.texts : end] for piece, end in zip(batch, ends, strict=True)]


def _answer(batch: list[Piece], answers: list[Rows | BaseException]) -> None:
    for piece, answer in zip(batch, answers, strict=True):
        if isinstance(answer, BaseException):
            piece.future.set_exception(answer)
        else:
            piece.future.set_result(answer)
