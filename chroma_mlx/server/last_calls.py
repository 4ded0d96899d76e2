"""Who is at the door when the server is told to stop: connections that nobody accepted yet, or that did not ask yet."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

# A connection that is there, and has not asked yet, has so long to. Its client may be far away.
ASK_SECONDS: Final = 1.0
# How often it is looked at whether all have.
LOOK_SECONDS: Final = 0.01


def accept_waiting(listening: Iterable[socket.socket]) -> list[socket.socket]:
    """The connections that the system has made and nobody accepted: closing the listening socket would reset them."""
    found: list[socket.socket] = []
    for door in listening:
        door.setblocking(False)
        while True:
            try:
                connection, _ = door.accept()
            except ConnectionAbortedError:  # its client left meanwhile
                continue
            except OSError:  # there are no more, or this process may have no more files
                break
            connection.setblocking(False)
            found.append(connection)
    return found


async def serve_accepted(connections: Iterable[socket.socket], protocol: Callable[[], asyncio.Protocol]) -> None:
    """Serves connections by a protocol each, as if the event loop had accepted them."""
    loop = asyncio.get_running_loop()
    for connection in connections:
        try:
            await loop.connect_accepted_socket(protocol, connection)
        except OSError:  # its client left meanwhile
            connection.close()


async def await_requests(connections: Collection[Any], given_up: Callable[[], bool]) -> None:
    """Waits until every connection of uvicorn's has sent the head of a first request, for ASK_SECONDS at most."""
    loop = asyncio.get_running_loop()
    until = loop.time() + ASK_SECONDS
    while True:
        await asyncio.sleep(LOOK_SECONDS)  # in which what has come is read
        # One of another protocol than HTTP has asked for that.
        silent = any(not getattr(connection, "asked", True) for connection in connections)
        if not silent or given_up() or loop.time() >= until:
            return
