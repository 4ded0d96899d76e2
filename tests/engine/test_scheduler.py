"""Many callers and one thread that computes, by a clock that the tests set."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from chroma_mlx.engine.scheduler import Call, Clock, Limits, Pass, Scheduler
from chroma_mlx.engine.waiting import Work
from chroma_mlx.errors import DeadlineExceeded, QueueFull, SchedulerClosed


class SetClock(Clock):
    """Time that passes where somebody waits, and where a test says so."""

    def __init__(self) -> None:
        self.time = 100.0
        self.meanwhile: Callable[[], None] | None = None

    def now(self) -> float:
        return self.time

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            happens()
        elif seconds is None:
            raise AssertionError("somebody would wait for ever")
        else:
            self.time += seconds


class Engine:
    """A scheduler whose turns a test runs one by one, and what each pass was."""

    def __init__(self) -> None:
        self.clock, self.jobs, self.passes = SetClock(), deque[Callable[[], None]](), list[Pass]()
        self.ran: list[list[int]] = []
        self.takes = 0.0
        self.error: dict[int, Exception] = {}
        self.scheduler = Scheduler(self.jobs.append, clock=self.clock, observe=self.passes.append)

    def run(self, rows: list[Any]) -> Any:
        """The first id of each row as its vector; the row of an id that has an error raises it."""
        self.ran.append([int(row[0]) for row in rows])
        self.clock.time += self.takes
        for row in rows:
            if int(row[0]) in self.error:
                raise self.error[int(row[0])]
        return np.array([[row[0]] for row in rows], dtype=np.float32)

    def put(self, call: Call, *ids: int, length: int = 10, kind: Any = "document", **limits: Any) -> Future[Any]:
        bounds: dict[str, Any] = {"max_texts": 8, "max_tokens": 1000, "policy": "wait", "linger_s": 0.005}
        rows = [np.full(length, each, dtype=np.int32) for each in ids]
        work = Work(
            key="model",
            kind=kind,
            rows=rows,
            tokens=sum(map(len, rows)),
            run=self.run,
            most_texts=4,
            most_tokens=100,
        )
        return call.put(work, Limits(**{**bounds, **limits}))

    def turn(self) -> None:
        self.jobs.popleft()()


@pytest.fixture
def engine() -> Engine:
    return Engine()


def test_a_lone_call_is_computed_at_once(engine: Engine) -> None:
    with engine.scheduler.call() as call, engine.scheduler.call():
        future = engine.put(call, 7)
        engine.turn()
    assert future.result(0).tolist() == [[7.0]]
    assert engine.clock.time == 100.0
    assert not engine.jobs


def test_calls_that_came_while_another_ran_share_a_pass(engine: Engine) -> None:
    with engine.scheduler.call() as a, engine.scheduler.call() as b, engine.scheduler.call() as c:
        futures = [engine.put(a, 1), engine.put(b, 2), engine.put(c, 3, 4)]
        engine.turn()
    assert engine.ran == [[1, 2, 3, 4]]
    assert [future.result(0).tolist() for future in futures] == [[[1.0]], [[2.0]], [[3.0], [4.0]]]
    assert engine.passes[0].lengths == (10, 10, 10, 10)
    assert engine.passes[0].tokens == 40


def test_each_caller_gets_its_own_rows_whatever_their_lengths(engine: Engine) -> None:
    with engine.scheduler.call() as a, engine.scheduler.call() as b:
        short, long = engine.put(a, 1, length=2), engine.put(b, 2, length=50)
        engine.turn()
    assert engine.ran == [[2, 1]], "the longest first"
    assert short.result(0).tolist() == [[1.0]]
    assert long.result(0).tolist() == [[2.0]]


def test_an_engine_that_became_free_waits_for_others_no_longer_than_it_may(engine: Engine) -> None:
    with engine.scheduler.call() as a, engine.scheduler.call() as b, engine.scheduler.call():
        engine.put(a, 1, 2, 3, 4)  # a full pass
        engine.put(b, 5)
        engine.turn()
        engine.turn()
        assert engine.ran == [[1, 2, 3, 4], [5]]
        assert engine.clock.time == pytest.approx(100.005)


def test_it_takes_in_who_comes_meanwhile(engine: Engine) -> None:
    with engine.scheduler.call() as a, engine.scheduler.call() as b:
        engine.put(a, 1, 2, 3, 4)
        engine.put(a, 5)
        engine.turn()
        engine.clock.meanwhile = lambda: engine.put(b, 6) and None
        engine.turn()
    assert engine.ran == [[1, 2, 3, 4], [5, 6]]
    assert engine.clock.time == 100.0, "every caller was there"


def test_over_the_bound_a_call_is_refused_and_told_when_to_come_back(engine: Engine) -> None:
    engine.takes = 2.0
    with engine.scheduler.call() as a:
        engine.put(a, 1, 2, 3, 4)
        engine.turn()  # 0.05 s a token
        for first in (0, 4):
            engine.put(a, *range(first, first + 4))
        with engine.scheduler.call() as b, pytest.raises(QueueFull, match=r"8 texts wait.*0.5 s") as caught:
            engine.put(b, 9, policy="fail_fast")
        assert (caught.value.pending, caught.value.limit) == (8, 8)
        assert caught.value.retry_after_s == pytest.approx(0.5), "one of them has to be done, of 10 tokens"
        assert engine.scheduler.depth == (8, 80)


def test_who_is_refused_before_any_rate_is_known_comes_back_after_a_second(engine: Engine) -> None:
    with engine.scheduler.call() as a, engine.scheduler.call() as b:
        engine.put(a, 1, 2, 3, 4)
        engine.put(a, 5, 6, 7, 8)
        with pytest.raises(QueueFull) as caught:
            engine.put(b, 9, policy="fail_fast")
    assert caught.value.retry_after_s == 1.0


def test_a_thread_of_a_call_that_has_ended_puts_nothing(engine: Engine) -> None:
    with engine.scheduler.call() as call:
        pass
    with pytest.raises(CancelledError):
        engine.put(call, 1)
    assert engine.scheduler.depth == (0, 0)


async def test_an_awaited_result_is_dropped_with_its_task(engine: Engine) -> None:
    with engine.scheduler.call() as a:
        waits = asyncio.ensure_future(a.aresult(engine.put(a, 1)))
        stays = asyncio.ensure_future(a.aresult(engine.put(a, 2)))
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.sleep(0)
        engine.turn()
        assert (await stays).tolist() == [[2.0]]
        with pytest.raises(asyncio.CancelledError):
            await waits
    assert engine.ran == [[2]]


async def test_an_awaited_result_ends_at_the_deadline(engine: Engine) -> None:
    with engine.scheduler.call(timeout_s=0.0) as call:
        call_that_waits = Call(engine.scheduler, call.name, call.began, None)
        future = engine.put(call_that_waits, 1)
        with pytest.raises(DeadlineExceeded):
            await call.aresult(future)


def test_over_the_bound_a_call_waits_for_room(engine: Engine) -> None:
    with engine.scheduler.call() as a, engine.scheduler.call() as b:
        engine.put(a, 1, 2, 3, 4)
        engine.put(a, 5, 6, 7, 8)
        engine.clock.meanwhile = engine.turn
        future = engine.put(b, 9)
        while engine.jobs:
            engine.turn()
    assert future.result(0).tolist() == [[9.0]]
    assert engine.ran == [[1, 2, 3, 4], [5, 6, 7, 8], [9]]


def test_a_call_that_waits_for_room_leaves_at_its_deadline(engine: Engine) -> None:
    with engine.scheduler.call() as a, engine.scheduler.call(timeout_s=3.0) as b:
        engine.put(a, 1, 2, 3, 4)
        engine.put(a, 5, 6, 7, 8)
        with pytest.raises(DeadlineExceeded, match="3 s"):
            engine.put(b, 9)
        assert engine.scheduler.depth == (8, 80)


def test_a_text_whose_deadline_passed_is_not_computed(engine: Engine) -> None:
    engine.takes = 10.0
    with engine.scheduler.call() as a, engine.scheduler.call(timeout_s=5.0) as b:
        engine.put(a, 1, 2, 3, 4)
        late = engine.put(b, 9)
        engine.turn()
        while engine.jobs:
            engine.turn()
    with pytest.raises(DeadlineExceeded, match="10 s"):
        late.result(0)
    assert engine.ran == [[1, 2, 3, 4]]


def test_a_caller_who_left_is_not_computed(engine: Engine) -> None:
    with engine.scheduler.call() as a:
        stays = engine.put(a, 1)
        with engine.scheduler.call() as b:
            left = engine.put(b, 2)
        cancelled = engine.put(a, 3)
        cancelled.cancel()
        engine.turn()
        assert engine.ran == [[1]]
        assert stays.result(0).tolist() == [[1.0]]
        with pytest.raises(CancelledError):
            left.result(0)
    assert engine.scheduler.depth == (0, 0)


def test_an_error_reaches_only_the_caller_whose_text_it_is_of(engine: Engine) -> None:
    engine.error[2] = RuntimeError("no memory for text 2")
    with engine.scheduler.call() as a, engine.scheduler.call() as b, engine.scheduler.call() as c:
        futures = [engine.put(a, 1), engine.put(b, 2), engine.put(c, 3)]
        engine.turn()
        assert futures[0].result(0).tolist() == [[1.0]]
        assert futures[2].result(0).tolist() == [[3.0]]
        with pytest.raises(RuntimeError, match="no memory for text 2"):
            futures[1].result(0)
        assert engine.passes[0].failed
        after = engine.put(a, 4)
        engine.turn()
    assert after.result(0).tolist() == [[4.0]]


def test_numbers_that_cannot_be_taken_keep_nobody_waiting(engine: Engine) -> None:
    def fail(done: Pass) -> None:
        raise ZeroDivisionError

    engine.scheduler = Scheduler(engine.jobs.append, clock=engine.clock, observe=fail)
    with engine.scheduler.call() as a:
        futures = [engine.put(a, 1, 2, 3, 4), engine.put(a, 5)]
        for _ in futures:
            with pytest.raises(ZeroDivisionError):
                engine.turn()
    assert [len(future.result(0)) for future in futures] == [4, 1]


def test_a_thread_that_takes_no_more_jobs_is_told_to_who_waits() -> None:
    def refuse(job: Callable[[], None]) -> None:
        raise RuntimeError("shutting down")

    engine = Engine()
    engine.scheduler = Scheduler(refuse, clock=engine.clock)
    with engine.scheduler.call() as call, pytest.raises(RuntimeError, match="shutting down"):
        engine.put(call, 1)
    assert engine.scheduler.depth == (0, 0)


@contextmanager
def closing(engine: Engine, *, drain: bool) -> Iterator[threading.Thread]:
    """A scheduler that another thread closes; it has, when all calls have ended."""
    done = threading.Thread(target=engine.scheduler.close, kwargs={"drain": drain})
    done.start()
    while not engine.scheduler._closed:
        pass
    yield done
    done.join(30)
    assert not done.is_alive()


@pytest.mark.parametrize("drain", [True, False])
def test_closing_computes_what_waits_or_refuses_it(drain: bool) -> None:
    engine = Engine()
    with ExitStack() as ends, engine.scheduler.call() as a:
        future = engine.put(a, 1)
        ends.enter_context(closing(engine, drain=drain))
        engine.turn()
        if drain:
            assert future.result(0).tolist() == [[1.0]]
        else:
            with pytest.raises(SchedulerClosed, match="no more texts"):
                future.result(0)
            with pytest.raises(SchedulerClosed, match="no more texts"):
                engine.put(a, 2)


def test_a_call_under_way_goes_on_to_its_end_while_it_is_closed_and_no_other_begins() -> None:
    engine = Engine()
    with ExitStack() as ends, engine.scheduler.call() as a:
        first = engine.put(a, 1)
        done = ends.enter_context(closing(engine, drain=True))
        engine.turn()
        assert first.result(0).tolist() == [[1.0]]
        second = engine.put(a, 2)
        engine.turn()
        assert second.result(0).tolist() == [[2.0]]
        assert done.is_alive()
        with pytest.raises(SchedulerClosed, match="no more texts"), engine.scheduler.call():
            pass


def test_a_call_that_is_computed_elsewhere_holds_up_nobody_but_the_end() -> None:
    engine = Engine()
    with ExitStack() as ends, engine.scheduler.call() as a:
        with engine.scheduler.call(elsewhere=True):
            futures = [engine.put(a, 1), engine.put(a, 2)]
            engine.takes = 0.0
            for _ in list(engine.jobs):
                engine.turn()
            engine.put(a, 3)
            engine.turn()
            assert engine.clock.time == 100.0, "a pass waited for texts that do not come"
            done = ends.enter_context(closing(engine, drain=True))
            assert done.is_alive()
        assert [future.result(0).tolist() for future in futures] == [[[1.0]], [[2.0]]]


def test_who_has_an_answer_finds_its_pass_counted() -> None:
    engine = Engine()
    with engine.scheduler.call() as call:
        future, seen = engine.put(call, 1), list[int]()
        future.add_done_callback(lambda _: seen.append(len(engine.passes)))
        engine.turn()
    assert seen == [1]


def test_64_threads_with_cancellations_and_failures_get_each_its_own_vectors_once() -> None:
    """Real threads and time; every call is answered exactly once."""
    jobs: Any = queue.SimpleQueue()
    scheduler = Scheduler(jobs.put)
    answers: dict[int, list[str]] = {}
    lock = threading.Lock()

    def run(rows: list[Any]) -> Any:
        if any(int(row[0]) % 97 == 0 for row in rows):
            raise RuntimeError("injected")
        return np.array([[row[0], len(row)] for row in rows], dtype=np.float32)

    def work() -> None:
        while (job := jobs.get()) is not None:
            job()

    def caller(seed: int) -> None:
        chance = random.Random(seed)
        for turn in range(30):
            name = seed * 1000 + turn
            ids = [name * 4 + each for each in range(chance.randint(1, 3))]
            rows = [np.full(chance.randint(1, 30), each, dtype=np.int32) for each in ids]
            limits = Limits(max_texts=40, max_tokens=2000, policy=chance.choice(["wait", "fail_fast"]), linger_s=0.001)
            with scheduler.call(timeout_s=chance.choice([30.0, 30.0, 0.002])) as call:
                try:
                    work = Work(
                        key=chance.choice("ab"),
                        kind=chance.choice(["query", "document"]),
                        rows=rows,
                        tokens=sum(map(len, rows)),
                        run=run,
                        most_texts=16,
                        most_tokens=300,
                    )
                    future = call.put(work, limits)
                    if chance.random() < 0.1:
                        answer = "left"  # the call ends, and takes what waits along
                    else:
                        found = call.result(future)
                        assert found.tolist() == [[each, len(row)] for each, row in zip(ids, rows, strict=True)]
                        answer = "vectors"
                except QueueFull:
                    answer = "refused"
                except DeadlineExceeded:
                    answer = "late"
                except RuntimeError as error:
                    answer = f"failed: {error}" if any(each % 97 == 0 for each in ids) else "failed without a reason"
            with lock:
                answers.setdefault(name, []).append(answer)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    callers = [threading.Thread(target=caller, args=(seed,), daemon=True) for seed in range(64)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(120)
    assert not any(thread.is_alive() for thread in callers)
    scheduler.close(drain=True)
    jobs.put(None)
    assert len(answers) == 64 * 30
    assert all(len(each) == 1 for each in answers.values())
    kinds = {each for [each] in answers.values()}
    assert {"vectors", "left", "failed: injected"} <= kinds
    assert kinds <= {"vectors", "left", "late", "refused", "failed: injected"}
    assert scheduler.depth == (0, 0)
