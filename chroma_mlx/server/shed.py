"""What is to be refused is refused at once: a server with more to do than it can spends next to nothing on the rest."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from ..engine.awaited import is_delivering
from ..engine.encoder import counts
from ..errors import QueueFull
from .bodies import EmbedBody, OpenAIBody, is_json
from .gate import Gate, Headers, Refusal
from .heads import BoundedProtocol
from .problems import explain
from .service import EmbeddingService

# While it refuses, the server looks at its connections only so often, and deals with all that came meanwhile in one go.
# One by one, each request would take a core from the engine, and what the engine works on out of that core's cache:
# without it, a server that is asked twice what it can do answers 7 % less (2 cores).
REST_SECONDS: Final = 0.001

log: Final = logging.getLogger("chroma_mlx.server")

Body = EmbedBody | OpenAIBody
BODIES: Final[Mapping[bytes, type[Body]]] = {b"/embed": EmbedBody, b"/v1/embeddings": OpenAIBody}


class Shed:
    """Answers the requests that a full queue refuses, without the way through the application."""

    def __init__(self, gate: Gate, service: EmbeddingService) -> None:
        self._gate, self._service = gate, service
        self._resting = False

    @property
    def needed(self) -> bool:
        """Whether a queue is full, and the server goes on."""
        try:
            return self._service.crowded and not self._service.stopping
        except Exception:  # which the application meets too, and says
            return False

    def refusal(self, path: bytes, headers: Headers, body: bytes, started: float) -> Refusal | None:
        """What is answered to a POST that came whole at `started`, which is counted and logged hereby.

        None where a queue has room for it, or where something else is wrong with it, which is the route's to say.
        """
        try:
            return self._refusal(path, headers, body, started)
        except Exception as error:  # the protocol would take it for a fault of the request
            log.error("request failed", exc_info=error)
            return None

    def _refusal(self, path: bytes, headers: Headers, body: bytes, started: float) -> Refusal | None:
        if len(body) > self._service.limits.body_bytes:
            return None
        request = self._gate.request("POST", path.decode(), headers, started)
        if self._gate.refusal(request) is not None or not is_json(request.headers.get("content-type", "")):
            return None
        try:
            asked = BODIES[path].model_validate_json(body)
        except ValidationError:
            return None
        if (full := self._full(asked)) is None:
            return None
        counts.add_error(full)
        refusal = Refusal.of(explain(full), request)
        self._gate.record(request, refusal.status)
        return replace(refusal, headers=[*refusal.headers, request.stamp])

    def rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has the loop rest once when it has done what is to be done now, unless answers wait to be sent."""
        if not self._resting:
            self._resting = True
            loop.call_soon(self._rest, loop)

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        self._resting = False
        if not is_delivering(loop):
            time.sleep(REST_SECONDS)

    def _full(self, asked: Body) -> QueueFull | None:
        texts = asked.texts if isinstance(asked, EmbedBody) else asked.texts()
        return None if len(texts) > self._service.limits.texts else self._service.refusal(asked.model, asked.kind)


class SheddingProtocol(BoundedProtocol):
    """Asks `shed` first while that is needed.

    A request is held back no longer than the bytes that came with its head are read: one whose body comes later goes
    the usual way, on which it is refused too while the queue is full, and so does one that has to wait for an answer
    before it. What comes behind an answer that closes the connection is not heard.
    """

    def __init__(self, *arguments: Any, shed: Shed, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.asked = False  # whether the head of a request came, ever
        self._shed = shed
        self._held: bytearray | None = None  # the body of a request that no application knows of
        self._started = 0.0

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        if self._held is not None and not self.transport.is_closing():
            self._hand_over()

    def on_head(self) -> None:
        """See BoundedProtocol."""
        self.asked = True
        if self.url in BODIES and self._shed.needed and self._is_plain():
            self._held, self._started = bytearray(), time.perf_counter()
        else:
            self._pass_on()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if self._held is not None:
            self._held += body
        else:
            super().on_body(body)

    def on_whole(self) -> None:
        """See BoundedProtocol."""
        if self._held is not None:
            refusal = self._shed.refusal(self.url, self.headers, bytes(self._held), self._started)
            if refusal is not None:
                self._held = None
                self._answer(refusal)
                return
            self._hand_over()
        super().on_whole()

    @property
    def _is_answered(self) -> bool:
        """See BoundedProtocol."""
        return self._held is None and super()._is_answered

    def _is_plain(self) -> bool:
        """Whether a request can be answered at once, and by itself."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )

    def _hand_over(self) -> None:
        """To the application."""
        held, self._held = bytes(self._held or b""), None
        self._pass_on()
        if held:
            super().on_body(held)

    def _pass_on(self) -> None:
        """The head, to the application."""
        self._unset_keepalive_if_required()  # set by the answer before it, in the same piece of data
        super().on_head()

    def _answer(self, refusal: Refusal) -> None:
        self.write(refusal, keep=self.parser.should_keep_alive())
        self.on_response_complete()
        self._shed.rest(self.loop)
