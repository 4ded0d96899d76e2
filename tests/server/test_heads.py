"""The head of a request: bounded in bytes and seconds, and answered in the API's form whatever is wrong with it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from served import options

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.server import gate, heads, run
from chroma_mlx.server.app import make_app
from chroma_mlx.server.numbers import RequestNumbers
from chroma_mlx.server.service import EmbeddingService

BODY = b'{"texts": ["a"]}'
HEAD = b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW_BODY = json.dumps({"texts": [f"{number} " * 200 for number in range(300)]}).encode()
SLOW = HEAD + b"Content-Length: %d\r\n\r\n" % len(SLOW_BODY) + SLOW_BODY
UPGRADE = (
    HEAD
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAA\r\n"
    + b"Content-Length: %d\r\n\r\n" % len(BODY)
)
Answer = tuple[int, dict[str, str], Any]


class Client:
    """A connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: uvicorn.Server) -> None:
        self.reader, self.writer, self.server = reader, writer, server

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0.02)

    async def answer(self) -> Answer:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 30)).decode()
        status, *lines = head.split("\r\n")[:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), 30)
        return int(status.split()[1]), headers, json.loads(body)

    async def ask(self, *parts: bytes) -> Answer:
        await self.send(*parts)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Whether nothing more comes."""
        return await asyncio.wait_for(self.reader.read(), 30) == b""


@asynccontextmanager
async def connected(**others: Any) -> AsyncIterator[Client]:
    """To a server of its own."""
    MLXEmbeddingFunction("builtin").load()
    given = options(**others)
    service = EmbeddingService(given)
    app = make_app(given, service, RequestNumbers())
    server = run._Server(run._config(app, app.gate, service), service, None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)  # of its connections: what is not taken shows
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        client = Client(*await asyncio.open_connection(*listening.getsockname()), server)
        try:
            yield client
        finally:
            client.writer.close()
            server.should_exit = True
            await asyncio.wait_for(serving, 30)


async def test_a_client_that_would_rather_speak_http_2_is_answered() -> None:
    async with connected() as client:
        for parts in (
            (UPGRADE + BODY,),
            (UPGRADE, BODY),
            *((UPGRADE[:at], UPGRADE[at:] + BODY) for at in range(60, 130)),
        ):
            status, _, answer = await client.ask(*parts)
            assert status == 200
            assert len(answer["embeddings"]) == 1
        await client.send((UPGRADE + BODY) * 3)
        assert [(await client.answer())[0] for _ in range(3)] == [200] * 3
        assert (await client.ask(UPGRADE.replace(b"Upgrade: h2c", b"Upgrade: h2c\r\nUpgrade: other") + BODY))[0] == 200
        assert (await client.ask(UPGRADE.replace(b"embed", b"v1/embeddings") + BODY))[0] == 400, "no `input`"


async def test_nothing_is_taken_out_of_a_body() -> None:
    cut = b"\r\nupgrade: " + b"x" * 40
    body = b'{"texts":' + cut + b'\r\n["a"]}'
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    async with connected() as client:
        for at in range(len(head) - 6, len(head) + 1):
            await client.send(head[:at], head[at:] + body + WHOLE)
            assert [(await client.answer())[0] for _ in range(2)] == [422, 200], at


async def test_a_tunnel_is_refused() -> None:
    async with connected() as client:
        status, _, answer = await client.ask(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert (status, answer["code"]) == (400, "invalid_http")
        assert await client.is_closed()


async def test_what_looks_like_an_upgrade_in_a_body_is_left() -> None:
    text = "a\\r\\nUpgrade: h2c\\r\\n"
    bodies = (json.dumps({"texts": [text]}).encode(), b'{"texts":\r\nupgrade: no\r\n["a"]}')
    async with connected() as client:
        for body, expected in zip(bodies, (200, 422), strict=True):
            head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
            assert (await client.ask(head + body))[0] == expected
            assert (await client.ask(head, body))[0] == expected


@pytest.mark.parametrize(
    "parts",
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * heads.HEAD_BYTES, b"\r\n\r\n"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * (heads.HEAD_BYTES // 2) + b"\r\n",),
        (b"GET /health?" + b"a" * heads.HEAD_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",),
        (b"GET /health HTTP/1.1\r\nX-A: ", *[b"a" * 2**15] * 3),  # and never an end
    ],
    ids=["one header", "many headers", "the target", "no end"],
)
async def test_a_head_is_bounded(parts: tuple[bytes, ...]) -> None:
    async with connected(api_key="key") as client:
        status, headers, answer = await client.ask(*parts)
        assert (status, answer["code"]) == (431, "head_too_large")
        assert headers["connection"] == "close"
        assert headers["x-request-id"] == answer["request_id"]
        assert await client.is_closed()


async def test_a_head_that_may_be_so_large_is_read() -> None:
    padding = b"X-A: " + b"a" * (heads.HEAD_BYTES - 1024) + b"\r\n"
    async with connected() as client:
        for parts in ((WHOLE.replace(b"Host", padding + b"Host"),), (HEAD, padding, WHOLE[len(HEAD) :])):
            assert (await client.ask(*parts))[0] == 200


async def test_a_large_body_is_no_large_head() -> None:
    body = json.dumps({"texts": ["a" * 2 * heads.HEAD_BYTES]}).encode()
    async with connected() as client:
        whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        # The next head begins with the data that ends the body.
        await client.send(*[whole[start : start + 2**15] for start in range(0, len(whole), 2**15)][:-1])
        await client.send(whole[len(whole) // 2**15 * 2**15 :] + WHOLE[:20], WHOLE[20:])
        assert [(await client.answer())[0] for _ in range(2)] == [200, 200]


async def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.2)
    async with connected() as client:
        assert (await client.ask(WHOLE))[0] == 200
        started = time.monotonic()
        status, _, answer = await client.ask(b"POST /v1/embeddings HTTP/1.1\r\nHost: loc", b"alhost\r\n")
        assert time.monotonic() - started >= 0.2
        assert (status, answer["error"]["code"]) == (408, "head_timeout")
        assert await client.is_closed()


async def test_a_head_that_comes_in_time_is_answered_whatever_the_answer_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 2.0)
    async with connected() as client:
        await client.send(WHOLE[:30], WHOLE[30:])
        assert (await client.answer())[0] == 200
        await asyncio.sleep(2.2)
        assert (await client.ask(WHOLE))[0] == 200, "it is kept"


async def test_a_head_that_begins_where_another_ends_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.3)
    async with connected() as client:
        assert (await client.ask(WHOLE[:30], WHOLE[30:] + WHOLE[:30]))[0] == 200
        assert (await client.answer())[0] == 408
        assert await client.is_closed()


@pytest.mark.parametrize(
    "behind",
    [
        WHOLE[:30],
        b"FOO /\r\n\r\n",
        b"GET /?" + b"a" * heads.HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["half a head", "no method", "a large target", "a target without a path"],
)
async def test_what_is_wrong_behind_a_request_takes_nothing_of_its_answer(
    behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "HEAD_SECONDS", 0.1)
    async with connected() as client:
        await client.send(SLOW + behind, b"more")
        assert (await client.answer())[0] == 200
        assert await client.is_closed()


async def test_what_is_wrong_in_a_body_behind_a_request_is_that_request_s_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 1.0)
    async with connected() as client:
        await client.send(SLOW + CHUNKED + b"ZZ\r\n")
        assert [(await client.answer())[0] for _ in range(2)] == [200, 408]
        assert await client.is_closed()


async def test_what_is_wrong_behind_an_answer_to_half_a_request_is_not_answered_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "chroma_mlx.server")
    async with connected(api_key="key") as client:
        assert (await client.ask(CHUNKED))[0] == 401
        await client.send(b"ZZ\r\n")
        assert await client.is_closed()
    fields = [vars(record).get("fields", {}) for record in caplog.records]
    assert [each["status"] for each in fields if "status" in each] == [401]


async def test_what_waits_behind_a_request_is_bounded() -> None:
    async with connected() as client:
        await client.send(SLOW + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
        answers = [await client.answer() for _ in range(1 + heads.PIPELINED)]
        assert {status for status, _, _ in answers} == {200}
        assert [headers.get("connection") for _, headers, _ in answers] == [None] * heads.PIPELINED + ["close"]
        with suppress(ConnectionResetError):  # what was not read is lost
            assert await client.is_closed()


async def test_a_length_of_many_zeros_is_a_length() -> None:
    async with connected() as client:
        body = b"Content-Length: %b%d\r\n\r\n%b" % (b"0" * 5000, len(BODY), BODY)
        assert (await client.ask(HEAD + body))[0] == 200
        assert (await client.ask(HEAD + body.replace(b"%d" % len(BODY), b"9" * 15, 1)))[0] == 413


@asynccontextmanager
async def large_answer(client: Client) -> AsyncIterator[socket.socket]:
    """A connection that is answered more than the system holds for it."""
    body = json.dumps({"texts": [str(number) for number in range(2000)]}).encode()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, client.writer.get_extra_info("peername"))
        await loop.sock_sendall(slow, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        yield slow


async def test_a_client_that_takes_nothing_of_its_answer_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "IDLE_SECONDS", 0.5)
    async with connected() as client, large_answer(client) as slow:
        assert (await asyncio.get_running_loop().sock_recv(slow, 12)) == b"HTTP/1.1 200"
        until = time.monotonic() + 30
        while client.server.server_state.connections:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)


async def test_a_client_that_takes_its_answer_slowly_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "IDLE_SECONDS", 0.5)
    async with connected() as client, large_answer(client) as slow:
        got, loop = bytearray(), asyncio.get_running_loop()
        for _ in range(40):
            got += await loop.sock_recv(slow, 2**18)
            await asyncio.sleep(0.03)
        head, _, rest = bytes(got).partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(rest) < length:
            more = await asyncio.wait_for(loop.sock_recv(slow, 2**20), 30)
            assert more, "it was cut"
            rest += more
        assert len(json.loads(rest)["embeddings"]) == 2000


async def test_a_trailer_is_bounded() -> None:
    async with connected() as client:
        endless = [CHUNKED + b"2\r\n{}\r\n0\r\nx: ", *[b"a" * 2**15] * 3]
        status, _, answer = await client.ask(*endless)
        assert (status, answer["code"]) == (431, "head_too_large")
        assert await client.is_closed()


async def test_a_connection_that_never_asks_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "IDLE_SECONDS", 0.2)
    async with connected() as client:
        started = time.monotonic()
        assert await client.is_closed()
        assert time.monotonic() - started >= 0.1


@pytest.mark.parametrize("behind", [(b"\r\n",), (b"POST /embed HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b"{", b"}")])
async def test_a_connection_that_goes_on_without_asking_is_closed(
    behind: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "IDLE_SECONDS", 0.5)
    async with connected(api_key="key") as client:
        assert (await client.ask(WHOLE))[0] == 401
        await client.send(*behind)
        rest = await asyncio.wait_for(client.reader.read(), 30)
        assert rest.count(b"HTTP/1.1 401") == len(behind) // 2


async def test_what_is_read_of_a_body_that_was_answered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "ANSWERED_BYTES", 1000)
    async with connected(api_key="key") as client:
        chunked = HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n'
        assert (await client.ask(chunked))[0] == 401
        await client.send(b"0\r\n", b"a: b\r\n" * 100, b"a: b\r\n" * 100)
        assert await client.is_closed()


@pytest.mark.parametrize(
    "data",
    [b"FOO /embed HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"POST /embed HTTP/1.1\r\nContent-Length: a\r\n\r\n"],
)
async def test_what_is_no_request_is_told_so(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chroma_mlx.server")
    async with connected() as client:
        status, headers, answer = await client.ask(data)
        assert (status, answer["code"]) == (400, "invalid_http")
        assert headers["x-request-id"] == answer["request_id"]
        assert await client.is_closed()
    fields = [vars(record).get("fields", {}) for record in caplog.records]
    assert [each["status"] for each in fields if "status" in each] == [400]


async def test_a_path_with_a_slash_too_many_is_no_route() -> None:
    async with connected() as client:
        for path, code in ((b"/embed/", "not_found"), (b"/v1/embeddings/", None)):
            status, headers, answer = await client.ask(WHOLE.replace(b"/embed", path, 1))
            assert status == 404
            assert "location" not in headers
            assert code is None or answer["code"] == code
