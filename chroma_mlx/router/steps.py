"""One logic for Chroma's plain and its asynchronous clients.

What the router does is written as generators that yield the calls they need made and are sent the answers;
`run` makes them one after another, `run_async` awaits those of an asynchronous client and keeps what
computes off the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call:
    """A call to make: of the client or a collection, or with `computes` one that takes the processor's time.

    `awaited` is its form for an event loop, where it has one of its own.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    computes: bool = False
    awaited: Callable[..., Awaitable[Any]] | None = None


Steps: TypeAlias = Generator[Call, Any, R]


def run(steps: Steps[R]) -> R:
    """Makes the calls; returns what the steps return, raises what they raise."""
    try:
        call = next(steps)
        while True:
            try:
                answer = call.function(**call.arguments)
            except Exception as error:
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result
    finally:
        steps.close()


async def run_async(steps: Steps[R]) -> R:
    """The same for a client whose calls are awaited; computing happens in a worker thread."""
    try:
        call = next(steps)
        while True:
            try:
                if call.awaited is not None:
                    answer = await call.awaited(**call.arguments)
                elif call.computes:
                    answer = await asyncio.to_thread(call.function, **call.arguments)
                else:
                    answer = call.function(**call.arguments)
                    answer = await answer if inspect.isawaitable(answer) else answer
            except Exception as error:
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result
    finally:
        steps.close()
