"""The HTTP routes."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .. import __version__
from ..engine.encoder import Vectors
from ..errors import ChromaMLXError
from ..functions.remote import LOOPBACK
from ..metrics import CONTENT_TYPE
from . import bodies
from .gate import Asked, Gate, Refusal, was_cancelled_besides
from .numbers import RequestNumbers
from .options import ServerOptions
from .problems import CLIENT_GONE, Problem, explain
from .service import EmbeddingService

log: Final = logging.getLogger("chroma_mlx.server")
R = TypeVar("R")
B = TypeVar("B", bound=BaseModel)
# Numbers that are serialised before other requests have their turn.
BLOCK: Final = 2**18

PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": bodies.ProblemAnswer, "description": "The key is missing or wrong."},
    403: {"model": bodies.ProblemAnswer, "description": "Asked by a name that is not this machine's, without a key."},
    404: {"model": bodies.ProblemAnswer, "description": "The model is not served here."},
    408: {"model": bodies.ProblemAnswer, "description": "The body did not come."},
    413: {"model": bodies.ProblemAnswer, "description": "The body, the number of texts or a text is too large."},
    415: {"model": bodies.ProblemAnswer, "description": "The body is not said to be JSON."},
    422: {"model": bodies.ProblemAnswer, "description": "The field that is named is not valid."},
    503: {"model": bodies.ProblemAnswer, "description": "Overloaded, or stopping: see Retry-After."},
    504: {"model": bodies.ProblemAnswer, "description": "The request was not answered in time."},
}
OPENAI_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": bodies.OpenAIProblemAnswer, "description": text}
    for status, text in (
        (400, "Not valid: `param` says what."),
        (401, "The key is missing or wrong."),
        (403, "Asked by a name that is not this machine's, without a key."),
        (404, "The model is not served here."),
        (408, "The body did not come."),
        (413, "The body, the number of texts or a text is too large."),
        (415, "The body is not said to be JSON."),
        (429, "Overloaded: see Retry-After."),
        (503, "The model is not to be had, or the server is stopping."),
        (504, "The request was not answered in time."),
    )
}


Endpoint = Callable[[Request], Awaitable[Response]]
# What the routes answer with words of their own, and not as a failure of the server.
ANSWERED: Final = (ChromaMLXError, HTTPException, RequestValidationError)
HTTP_CODES: Final[dict[int, str]] = {
    404: "not_found",
    405: "method_not_allowed",
    408: "body_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
}


class App(FastAPI):
    """FastAPI, behind the gate.

    The two routes that embed are served before FastAPI, which describes them, and is the way to all others: what it
    does for a request takes longer than all that is done here for one of a text.
    """

    gate: Gate  # make_app's

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.direct: dict[str, Endpoint] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self.gate(scope, receive, send)

    async def to_route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Behind the gate: to the route of a path."""
        endpoint = self.direct.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if endpoint is None:
            await super().__call__(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except ANSWERED as error:
            response = await _answer_to(request, error)
        await response(scope, receive, send)


def make_app(
    options: ServerOptions, service: EmbeddingService | None = None, numbers: RequestNumbers | None = None
) -> App:
    """The application. Its models are loaded by `service.load()`, or by the first request."""
    service = service or EmbeddingService(options)
    numbers = numbers or RequestNumbers()

    app = App(
        title="chroma-mlx",
        version=__version__,
        description="Local embeddings by MLX: the native API, and OpenAI's.",
        redirect_slashes=False,  # by the name that the server was asked by, which behind a proxy is another's
    )
    app.state.service = service
    _add_native(app, service)
    _add_openai(app, service)
    _add_state(app, service, numbers)
    for kind in (*ANSWERED, Exception):
        app.add_exception_handler(kind, _answer_to)
    app.gate = Gate(
        app.to_route,
        api_key=options.api_key,
        body_bytes=options.limits.body_bytes,
        observe=numbers.observe,
        stopping=lambda: service.stopping,
        # A web page could have its own name lead here, and would be let in as if it were this machine's.
        hosts=None if options.api_key or options.insecure else LOOPBACK | {options.host},
        routes=frozenset(route.path_format for route in app.routes if isinstance(route, Route)),
    )
    return app


def _add_native(app: App, service: EmbeddingService) -> None:
    async def embed(request: Request) -> Response:
        """A vector for each text."""
        body = await _read(request, bodies.EmbedBody)
        answer = await _unless_gone(
            request,
            service.embed(
                body.texts,
                model=body.model,
                kind=body.kind,
                pooling=body.pooling,
                normalize=body.normalize,
                dimension=body.dimension,
            ),
        )
        request.state.asked.about.update(texts=len(body.texts), tokens=answer.tokens, model=answer.model)
        rest = {
            "dimension": answer.dimension,
            "model": answer.model,
            "space": answer.space,
            "usage": {"tokens": answer.tokens, "milliseconds": round(answer.milliseconds, 3)},
        }
        return await _in_blocks(b'{"embeddings":[', answer.vectors, lambda first, rows: rows, rest)

    _add_direct(app, "/embed", embed, takes=bodies.EmbedBody, gives=bodies.EmbedAnswer, problems=PROBLEMS)

    @app.get("/models", response_model=list[bodies.ModelAnswer], responses={401: PROBLEMS[401]})
    async def models() -> list[dict[str, Any]]:
        """The models that are served."""
        return service.models()


def _add_openai(app: App, service: EmbeddingService) -> None:
    async def embeddings(request: Request) -> Response:
        """As OpenAI's route."""
        body = await _read(request, bodies.OpenAIBody)
        texts = body.texts()
        answer = await _unless_gone(
            request, service.embed(texts, model=body.model, kind=body.kind, dimension=body.dimensions)
        )
        request.state.asked.about.update(texts=len(texts), tokens=answer.tokens, model=answer.model)

        def data(first: int, rows: Vectors) -> list[dict[str, Any]]:
            each: Any = rows
            if body.encoding_format == "base64":
                each = [base64.b64encode(row.tobytes()).decode("ascii") for row in rows.astype("<f4")]
            return [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(each, first)]

        usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
        rest = {"model": answer.model, "usage": usage}
        return await _in_blocks(b'{"object":"list","data":[', answer.vectors, data, rest)

    _add_direct(
        app, "/v1/embeddings", embeddings, takes=bodies.OpenAIBody, gives=bodies.OpenAIAnswer, problems=OPENAI_PROBLEMS
    )

    _add_openai_models(app, service)


def _add_openai_models(app: FastAPI, service: EmbeddingService) -> None:
    def shown(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "local"}

    @app.get("/v1/models", response_model=bodies.OpenAIModels, responses={401: OPENAI_PROBLEMS[401]})
    async def models() -> dict[str, Any]:
        """The models that are served, as OpenAI lists them."""
        return {"object": "list", "data": [shown(name) for name in service.names]}

    @app.get(
        "/v1/models/{model:path}",  # a Hub repository and a folder have slashes
        response_model=bodies.OpenAIModel,
        responses={status: OPENAI_PROBLEMS[status] for status in (401, 404)},
    )
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        return shown(service.model(model)["name"])


def _add_state(app: FastAPI, service: EmbeddingService, numbers: RequestNumbers) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server is alive."""
        return {"status": "alive"}

    @app.get("/ready", responses={503: {"description": "A model is being loaded, or could not be."}})
    async def ready() -> Response:
        """Whether every model is in memory."""
        return _json({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics() -> Response:
        """The engine's and the server's numbers, for Prometheus."""
        return Response(await asyncio.to_thread(numbers.expose), media_type=CONTENT_TYPE)


async def _answer_to(request: Request, error: Exception) -> Response:
    """An error as the route's API has it, and no more of it than it should say."""
    asked: Asked = request.state.asked
    openai, headers = asked.path.startswith("/v1/"), {}
    if isinstance(error, HTTPException):
        code = HTTP_CODES.get(error.status_code, "invalid_request")
        problem = Problem(status=error.status_code, code=code, message=str(error.detail))
        headers = dict(error.headers or {})
    elif isinstance(error, RequestValidationError):
        problem = _not_valid(error, openai)
    else:
        problem = explain(error, "input" if openai else "texts")
        if openai and problem.field == "dimension":
            problem = replace(problem, field="dimensions")  # as it is called there
        if problem.status == 500 and isinstance(error, ANSWERED):  # the gate logs all others
            log.error("request failed", exc_info=error, extra={"fields": {"request_id": asked.id}})
    refusal = Refusal.of(problem, asked)
    headers |= {name.decode(): value.decode() for name, value in refusal.headers}
    return Response(refusal.body, refusal.status, headers)


def _not_valid(error: RequestValidationError, openai: bool) -> Problem:
    """Of the first fault of a body."""
    first = error.errors()[0]
    places = list(first["loc"])
    if openai:  # pydantic names the alternative of `input` behind it
        places = [place for i, place in enumerate(places) if i == 0 or isinstance(place, int)]
    field = "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places).lstrip(".")
    message = f"{field or 'The body'}: {first['msg']}." if field else f"The body is not valid: {first['msg']}."
    return Problem(status=422, code="invalid_request", message=message, field=field or None)


def _add_direct(
    app: App,
    path: str,
    endpoint: Endpoint,
    *,
    takes: type[BaseModel],
    gives: type[BaseModel],
    problems: dict[int | str, dict[str, Any]],
) -> None:
    """Adds a route for POST that is served directly, and reads its body itself: it is parsed once, by pydantic."""
    body = {"required": True, "content": {"application/json": {"schema": takes.model_json_schema()}}}
    app.router.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        response_model=gives,
        responses=problems,
        openapi_extra={"requestBody": body},
    )
    app.direct[path] = endpoint


async def _read(request: Request, model: type[B]) -> B:
    """The body. Raises RequestValidationError, and HTTPException for one that is not said to be JSON or does not come.

    A page in a browser cannot say so of what it sends elsewhere without asking, so none can use the server.
    """
    kind = request.headers.get("content-type", "")
    if not bodies.is_json(kind):
        raise HTTPException(415, f"The content type is {kind or 'missing'}, and has to be application/json.")
    try:
        return model.model_validate_json(await request.body())
    except ClientDisconnect:
        raise HTTPException(CLIENT_GONE, "The client left.") from None
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_context=False)) from None


async def _unless_gone(request: Request, work: Awaitable[R]) -> R:
    """What `work` gives; it is cancelled when the client leaves.

    It begins in this task and at once: so of requests that come together each sees what those before it left in the
    queue.
    """
    task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # this runs in one
    left = False

    async def watch() -> None:
        nonlocal left
        await _leaves(request)
        left = True
        task.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not left or was_cancelled_besides(task):
            raise
        raise HTTPException(CLIENT_GONE, "The client left.") from None
    finally:
        watching.cancel()


async def _leaves(request: Request) -> None:
    """Returns when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _in_blocks(
    head: bytes, vectors: Vectors, shown: Callable[[int, Vectors], Any], rest: dict[str, Any]
) -> Response:
    """An answer of `head`, a list of what `shown` makes of vectors and the place of the first, and the `rest`."""
    step, parts = max(1, BLOCK // vectors.shape[1]), []
    for first in range(0, len(vectors), step):
        block = shown(first, vectors[first : first + step])
        parts.append(orjson.dumps(block, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        if len(vectors) > step:
            await asyncio.sleep(0)
    body = b"".join([head, b",".join(parts), b"],", orjson.dumps(rest)[1:]])
    return Response(body, media_type="application/json")


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")
