"""Before and behind every HTTP request: its id, the key, the size of its body, the log line and the numbers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import SchedulerClosed
from .problems import Problem, explain

log: Final = logging.getLogger("chroma_mlx.server")
# What probes ask, which hold no key.
OPEN_PATHS: Final = frozenset({"/health", "/ready"})
# A client's own request id is taken where it can be printed.
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# A client whose whole body takes longer is not waited for.
BODY_SECONDS: Final = 30.0

# A problem's message, and its field, are no longer, however much of what the client sent they repeat.
SAID_CHARACTERS: Final = 1000

R = TypeVar("R")
Headers = Sequence[tuple[bytes, bytes]]
Observe = Callable[[str, int, float], None]
NO_KEY: Final = Problem(
    status=401,
    code="invalid_api_key",
    message="The key is missing or wrong. Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
)

WRONG_HOST: Final = Problem(
    status=403,
    code="host_not_allowed",
    message="Without a key the server answers only where it is asked by this machine's own names, such as localhost.",
)


def is_host(given: str, hosts: Collection[str]) -> bool:
    """Whether a Host header names one of `hosts`, or nothing. A page that a browser took from elsewhere names that."""
    name = given.partition("]")[0].removeprefix("[") if given.startswith("[") else given.partition(":")[0]
    return not name or name.lower() in hosts


def has_key(headers: Mapping[str, str], key: str | None) -> bool:
    """Whether headers, or the metadata of a gRPC call, hold the key; None asks for none."""
    if key is None:
        return True
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    # Takes the same time wherever the first difference is.
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode())


def headers_of(headers: Headers) -> dict[str, str]:
    """The headers of a request by their names in lower case; of several of a name the first."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(headers)}


def request_id_of(headers: Mapping[str, str]) -> str:
    """The client's own id of the request, or a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Asked:
    """The head of a request, when it came (time.perf_counter), and what its log line says besides, which grows."""

    method: str
    path: str
    headers: Mapping[str, str]
    id: str
    started: float
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def stamp(self) -> tuple[bytes, bytes]:
        """The header that its answer has, whatever it is."""
        return b"x-request-id", self.id.encode()


class Gate:
    """ASGI middleware. `observe` is called with the route, the status and the seconds of every request.

    routes: the paths that there are, a parameter in braces at the end; `hosts` the names that the server is asked by,
    None for any. HEAD, which load balancers ask by, is GET to the routes; who serves ASGI leaves out the body.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        body_bytes: int,
        observe: Observe,
        routes: Collection[str],
        hosts: Collection[str] | None,
        stopping: Callable[[], bool],
    ) -> None:
        self._app, self._key, self._body_bytes, self._observe, self._routes = app, api_key, body_bytes, observe, routes
        self._hosts, self._stopping = hosts, stopping
        self._open_ended = {route.partition("{")[0]: route for route in routes if "{" in route}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = self.request(scope["method"], scope["path"], scope["headers"], time.perf_counter())
        status, whole = 0, False
        scope.setdefault("state", {})["asked"] = asked

        async def answer(message: Message) -> None:
            nonlocal status, whole
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status = message["status"]
                # An answer that closes its connection says so: the next request would be lost.
                close = [(b"connection", b"close")] if self._stopping() else []
                message["headers"] = [*message["headers"], asked.stamp, *close]
            await send(message)

        try:
            if (problem := self.refusal(asked)) is not None:
                await respond(problem, asked, answer)
            else:
                plain = {**scope, "method": "GET"} if asked.method == "HEAD" else scope
                await self._app(plain, self._bounded(receive), answer)
        except asyncio.CancelledError:
            # It is stopping, and does not wait any longer. Uvicorn would say that it failed, in no API's form.
            if status or not self._stopping():
                raise
            await respond(explain(SchedulerClosed()), asked, answer)
        except Exception as error:  # what nobody foresaw: the client learns that it happened, the log how
            log.error("request failed", exc_info=error, extra={"fields": {"request_id": asked.id}})
            if not status:
                await respond(explain(error), asked, answer)
            elif not whole:  # who has half an answer learns by its end
                raise
        finally:
            self.record(asked, status)

    def request(self, method: str, path: str, headers: Headers, started: float) -> Asked:
        """A request by its head."""
        named = headers_of(headers)
        return Asked(method, path, named, request_id_of(named), started)

    def record(self, asked: Asked, status: int) -> None:
        """Counts a request that was answered, and logs it."""
        seconds, route = time.perf_counter() - asked.started, self._route_of(asked.path)
        self._observe(route, status, seconds)
        fields = {"request_id": asked.id, "method": asked.method, "route": route, "status": status}
        fields |= {"milliseconds": round(seconds * 1000, 2), **asked.about}
        log.info("request", extra={"fields": fields})

    def _route_of(self, path: str) -> str:
        """The route of a path. What is none's may be anything, and each would be a series of its own."""
        if path in self._routes:
            return path
        return next((route for start, route in self._open_ended.items() if path.startswith(start)), "unknown")

    def refusal(self, asked: Asked) -> Problem | None:
        """What keeps a request out by its head, whatever is in it."""
        path, headers = asked.path, asked.headers
        if path not in OPEN_PATHS and not has_key(headers, self._key):
            return NO_KEY
        if self._hosts is not None and path not in OPEN_PATHS and not is_host(headers.get("host", ""), self._hosts):
            return WRONG_HOST
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length.lstrip("0") or 0) > self._body_bytes:  # of any number of zeros
            return self._too_large()
        return None

    def _too_large(self) -> Problem:
        return Problem(
            status=413, code="request_too_large", message=f"The body is larger than {self._body_bytes} bytes."
        )

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` that gives up on a body that is too large, or does not come."""
        got, whole, until = 0, False, 0.0

        async def bounded() -> Message:
            nonlocal got, whole, until
            if whole:  # the next message is that the client is gone, some time
                return await receive()
            until = until or asyncio.get_running_loop().time() + BODY_SECONDS
            try:
                message = await _at_last(receive(), until)
            except asyncio.TimeoutError:
                raise HTTPException(408, f"The body did not come within {BODY_SECONDS:.0f} seconds.") from None
            got += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if got > self._body_bytes:
                raise HTTPException(413, self._too_large().message)
            return message

        return bounded


async def _at_last(coming: Awaitable[R], until: float) -> R:
    """As asyncio.wait_for, without a task of its own: that would take longer than the rest of the gate."""
    task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # this runs in one
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_at(until, give_up)
    try:
        return await coming
    except asyncio.CancelledError:
        if not late or was_cancelled_besides(task):
            raise
        raise asyncio.TimeoutError from None
    finally:
        timer.cancel()


def was_cancelled_besides(task: asyncio.Task[Any]) -> bool:
    """Whether somebody else cancelled a task that one cancelled oneself, who has heard of it hereby."""
    return sys.version_info >= (3, 11) and task.uncancel() > 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A problem as it is sent: in the form of the route's API."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @classmethod
    def of(cls, problem: Problem, asked: Asked) -> Refusal:
        """What a request is told of a problem."""
        problem = problem_of_route(problem, asked.path)
        body = orjson.dumps(problem_body(problem, asked.path, asked.id))
        headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
        if problem.status == 401:
            headers["www-authenticate"] = "Bearer"
        return cls(problem.status, [(key.encode(), value.encode()) for key, value in headers.items()], body)


async def respond(problem: Problem, asked: Asked, send: Send) -> None:
    """Sends a problem."""
    refusal = Refusal.of(problem, asked)
    await send({"type": "http.response.start", "status": refusal.status, "headers": refusal.headers})
    await send({"type": "http.response.body", "body": refusal.body})


def problem_of_route(problem: Problem, path: str) -> Problem:
    """OpenAI's own API knows 429 for overload, which its clients retry, and 400 for what is not valid."""
    if not path.startswith("/v1/"):
        return problem
    status = {422: 400}.get(problem.status, problem.status)
    return replace(problem, status=429 if problem.code == "overloaded" else status)


def problem_body(problem: Problem, path: str, request_id: str) -> dict[str, Any]:
    """OpenAI's error object below /v1, and elsewhere the problem itself."""
    message, place = problem.message[:SAID_CHARACTERS], problem.field and problem.field[:SAID_CHARACTERS]
    if not path.startswith("/v1/"):
        return {"code": problem.code, "message": message, "field": place, "request_id": request_id}
    kinds = {401: "authentication_error", 429: "rate_limit_error", 404: "invalid_request_error"}
    kind = kinds.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": place, "code": problem.code}}


class JSONLines(logging.Formatter):
    """A line of JSON a record: time, level, what happened, and its fields. Never a text that was embedded."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()
