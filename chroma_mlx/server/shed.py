"""What is to be refused is refused at once: a server with more to do than it can spends nothing on the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..engine.encoder import counts
from ..errors import QueueFull
from .bodies import EmbedBody, OpenAIBody, is_json
from .gate import respond
from .problems import explain
from .service import EmbeddingService

Body = EmbedBody | OpenAIBody
BODIES: Final[Mapping[str, type[Body]]] = {"/embed": EmbedBody, "/v1/embeddings": OpenAIBody}


class Shed:
    """ASGI middleware. While a queue is full it reads bodies itself, and answers those that would be refused for it.

    A refusal takes a tenth of the time that it takes on its way through the routes. What else may be wrong with a
    request is the route's to say.
    """

    def __init__(self, app: ASGIApp, *, service: EmbeddingService) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = BODIES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if model is None or not self._service.crowded or not is_json(scope["state"]["headers"].get("content-type", "")):
            await self._app(scope, receive, send)
            return
        messages, failed = await _read_all(receive)
        try:
            asked = model.model_validate_json(b"".join(message.get("body", b"") for message in messages))
        except ValidationError:
            asked = None
        if asked is not None and failed is None:
            if (refused := self._refusal(asked)) is not None:
                counts.add_error(refused)
                await respond(explain(refused), scope, send)
                return
            scope["state"]["body"] = asked
        await self._app(scope, _again(messages, failed, receive), send)

    def _refusal(self, asked: Body) -> QueueFull | None:
        texts = asked.texts if isinstance(asked, EmbedBody) else asked.texts()
        return None if len(texts) > self._service.limits.texts else self._service.refusal(asked.model, asked.kind)


async def _read_all(receive: Receive) -> tuple[list[Message], HTTPException | None]:
    """The messages of a body, and the error that it ended with: too large, or too late."""
    messages: list[Message] = []
    while not messages or messages[-1].get("more_body", False):
        try:
            messages.append(await receive())
        except HTTPException as error:
            return messages, error
    return messages, None


def _again(messages: list[Message], failed: HTTPException | None, receive: Receive) -> Receive:
    """`receive` that gives messages a second time first, and the error that they ended with."""
    left = iter(messages)

    async def again() -> Message:
        if (message := next(left, None)) is not None:
            return message
        if failed is not None:
            raise failed
        return await receive()

    return again
