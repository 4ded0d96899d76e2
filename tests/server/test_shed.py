"""A server whose queue is full refuses in the protocol, before its application hears of a request."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from served import options

from chroma_mlx import EmbeddingConfig, MLXEmbeddingFunction
from chroma_mlx.engine.encoder import scheduler
from chroma_mlx.engine.mlx_thread import mlx_thread
from chroma_mlx.engine.stats import take_stats
from chroma_mlx.server import run, shed
from chroma_mlx.server.app import App, make_app
from chroma_mlx.server.numbers import RequestNumbers
from chroma_mlx.server.service import EmbeddingService

QUERY = b'{"texts": ["a"], "kind": "query"}'
DOCUMENT = b'{"texts": ["a"]}'


def request(body: bytes = QUERY, path: str = "/embed", version: str = "1.1", **headers: str) -> bytes:
    """A POST as it is sent."""
    given = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST {path} HTTP/{version}", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def in_a_chunk(body: bytes) -> bytes:
    head = request(b"", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@dataclass
class Crowded:
    """A server whose engine stands still until `go_on`, with a query in the only place there is for one."""

    port: int
    app: App
    seen: list[str]  # the paths that the application was asked for
    go_on: threading.Event
    server: uvicorn.Server

    async def answers(self, *parts: bytes, count: int = 1) -> list[tuple[int, dict[str, str], Any]]:
        """What is answered on one connection to bytes that are sent one part after another."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.05)
            return [await read_answer(reader) for _ in range(count)]
        finally:
            writer.close()

    async def answer(self, *parts: bytes) -> tuple[int, dict[str, str], Any]:
        """The one answer."""
        return (await self.answers(*parts))[0]


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    status, *lines = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).decode().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 30)
    return int(status.split()[1]), headers, json.loads(body)


@asynccontextmanager
async def serving(**others: Any) -> AsyncIterator[Crowded]:
    MLXEmbeddingFunction("builtin").load()
    given = options(configs=(EmbeddingConfig(model_name="builtin", max_queue=1),), **others)
    service, seen, go_on = EmbeddingService(given), list[str](), threading.Event()
    app = make_app(given, service, RequestNumbers())

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await app(scope, receive, send)

    server = run._Server(run._config(watched, app.gate, service), service, None)
    standing = mlx_thread.submit(go_on.wait)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        crowded = Crowded(listening.getsockname()[1], app, seen, go_on, server)
        first = asyncio.ensure_future(crowded.answer(request(x_api_key="key")))
        try:
            while scheduler.depth[0] < 1:
                await asyncio.sleep(0.01)
            seen.clear()
            yield crowded
        finally:
            go_on.set()
            assert (await first)[0] == 200
            await asyncio.wrap_future(standing)
            server.should_exit = True
            await asyncio.wait_for(serving, 30)


async def test_it_is_refused_before_the_application(caplog: pytest.LogCaptureFixture) -> None:
    before = take_stats().errors.get("QueueFull", 0)
    async with serving() as crowded:
        caplog.set_level(logging.INFO, "chroma_mlx.server")
        status, headers, body = await crowded.answer(request(x_request_id="mine"))
        assert crowded.seen == []
    assert (status, body["code"], body["request_id"], headers["x-request-id"]) == (503, "overloaded", "mine", "mine")
    assert headers["content-type"] == "application/json"
    assert int(headers["retry-after"]) >= 1
    assert int(headers["retry-after-ms"]) >= 1
    assert "queue_policy" not in body["message"], "which a client cannot set"
    assert "date" in headers
    assert "connection" not in headers
    assert take_stats().errors["QueueFull"] == before + 1
    [line] = [record for record in caplog.records if getattr(record, "fields", {}).get("request_id") == "mine"]
    assert {name: line.fields[name] for name in ("method", "route", "status")} == {  # type: ignore[attr-defined]
        "method": "POST",
        "route": "/embed",
        "status": 503,
    }


async def test_it_is_the_answer_of_the_application() -> None:
    """Of the same status, headers and body as where it goes the usual way, which a part that comes later makes it."""
    async with serving() as crowded:
        for body, path in ((QUERY, "/embed"), (b'{"input": "a", "model": "builtin:query"}', "/v1/embeddings")):
            whole = request(body, path, x_request_id="mine")
            early = await crowded.answer(whole)
            assert crowded.seen == []
            late = await crowded.answer(whole[:-3], whole[-3:])
            assert crowded.seen.pop() == path
            assert {**early[1], "date": ""} == {**late[1], "date": ""}
            assert (early[0], early[2]) == (late[0], late[2])


async def test_a_connection_is_kept_and_closed_as_asked() -> None:
    async with serving() as crowded:
        kept = await crowded.answers(request() * 3, count=3)
        assert [status for status, _, _ in kept] == [503] * 3
        apart = await crowded.answers(request(), request(), count=2)
        assert [status for status, _, _ in apart] == [503] * 2
        assert crowded.seen == []
        reader, writer = await asyncio.open_connection("127.0.0.1", crowded.port)
        writer.write(request(connection="close"))
        status, headers, _ = await read_answer(reader)
        assert (status, headers["connection"], await reader.read()) == (503, "close", b"")
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b'{"texts": ["a"], "kind": "query"'), 422),
        (request(b'{"texts": ["a"], "kind": "query", "model": "other"}'), 404),
        (request(content_type="text/plain"), 415),
        (request(host="evil.example"), 403),
        (request(b'{"texts": ["' + b"a" * 300_000 + b'"], "kind": "query"}'), 413),
        (request(b'{"texts": ["a", "b", "c", "d"], "kind": "query"}'), 413),
        (in_a_chunk(b'{"texts": ["' + b"a" * 150_000 + b'"], "kind": "query"}'), 413),
        (request(path="/other"), 404),
        (request(path="/embed?x=1"), 503),
        (request(version="1.0"), 503),
        (request(b""), 422),
        (request(QUERY[:-1]), 422),
    ],
)
async def test_what_else_is_wrong_is_said_by_the_application(sent: bytes, status: int) -> None:
    async with serving(body_bytes=100_000, texts=3) as crowded:
        assert (await crowded.answer(sent))[0] == status
        assert len(crowded.seen) == 1


async def test_a_body_in_chunks_is_refused_too() -> None:
    async with serving() as crowded:
        assert (await crowded.answer(in_a_chunk(QUERY)))[0] == 503
        assert crowded.seen == []


async def test_nothing_is_heard_behind_what_closes_the_connection() -> None:
    async with serving() as crowded:
        reader, writer = await asyncio.open_connection("127.0.0.1", crowded.port)
        writer.write(request(connection="close") + request(DOCUMENT) * 2)
        assert (await read_answer(reader))[0] == 503
        assert await reader.read() == b""
        writer.close()
        assert crowded.seen == []
        assert scheduler.depth[0] == 1


async def test_a_fault_of_its_own_is_logged_and_the_application_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise ZeroDivisionError

    async with serving() as crowded:
        monkeypatch.setattr(shed, "explain", fails)
        assert (await crowded.answer(request()))[0] == 503
        assert crowded.seen == ["/embed"]
        assert "ZeroDivisionError" in caplog.text
        monkeypatch.setattr(EmbeddingService, "crowded", property(fails))
        assert (await crowded.answer(request()))[0] == 503


async def test_a_request_that_goes_on_is_not_closed_by_the_pause_before_it() -> None:
    """Behind a refusal, in the same piece of data, the time that a connection may be silent does not run on."""
    async with serving() as crowded:
        crowded.server.config.timeout_keep_alive = 0.5  # of the connections to come
        waiting = asyncio.ensure_future(crowded.answers(request() + request(DOCUMENT), count=2))
        while scheduler.depth[0] < 2 and not waiting.done():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)
        crowded.go_on.set()
        assert [status for status, _, _ in await waiting] == [503, 200]


async def test_a_connection_is_kept_behind_the_answer_whenever_the_body_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "IDLE_SECONDS", 1.0)
    async with serving() as crowded:
        reader, writer = await asyncio.open_connection("127.0.0.1", crowded.port)
        whole = request(DOCUMENT)  # for which there is room
        writer.write(whole[:-3])
        await asyncio.sleep(0.05)
        writer.write(whole[-3:])
        await asyncio.sleep(0.7)
        crowded.go_on.set()
        assert (await read_answer(reader))[0] == 200
        await asyncio.sleep(0.5)
        writer.write(whole)
        assert (await read_answer(reader))[0] == 200
        writer.close()


async def test_a_web_socket_is_a_request_like_any_other() -> None:
    async with serving() as crowded:
        asked = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        assert (await crowded.answer(asked))[0] == 200


async def test_without_the_key_nobody_learns_that_it_is_full() -> None:
    async with serving(api_key="key") as crowded:
        assert (await crowded.answer(request()))[0] == 401
        assert (await crowded.answer(request(x_api_key="other")))[0] == 401
        assert crowded.seen == ["/embed"] * 2
        assert (await crowded.answer(request(authorization="Bearer key")))[0] == 503
        assert crowded.seen == ["/embed"] * 2


async def test_what_there_is_room_for_goes_on() -> None:
    async with serving() as crowded:
        waiting = asyncio.ensure_future(crowded.answers(request(DOCUMENT) + request(), count=2))
        while scheduler.depth[0] < 2:
            await asyncio.sleep(0.01)
        # Behind an answer that is awaited it has to wait, too.
        assert crowded.seen == ["/embed"]
        assert (await crowded.answer(request(DOCUMENT)))[0] == 503
        crowded.go_on.set()
        assert [status for status, _, _ in await waiting] == [200, 200]


async def test_a_client_that_waits_for_100_continue_is_told() -> None:
    async with serving() as crowded:
        reader, writer = await asyncio.open_connection("127.0.0.1", crowded.port)
        whole = request(expect="100-continue")
        writer.write(whole[: -len(QUERY)])
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(QUERY)
        assert (await read_answer(reader))[0] == 503
        writer.close()


async def test_it_rests_once_behind_all_that_came(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    async with serving() as crowded:
        monkeypatch.setattr(shed.time, "sleep", rests.append)
        assert len(await crowded.answers(request() * 5, count=5)) == 5
        assert rests == [shed.REST_SECONDS]
        await crowded.answer(request(DOCUMENT, path="/other"))
        assert rests == [shed.REST_SECONDS]


async def test_it_does_not_rest_while_answers_wait_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    async with serving() as crowded:
        monkeypatch.setattr(shed.time, "sleep", rests.append)
        monkeypatch.setattr(shed, "is_delivering", lambda loop: True)
        assert (await crowded.answer(request()))[0] == 503
        monkeypatch.setattr(shed, "is_delivering", lambda loop: False)
        assert rests == []
        assert (await crowded.answer(request()))[0] == 503
        assert rests == [shed.REST_SECONDS]


async def test_a_connection_that_was_only_refused_has_asked() -> None:
    async with serving() as crowded:
        reader, writer = await asyncio.open_connection("127.0.0.1", crowded.port)
        writer.write(request())
        await read_answer(reader)
        [connection] = [each for each in crowded.server.server_state.connections if each.cycle is None]
        assert connection.asked
        writer.close()
