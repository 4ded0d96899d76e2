"""The gRPC calls of `embedding.proto`, and the standard health checks."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ..errors import SchedulerClosed
from . import messages
from .gate import NO_KEY, Observe, has_key, request_id_of
from .options import ServerOptions
from .problems import CLIENT_GONE, Problem, explain
from .service import EmbeddingService, Kind

log: Final = logging.getLogger("chroma_mlx.server")
# Requests of one stream that are computed at the same time.
AT_ONCE: Final = 8
# A status travels as a header, which clients take up to 8 KiB of, and a character takes up to 12 bytes there.
DETAILS_CHARACTERS: Final = 500
# Calls under way at the same time, streams and what watches the health included; gRPC itself refuses more.
CALLS: Final = 1024
# A server that is stopping refuses calls for so long: gRPC itself tells those that are on their way that they were
# cancelled, which clients take for their own doing.
REFUSE_SECONDS: Final = 1.0
# What watches the health is told that it ends before its stream does.
GOODBYE_SECONDS: Final = 0.2

KINDS: Final[dict[int, Kind | None]] = {0: None, 1: "document", 2: "query"}
STATUSES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Refused(Exception):
    """A call that is not answered, for this reason."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class GRPCServer:
    """Serves the same service as the HTTP routes do. Made, and used, in their event loop.

    `observe` is called with the route, the status that HTTP has for it and the seconds of every call.
    """

    def __init__(self, options: ServerOptions, service: EmbeddingService, observe: Observe) -> None:
        self._service, self._key, self._observe = service, options.api_key, observe
        self._stopping = asyncio.Event()
        self._health = _Health(self._stopping)
        settings = [
            ("grpc.max_receive_message_length", options.limits.body_bytes),
            # Otherwise two servers may listen on one port, and each gets some of the clients.
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=settings, maximum_concurrent_rpcs=CALLS)
        # Messages pass as bytes: what is none is refused as every other fault is, and vectors are serialised fast.
        handlers = {
            "Embed": grpc.unary_unary_rpc_method_handler(self._unary("Embed", self._embed)),
            "EmbedStream": grpc.stream_stream_rpc_method_handler(self._stream),
            "ModelInfo": grpc.unary_unary_rpc_method_handler(self._unary("ModelInfo", self._model_info)),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listens, and answers that it does not serve yet; returns the port. Raises OSError where it cannot listen."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = int(self._server.add_insecure_port(address))
        except RuntimeError:
            bound = 0
        if not bound:
            raise OSError(errno.EADDRINUSE, f"gRPC cannot listen on {address}; is the address already in use?")
        await self._health.say(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        return bound

    async def loaded(self) -> None:
        """Health checks say from now on that it serves."""
        await self._health.say(health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, seconds: float) -> None:
        """Refuses calls from now on, then connections, and gives what is under way so long to end."""
        await self._health.enter_graceful_shutdown()
        self._stopping.set()
        await asyncio.sleep(min(seconds, REFUSE_SECONDS))
        await self._server.stop(max(0.0, seconds - REFUSE_SECONDS))

    async def _embed(self, data: bytes, about: dict[str, Any]) -> bytes:
        request = _parse(messages.EmbedRequest, data)
        if not request.texts:
            raise Refused(_not_valid("texts", "holds no text"))
        if request.kind not in KINDS:
            raise Refused(_not_valid("kind", f"is {request.kind}, which is none"))
        names = ("model", "pooling", "normalize", "dimension")
        given = {name: getattr(request, name) for name in names if request.HasField(name)}
        answer = await self._service.embed(list(request.texts), kind=KINDS[request.kind], **given)
        about["texts"] = about.get("texts", 0) + len(request.texts)
        about["tokens"] = about.get("tokens", 0) + answer.tokens
        about["model"] = answer.model
        usage = messages.Usage(tokens=answer.tokens, milliseconds=round(answer.milliseconds, 3))
        response = messages.EmbedResponse(
            dimension=answer.dimension, model=answer.model, usage=usage, space=answer.space
        )
        return messages.with_vectors(response, answer.vectors)

    async def _model_info(self, data: bytes, about: dict[str, Any]) -> bytes:
        request = _parse(messages.ModelInfoRequest, data)
        found = [self._service.model(request.model)] if request.HasField("model") else self._service.models()
        for model in found:
            model["is_default"] = model.pop("default")
        response = messages.ModelInfoResponse(models=[messages.Model(**model) for model in found])
        return bytes(response.SerializeToString())

    def _unary(self, name: str, work: Callable[[bytes, dict[str, Any]], Awaitable[bytes]]) -> Any:
        async def handle(data: bytes, context: Any) -> bytes:
            async with self._call(name, context) as about:
                return await work(data, about)

        return handle

    async def _stream(self, requests: Any, context: Any) -> None:
        async with self._call("EmbedStream", context) as about:
            about["requests"] = about["failed"] = 0
            under_way: deque[asyncio.Future[bytes]] = deque()
            reading: asyncio.Future[Any] | None = None
            stopping = asyncio.ensure_future(self._stopping.wait())
            more, ended = True, False
            try:
                while more or under_way:
                    if more and reading is None and len(under_way) < AT_ONCE:
                        reading = asyncio.ensure_future(context.read())
                    awaited = {*([reading] if reading else []), *([stopping] if more else []), *[*under_way][:1]}
                    await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                    if reading is not None and reading.done():
                        if (data := reading.result()) is grpc.aio.EOF:
                            more, ended = False, True
                        else:
                            under_way.append(asyncio.ensure_future(self._answer(data, about)))
                        reading = None
                    elif more and stopping.done():  # what was read is answered
                        more = False
                    while under_way and under_way[0].done():
                        await context.write(under_way.popleft().result())
                if not ended:
                    raise SchedulerClosed()
            finally:
                rest = [stopping, *([reading] if reading else []), *under_way]
                for each in rest:
                    each.cancel()
                await asyncio.gather(*rest, return_exceptions=True)

    async def _answer(self, data: bytes, about: dict[str, Any]) -> bytes:
        """The response to a request of a stream; an error is one as well."""
        about["requests"] += 1
        try:
            return await self._embed(data, about)
        except Exception as error:
            about["failed"] += 1
            problem = _explain(error, about["request_id"])
            said = messages.Error(
                code=problem.code,
                message=problem.message[:DETAILS_CHARACTERS],
                field=problem.field,
                retry_after_s=problem.retry_after_s,
            )
            return bytes(messages.EmbedResponse(error=said).SerializeToString())

    @asynccontextmanager
    async def _call(self, name: str, context: Any) -> AsyncIterator[dict[str, Any]]:
        """Around every call: its id, the key, the status of an error, the log line and the numbers."""
        started, problem, status = time.perf_counter(), None, 200
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id = request_id_of(headers)
        about: dict[str, Any] = {"request_id": request_id}
        try:
            if not has_key(headers, self._key):
                raise Refused(NO_KEY)
            if self._stopping.is_set():
                raise SchedulerClosed()
            yield about
        except asyncio.CancelledError:
            status = CLIENT_GONE
            raise
        except grpc.aio.BaseError as error:  # nobody is there to write to
            status = CLIENT_GONE
            raise asyncio.CancelledError from error
        except Exception as error:
            problem = _explain(error, request_id)
            status = problem.status
        finally:
            seconds, route = time.perf_counter() - started, f"grpc {name}"
            self._observe(route, status, seconds)
            fields = {
                "request_id": request_id,  # the first of the line
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1000, 2),
                **about,
            }
            log.info("request", extra={"fields": fields})
        trailing = [("x-request-id", request_id)]
        if problem is not None:
            code = STATUSES.get(problem.status, grpc.StatusCode.INTERNAL)
            if problem.code == "overloaded":
                code = grpc.StatusCode.RESOURCE_EXHAUSTED
            said = {"error-code": problem.code, "error-field": problem.field}
            trailing += [(key, value) for key, value in {**said, **problem.headers}.items() if value is not None]
            await context.abort(code, problem.message[:DETAILS_CHARACTERS], tuple(trailing))
        context.set_trailing_metadata(tuple(trailing))


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """The standard health checks, whose watchers do not hold up the end of the server."""

    def __init__(self, stopping: asyncio.Event) -> None:
        super().__init__()
        self._stopping = stopping

    async def say(self, status: Any) -> None:
        for name in (health.OVERALL_HEALTH, messages.SERVICE):
            await self.set(name, status)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        watching = asyncio.ensure_future(super().Watch(request, context))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({watching}, timeout=GOODBYE_SECONDS)
        finally:
            watching.cancel()
            stopping.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Refused(
            Problem(status=422, code="invalid_request", message=f"The message is no {kind.DESCRIPTOR.name}.")
        ) from None


def _not_valid(field: str, what: str) -> Problem:
    return Problem(status=422, code="invalid_request", message=f"{field} {what}.", field=field)


def _explain(error: Exception, request_id: str | None = None) -> Problem:
    """What is to be said of an error; what the client cannot be told is in the log."""
    problem = error.problem if isinstance(error, Refused) else explain(error)
    if problem.status == 500:
        log.error("request failed", exc_info=error, extra={"fields": {"request_id": request_id}})
    return problem
