"""The head of a request: how large it may be and how long it may take, and what is said to what is no request."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .gate import Gate, Refusal
from .problems import Problem

# A head that has begun has so long to come.
HEAD_SECONDS: Final = 30.0
# Names, values and the target, of a whole head; one that is not whole may have as much again as one read takes.
HEAD_BYTES: Final = 64 * 2**10
# What is read of a body that was answered already, such as one without the key.
ANSWERED_BYTES: Final = 16 * 2**20
# Requests that wait on a connection for the answers before theirs.
PIPELINED: Final = 16

TOO_LARGE: Final = Problem(
    status=431, code="head_too_large", message=f"The head or trailer of the request is larger than {HEAD_BYTES} bytes."
)
TOO_LATE: Final = Problem(
    status=408, code="head_timeout", message=f"The head of the request did not come within {HEAD_SECONDS:.0f} seconds."
)
NO_REQUEST: Final = Problem(status=400, code="invalid_http", message="This is no request of HTTP/1.1.")


class BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's, but a head is bounded in bytes and seconds, and whatever is wrong with one is answered as by a route.

    A connection that does not ask, or takes next to nothing of its answer, is closed after the seconds for which one is
    kept between two requests. A request to switch to another protocol is answered as if it were none, which a server
    may do (https://www.rfc-editor.org/rfc/rfc9110#section-7.8): Java's client, for one, first asks for HTTP/2.
    """

    def __init__(self, *arguments: Any, gate: Gate, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._gate = gate
        self._in_head = self._in_body = self._is_new = self._deaf = False
        # Of a head since the data it began in; of a body since it was answered, before that since its last byte.
        self._bytes = 0
        self._patience: asyncio.TimerHandle | None = None
        self._untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` is called for every byte that is not taken
        self._wait(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._wait(None)
        self._watch(None)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._watch(None)
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._bytes += len(data)
        self._feed(data)
        if self.transport.is_closing() or self._deaf:
            return
        if self._is_new:  # a head that began with this data, and is not whole
            self._is_new = False
            self._wait(HEAD_SECONDS)
        elif self._in_head or (self._in_body and not self._is_answered):
            if self._bytes > HEAD_BYTES:
                self.refuse(TOO_LARGE)
        elif not self._is_answering:
            if self._in_body and self._bytes > ANSWERED_BYTES:
                self.transport.close()
            # Data that begins nothing ended uvicorn's own wait for the next head.
            elif self._patience is None and self.timeout_keep_alive_task is None:
                self._wait(self.timeout_keep_alive)

    def _feed(self, data: bytes) -> None:
        """Has the parser read data, and a head that asks for another protocol once more, without that."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.transport.is_closing() or self._deaf:
                    return
                if self.parser.get_method() == b"CONNECT":  # to a tunnel, whatever its head says
                    self.refuse(NO_REQUEST)
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                with suppress(AttributeError):  # before httptools 0.6.3; as uvicorn does
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserError:
                self.refuse(NO_REQUEST)
                return

    def _head_without_upgrade(self) -> bytes:
        """The head that came last, which the parser has found to be one."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b: %b\r\n" % each for each in self.headers if each[0] != b"upgrade"]
        return b"".join([self.parser.get_method(), b" ", self.url, b" HTTP/", version, b"\r\n", *lines, b"\r\n"])

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._in_head = self._is_new = True
        self._bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        if self._in_head:  # behind a body nobody reads them
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head = self._is_new = False
        self._wait(None)
        if self.transport.is_closing() or self._deaf:
            return
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self.refuse(TOO_LARGE)
        elif len(self.pipeline) >= PIPELINED:
            self._hear_no_more()
        elif not self.parser.should_upgrade():
            self.on_head()
            self._in_body = True
            self._bytes = 0

    def on_head(self) -> None:
        """The head is whole."""
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if not self._is_answered:
            self._bytes = 0
        if self._in_body and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        if self._in_body:
            if not self.transport.is_closing():
                self.on_whole()
            self._in_body = False

    def on_whole(self) -> None:
        """A request is whole."""
        super().on_message_complete()

    def refuse(self, problem: Problem) -> None:
        """Answers what is no request, or not a whole one, counts and logs it, and closes the connection.

        Behind requests that are under way it is no longer heard of: their answers come first, and are the last. (Of one
        that waits among them, the body never comes.) What was answered before it was whole gets no second answer.
        """
        if self.transport.is_closing() or self._deaf:
            return
        if self._is_answered:
            self.transport.close()
            return
        if self._is_answering and (not self._in_body or self.pipeline):
            self._hear_no_more()
            return
        path = getattr(self, "url", b"").decode("latin-1")
        asked = self._gate.request("", path, getattr(self, "headers", None) or [], time.perf_counter())
        refusal = Refusal.of(problem, asked)
        if not self._is_answering:  # else the request whose body it is is recorded
            self._gate.record(asked, refusal.status)
        self.write(refusal, asked.stamp, keep=False)

    def _hear_no_more(self) -> None:
        """What came before is answered, and then the connection closed."""
        self._deaf, self.cycle.keep_alive = True, False

    def write(self, refusal: Refusal, *more: tuple[bytes, bytes], keep: bool) -> None:
        """Sends an answer that no application makes, and closes the connection unless it is to be kept."""
        status = HTTPStatus(refusal.status)
        headers = [*self.server_state.default_headers, *refusal.headers, *more]
        lines = [b"%b: %b\r\n" % header for header in (headers if keep else [*headers, (b"connection", b"close")])]
        head = b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())
        self.transport.write(b"".join([head, *lines, b"\r\n", refusal.body]))
        if not keep:
            self.transport.close()

    @property
    def _is_answering(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_answered(self) -> bool:
        """Whether what comes is the rest of a request that has its answer, or the beginning of one."""
        return self._in_body and (not self._is_answering or self.cycle.response_started)

    def _wait(self, seconds: float | None) -> None:
        """For the next head, so long from now, or not at all."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._patience = None
        if self._in_head:
            self.refuse(TOO_LATE)
        elif not self._is_answering:
            self.transport.close()

    def _watch(self, left: int | None) -> None:
        """Over bytes that are left to be sent; None where there are none."""
        if self._untaken is not None:
            self._untaken.cancel()
        self._untaken = None if left is None else self.loop.call_later(self.timeout_keep_alive, self._look, left)

    def _look(self, before: int) -> None:
        """Whether a client took any of its answer meanwhile; closing alone would wait for it for ever.

        The system asks for more when a third of its own buffer is free, some hundred kilobytes.
        """
        left = self.transport.get_write_buffer_size()
        if left < before:
            self._watch(left)
        else:
            self.transport.abort()
