"""What is to be refused is refused at once: a server with more to do than it can spends nothing on the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .bodies import EmbedBody, OpenAIBody
from .gate import respond
from .problems import explain
from .service import EmbeddingService

BODIES: Final[Mapping[str, type[EmbedBody | OpenAIBody]]] = {"/embed": EmbedBody, "/v1/embeddings": OpenAIBody}


class Shed:
    """ASGI middleware. While a queue is full it reads bodies itself, and answers those that would be refused anyway.

    A refusal takes a tenth of the time that it takes on its way through the routes.
    """

    def __init__(self, app: ASGIApp, *, service: EmbeddingService) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = BODIES.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if model is None or not self._service.crowded:
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        more = True
        while more:
            try:
                messages.append(await receive())
            except HTTPException as error:  # too large, or too late: the application says so in the route's form
                messages.append({"type": "error", "error": error})
            more = messages[-1].get("more_body", False)
        body = b"".join(message.get("body", b"") for message in messages)
        try:
            asked = model.model_validate_json(body)
        except ValidationError:  # the route says what is wrong with it
            asked = None
        refused = asked and self._service.refusal(asked.model, asked.kind)
        if refused:
            await respond(explain(refused), scope, send)
        else:
            await self._app(scope, _again(messages, receive), send)


def _again(messages: list[Message], receive: Receive) -> Receive:
    """`receive` that gives messages a second time first."""
    left = iter(messages)

    async def again() -> Message:
        message = next(left, None)
        if message is None:
            return await receive()
        if message["type"] == "error":
            raise message["error"]
        return message

    return again
