"""The server as a process: it listens, loads, and stops when it is told to."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from ..engine.encoder import scheduler
from ..errors import SchedulerClosed
from .app import make_app
from .gate import Gate, JSONLines
from .grpc_routes import GRPCServer
from .last_calls import accept_waiting, await_requests, serve_accepted
from .numbers import RequestNumbers
from .options import ServerOptions
from .service import EmbeddingService
from .shed import Shed, SheddingProtocol

# What is under way when the server is told to stop has so long to end.
DRAIN_SECONDS: Final = 30
# A connection is kept so long between two requests: longer than clients do, so that none asks on one being closed.
IDLE_SECONDS: Final = 75
# Connections that wait to be accepted, and those that are accepted before others are served.
BACKLOG: Final = 2048
ACCEPTED: Final = 128
# Connections and files at once, where the system lets a process have so many; macOS gives 256 unasked.
OPEN_FILES: Final = 10_240
# Python looks for cycles among its objects whenever there are so many new ones. By its own number, some hundreds, it
# goes through all that thousands of connections hold many times a second: a fifth of the time of a server under load.
NEW_OBJECTS: Final = 50_000
# Longest that a thread keeps the interpreter while others want it.
SWITCH_SECONDS: Final = 0.0001

log: Final = logging.getLogger("chroma_mlx.server")


def run(options: ServerOptions) -> int:
    """Serves until SIGTERM, which gives 0, or SIGINT, when what is under way has been answered.

    Returns 1 where a model could not be loaded. Raises OSError where it cannot listen, KeyboardInterrupt at SIGINT.
    """
    _log_as_json_lines()
    _allow_connections()
    service, told = EmbeddingService(options), _Told()
    signal.signal(signal.SIGTERM, told)
    with _listen(options.host, options.port) as listening:
        try:
            # Threads that give the interpreter away (the MLX thread at every product, where it computes here) get it
            # back within this, and not the 5 ms that Python would let the requests of others go on for.
            sys.setswitchinterval(SWITCH_SECONDS)
            status = asyncio.run(_serve(options, listening, service, told))
        except KeyboardInterrupt:
            _end(service, 130)
            raise
        _end(service, status)
        return status


def _listen(host: str, port: int) -> socket.socket:
    """A socket that connections are made to."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # asyncio sends at once what is written only where a connection's socket says by itself that it is of TCP.
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, listening.detach())


def _end(service: EmbeddingService, status: int) -> None:
    """Waits for what computes. While a model is loaded, which nobody waits for any more, it ends the process."""
    if service.loading:
        # Python waits at its end for the threads of a download, and for what the MLX thread is at.
        logging.shutdown()
        os._exit(status)
    scheduler.close(drain=True)


class _Told:
    """Handles SIGTERM before uvicorn does, and after: it stops in order, and then sends itself the signal once more."""

    def __init__(self) -> None:
        self._stop = False
        self._server: uvicorn.Server | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._stop = True
        self._pass_on()

    def tell(self, server: uvicorn.Server) -> None:
        """From now on this server, which is told at once of what came before."""
        self._server = server
        self._pass_on()

    def _pass_on(self) -> None:
        if self._stop and self._server is not None:
            self._server.should_exit = True


async def _serve(options: ServerOptions, listening: socket.socket, service: EmbeddingService, told: _Told) -> int:
    numbers = RequestNumbers()
    (host, port), also = listening.getsockname()[:2], {}
    by_grpc = None
    if options.grpc_port is not None:
        by_grpc = GRPCServer(options, service, numbers.observe)
        also["grpc_port"] = await by_grpc.start(options.host, options.grpc_port)
    app = make_app(options, service, numbers)
    server, failed = _Server(_config(app, app.gate, service), service, by_grpc), False
    told.tell(server)

    async def load() -> None:
        await service.load()
        # Looking through all that the libraries hold takes Python 0.1 s, in which nobody is answered.
        gc.collect()
        gc.freeze()
        gc.set_threshold(NEW_OBJECTS)
        if by_grpc is not None:
            await by_grpc.loaded()

    def loaded(loading: asyncio.Future[None]) -> None:
        nonlocal failed
        if loading.cancelled() or (error := loading.exception()) is None:
            return
        if not isinstance(error, SchedulerClosed):  # it is stopping
            log.error("the model could not be loaded", extra={"fields": {"reason": str(error)}})
            failed = server.should_exit = True

    asyncio.get_running_loop().set_exception_handler(_Unhandled())
    # It answers /health and /ready meanwhile.
    loading = asyncio.ensure_future(load())
    loading.add_done_callback(loaded)
    log.info("listening", extra={"fields": {"host": host, "port": port, **also, "models": [*service.names]}})
    try:
        await server.serve(sockets=[listening])
    finally:
        if by_grpc is not None:  # where HTTP ended before it began, or at once
            await by_grpc.stop(0)
    return int(failed)


class _Unhandled:
    """Logs what the event loop meets, such as that there are no more files for connections: a line a second of each."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        what, now = str(context.get("message")), loop.time()
        if now - self._last.get(what, -1.0) >= 1.0:
            self._last[what] = now
            error = context.get("exception")
            log.error(
                what, exc_info=None if isinstance(error, OSError) else error, extra={"fields": {"reason": repr(error)}}
            )


def _config(app: ASGIApp, gate: Gate, service: EmbeddingService) -> uvicorn.Config:
    """How uvicorn serves an application that is behind the gate."""
    protocol: Any = partial(SheddingProtocol, gate=gate, shed=Shed(gate, service))
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=IDLE_SECONDS,
        proxy_headers=False,
        # There is nothing to begin and end, and what is not ended where it has to stop at once would be logged.
        lifespan="off",
        backlog=ACCEPTED,
    )


class _Server(uvicorn.Server):
    """HTTP, and gRPC beside it: they stop at the same time, and nobody waits for a model any more."""

    def __init__(self, config: uvicorn.Config, service: EmbeddingService, by_grpc: GRPCServer | None) -> None:
        super().__init__(config)
        self._service, self._by_grpc = service, by_grpc

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        await super().startup(sockets)
        for door in sockets or []:  # asyncio takes as many of them at a time as may wait
            door.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        self._service.stop()
        stopping = None if self._by_grpc is None else asyncio.ensure_future(self._by_grpc.stop(DRAIN_SECONDS))
        await self._hear_last_calls(sockets or [])
        self.servers.clear()  # some Pythons wait there for every connection, however it is to stop
        await super().shutdown(sockets)
        while stopping is not None and not stopping.done():
            if self.force_exit:  # told to stop a second time; what is left of the loop's tasks ends with it
                stopping.cancel()
            await asyncio.wait({stopping}, timeout=0.1)

    async def _hear_last_calls(self, listening: list[socket.socket]) -> None:
        """Takes no more connections; whoever has one may ask, and is told that it is closed behind the answer."""
        # Nothing in between: what the system accepts there is reset.
        accepted = accept_waiting(listening)
        for server in self.servers:
            server.close()
        await serve_accepted(accepted, self._protocol)
        await await_requests(self.server_state.connections, lambda: self.force_exit)

    def _protocol(self) -> asyncio.Protocol:
        """What uvicorn serves a connection by."""
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        return made


def _allow_connections() -> None:
    """Raises the limit of open files of this process, never lowers it: a connection beyond it would not be answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # the system has a bound of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _log_as_json_lines() -> None:
    # What no line says is not looked up (https://docs.python.org/3/howto/logging.html#optimization), in this process.
    logging._srcfile = None
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines())
    for name in ("chroma_mlx.server", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
