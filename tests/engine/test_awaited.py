"""Futures of another thread, awaited in an event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import Future
from typing import Any

import pytest

from chroma_mlx.engine.awaited import AT_ONCE, awaitable, is_delivering


def in_a_thread(job: Any) -> None:
    thread = threading.Thread(target=job)
    thread.start()
    thread.join()


async def test_those_that_are_done_together_wake_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, woken = asyncio.get_running_loop(), 0
    wake = loop.call_soon_threadsafe

    def counted(*arguments: Any, **others: Any) -> Any:
        nonlocal woken
        woken += 1
        return wake(*arguments, **others)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    for again in range(2):
        futures: list[Future[int]] = [Future() for _ in range(100)]
        waiting = [awaitable(future) for future in futures]
        in_a_thread(lambda: [future.set_result(number) for number, future in enumerate(futures)])  # noqa: B023
        assert await asyncio.gather(*waiting) == list(range(100))
        assert woken == again + 1  # the loop could do nothing in between


async def test_the_loop_does_what_else_there_is_between_them() -> None:
    loop, at_a_time, before = asyncio.get_running_loop(), [], 0
    futures: list[Future[int]] = [Future() for _ in range(5 * AT_ONCE)]
    waiting = [awaitable(future) for future in futures]
    assert not is_delivering(loop)
    in_a_thread(lambda: [future.set_result(0) for future in futures])
    while is_delivering(loop):
        await asyncio.sleep(0)
        done = sum(each.done() for each in waiting)
        at_a_time.append(done - before)
        before = done
    assert [count for count in at_a_time if count] == [AT_ONCE] * 5
    assert all(each.done() for each in waiting)


async def test_what_comes_while_they_are_passed_on_is_too() -> None:
    first, second = [Future[int]() for _ in range(3 * AT_ONCE)], Future[int]()
    waiting, last = [awaitable(future) for future in first], awaitable(second)
    in_a_thread(lambda: [future.set_result(1) for future in first])
    await waiting[0]
    in_a_thread(lambda: second.set_result(2))
    assert await asyncio.gather(*waiting) == [1] * len(first)
    assert await asyncio.wait_for(last, 30) == 2


async def test_a_result_that_is_there_already_is_given() -> None:
    future: Future[int] = Future()
    future.set_result(3)
    assert await awaitable(future) == 3


async def test_an_error_reaches_who_waits() -> None:
    future: Future[int] = Future()
    waiting = awaitable(future)
    in_a_thread(lambda: future.set_exception(KeyError("no")))
    with pytest.raises(KeyError, match="no"):
        await waiting


async def test_cancelling_goes_both_ways() -> None:
    here, there = Future[int](), Future[int]()
    waiting = awaitable(here), awaitable(there)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert here.cancelled()
    in_a_thread(there.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]


async def test_an_answer_that_comes_when_nobody_waits_is_dropped() -> None:
    future: Future[int] = Future()
    assert future.set_running_or_notify_cancel()
    waiting = awaitable(future)
    waiting.cancel()
    beside: Future[int] = Future()
    waiting_beside = awaitable(beside)
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    in_a_thread(lambda: (future.set_result(1), beside.set_result(2)))
    assert await waiting_beside == 2
    assert waiting.cancelled()
    assert failures == []


async def test_an_error_that_no_future_takes_leaves_nobody_waiting() -> None:
    futures = [Future[int](), Future[int]()]
    waiting = [awaitable(future) for future in futures]
    in_a_thread(lambda: (futures[0].set_exception(StopIteration(7)), futures[1].set_result(2)))
    with pytest.raises(RuntimeError, match=r"StopIteration\(7\)"):
        await waiting[0]
    assert await waiting[1] == 2


def test_loops_that_are_closed_are_left_alone_and_let_go(caplog: pytest.LogCaptureFixture) -> None:
    def use_one() -> weakref.ref[asyncio.AbstractEventLoop]:
        future: Future[int] = Future()
        loop = asyncio.new_event_loop()

        async def wait() -> None:
            awaitable(future)

        loop.run_until_complete(wait())
        loop.close()
        future.set_result(1)
        return weakref.ref(loop)

    first, second = use_one(), use_one()
    gc.collect()
    assert first() is None
    assert second() is not None, "until the next one comes"
    assert caplog.records == []
