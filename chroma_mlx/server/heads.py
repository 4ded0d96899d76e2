"""The head of a request: how large it may be and how long it may take, and what is said to what is no request."""

from __future__ import annotations

import asyncio
import re
import time
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .gate import Gate, Refusal
from .problems import Problem

# A head that has begun has so long to come.
HEAD_SECONDS: Final = 30.0
# Names, values and the target, of a whole head; one that is not whole may have as much again as one read takes.
HEAD_BYTES: Final = 64 * 2**10
# A client that would rather speak HTTP/2 asks for it with its first request, as Java's does, and is answered by
# HTTP/1.1 where the server does not speak of it (https://www.rfc-editor.org/rfc/rfc9110#section-7.8). The parser would
# take such a request for one without a body.
UPGRADE: Final = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)
HEAD_END: Final = b"\r\n\r\n"

TOO_LARGE: Final = Problem(
    status=431, code="head_too_large", message=f"The head of the request is larger than {HEAD_BYTES} bytes."
)
TOO_LATE: Final = Problem(
    status=408, code="head_timeout", message=f"The head of the request did not come within {HEAD_SECONDS:.0f} seconds."
)
NO_REQUEST: Final = Problem(status=400, code="invalid_http", message="This is no request of HTTP/1.1.")


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's, but a head is bounded in bytes and seconds, and whatever is wrong with one is answered as by a route.

    A connection that does not ask is closed after the seconds for which one is kept between two requests.
    """

    def __init__(self, *arguments: Any, gate: Gate, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._gate = gate
        self._in_head = self._in_body = False
        self._head_bytes = 0  # of a head that was not whole with the data it began in
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._wait(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        had_begun = self._in_head
        super().data_received(data if self._in_body else _without_upgrade(data))
        if not self._in_head or self.transport.is_closing():
            return
        if not had_begun:
            self._head_bytes = 0
            self._wait(HEAD_SECONDS)
        else:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.refuse(TOO_LARGE)

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head, self._in_body = False, True
        self._wait(None)
        if self.transport.is_closing():
            return
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self.refuse(TOO_LARGE)
        else:
            self.on_head()

    def on_head(self) -> None:
        """The head is whole."""
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See httptools."""
        self._in_body = False
        if not self.transport.is_closing():
            self.on_whole()

    def on_whole(self) -> None:
        """A request is whole."""
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if not self.transport.is_closing():
            super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """See uvicorn: the parser does not know what it was given."""
        self.refuse(NO_REQUEST)

    def refuse(self, problem: Problem) -> None:
        """Answers what is no request, or not a whole one, counts and logs it, and closes the connection."""
        path = getattr(self, "url", b"").decode("latin-1")
        asked = self._gate.request("", path, getattr(self, "headers", None) or [], time.perf_counter())
        refusal = Refusal.of(problem, asked)
        self._gate.record(asked, refusal.status)
        self.write(refusal, asked.stamp, keep=False)

    def write(self, refusal: Refusal, *more: tuple[bytes, bytes], keep: bool) -> None:
        """Sends an answer that no application makes, and closes the connection unless it is to be kept."""
        status = HTTPStatus(refusal.status)
        headers = [*self.server_state.default_headers, *refusal.headers, *more]
        lines = [b"%b: %b\r\n" % header for header in (headers if keep else [*headers, (b"connection", b"close")])]
        head = b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())
        self.transport.write(b"".join([head, *lines, b"\r\n", refusal.body]))
        if not keep:
            self.transport.close()

    def _wait(self, seconds: float | None) -> None:
        """For the next head, so long from now, or not at all."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:  # whose answer comes first
            self._wait(HEAD_SECONDS)
        elif self._in_head:
            self.refuse(TOO_LATE)
        else:
            self.transport.close()


def _without_upgrade(data: bytes) -> bytes:
    """Data that begins with a head, or a part of one, without the header in it that asks for another protocol."""
    end = data.find(HEAD_END)
    found = UPGRADE.search(data, 0, len(data) if end < 0 else end + 2)
    return data if found is None else data[: found.start()] + data[found.end() :]
