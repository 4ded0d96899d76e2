"""`chroma-mlx serve` as a process: what it refuses to start, what it logs, how it stops."""

from __future__ import annotations

import asyncio
import json
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import cast

import httpx
import psutil
import pytest
import uvicorn
from served import Served, options, serve

from chroma_mlx.server import last_calls, run
from chroma_mlx.server.app import make_app
from chroma_mlx.server.service import EmbeddingService

LINUX = sys.platform == "linux"


def test_it_stops_when_what_is_under_way_is_answered(tmp_path: Path) -> None:
    texts = [f"text {number} " * 40 for number in range(100)]
    with serve(tmp_path) as served:
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(f"{served.url}/embed", json={"texts": texts}, timeout=120))

        asking = threading.Thread(target=ask)
        asking.start()
        deadline = time.monotonic() + 30
        while "chroma_mlx_batches_total 0" in (page := httpx.get(f"{served.url}/metrics").text):
            assert time.monotonic() < deadline, page
        assert served.stop(signal.SIGTERM) == 0
        asking.join(60)
        assert answers[0].status_code == 200
        assert len(answers[0].json()["embeddings"]) == 100
        lines = [json.loads(line) for line in served.log.read_text().splitlines()]
        [request] = [line for line in lines if line.get("route") == "/embed"]
        assert (request["status"], request["texts"]) == (200, 100)
        assert request["request_id"] == answers[0].headers["x-request-id"]
        assert "text 1 " not in served.log.read_text(), "no text is logged"


@pytest.mark.parametrize(("route", "field"), [("/embed", "texts"), ("/v1/embeddings", "input")])
def test_what_is_under_way_when_it_is_interrupted_twice_is_told_that_it_stops(
    tmp_path: Path, route: str, field: str
) -> None:
    body = {"model": "builtin", field: [f"text {number} " * 40 for number in range(100)]}  # several passes
    with serve(tmp_path) as served, ThreadPoolExecutor(1) as threads, ExitStack() as stack:
        (engine,) = psutil.Process(served.process.pid).children()
        engine.suspend()  # so that nothing is answered
        stack.callback(lambda: engine.is_running() and engine.resume())
        asked = threads.submit(httpx.post, served.url + route, json=body, timeout=120)
        deadline = time.monotonic() + 30
        while "chroma_mlx_queue_texts 0" in (page := httpx.get(f"{served.url}/metrics").text):
            assert time.monotonic() < deadline, page
        served.process.send_signal(signal.SIGINT)
        while "Shutting down" not in served.log.read_text():
            assert time.monotonic() < deadline
        served.process.send_signal(signal.SIGINT)
        answer = asked.result(60)
        assert answer.status_code == 503
        assert answer.json().get("error", answer.json())["code"] == "stopping"
        assert answer.headers["retry-after"] == "1"
        engine.resume()
        assert served.process.wait(60) == 130
        assert "Traceback" not in served.log.read_text()


def test_it_stops_in_order_where_it_was_started_without_standard_streams(tmp_path: Path) -> None:
    with serve(tmp_path, streams=False) as served:
        assert len(httpx.post(f"{served.url}/embed", json={"texts": ["a text"]}).json()["embeddings"]) == 1
        assert served.stop(signal.SIGTERM) == 0


def test_whoever_is_connected_when_it_stops_is_answered(tmp_path: Path) -> None:
    body = json.dumps({"texts": ["a text"]}).encode()
    head = f"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    request = f"{head}\r\n\r\n".encode() + body
    with serve(tmp_path) as served, ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=30))

        slow = [connect() for _ in range(20)]  # accepted, and silent until it stops
        served.process.send_signal(signal.SIGSTOP)
        waiting = [connect() for _ in range(200)]  # by the system: the server accepts none of these yet
        for connection in waiting:
            connection.sendall(request)
        served.process.send_signal(signal.SIGTERM)
        served.process.send_signal(signal.SIGCONT)
        with suppress(ConnectionRefusedError, ConnectionResetError):  # when it is about to stop, or at that moment
            while True:
                connect().close()
        for connection in slow:
            connection.sendall(request)
        for connection in waiting + slow:
            answer = HTTPResponse(connection)
            answer.begin()
            assert len(json.loads(answer.read())["embeddings"]) == 1
            assert answer.getheader("connection") == "close" or connection in waiting
            assert connection.recv(1) == b"", "it is closed in order, and not reset"
        assert served.process.wait(60) == 0


def test_connections_that_only_the_system_accepted_are_answered() -> None:
    given = options()
    service = EmbeddingService(given)
    app = make_app(given, service)
    server = run._Server(run._config(app, app.gate, service), service, None)
    server.should_exit = True  # as soon as it listens
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=run.BACKLOG))

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(listening.getsockname(), timeout=30))

        connections, silent = [connect() for _ in range(200)], connect()
        connect().close()
        for connection in connections:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        started = time.monotonic()
        asyncio.run(server.serve(sockets=[listening]))
        assert last_calls.ASK_SECONDS <= time.monotonic() - started < last_calls.ASK_SECONDS + 10
        for connection in connections:
            answer = HTTPResponse(connection)
            answer.begin()
            assert (answer.status, answer.getheader("connection")) == (200, "close")
            assert json.loads(answer.read()) == {"status": "alive"}
            assert connection.recv(1) == b""
        assert silent.recv(1) == b"", "closed in order, when it did not ask"


@pytest.mark.skipif(not LINUX, reason="prlimit(2) is Linux's")
def test_without_files_for_more_connections_it_says_so_and_goes_on(tmp_path: Path) -> None:
    with serve(tmp_path) as served, ExitStack() as stack:
        opened = psutil.Process(served.process.pid).num_fds()
        resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (opened + 5, opened + 5))
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=30)) for _ in range(12)
        ]
        while "out of system resource" not in served.log.read_text():
            time.sleep(0.05)
        for connection in connections[:9]:
            connection.close()
        connections[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connections[-1].recv(100).startswith(b"HTTP/1.1 200")
        assert served.stop() == 0
        lines = [json.loads(line) for line in served.log.read_text().splitlines()]
        said = [line for line in lines if "out of system resource" in line["event"]]
        assert 1 <= len(said) <= 10
        assert "Too many open files" in said[0]["reason"]


def test_new_connections_are_served_beside_those_that_ask_without_end(served: Served) -> None:
    """An event loop that accepts one connection in each of its rounds answers the last new one `new` rounds late."""
    callers, new, asked = 100, 80, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())

        def connect() -> None:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=30))
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(asked)

        def answered() -> Iterator[socket.socket]:
            """The connections that got the end of an answer; each asks again."""
            while True:
                for key, _ in selector.select(30):
                    connection = cast(socket.socket, key.fileobj)
                    if connection.recv(65_536).endswith(b"}"):
                        yield connection
                        connection.sendall(asked)

        for _ in range(callers):
            connect()
        answers, old = answered(), set[socket.socket]()
        while len(old) < callers:
            old.add(next(answers))
        for _ in range(new):
            connect()
        served_since, late = 0, set[socket.socket]()
        while len(late) < new:
            if (connection := next(answers)) in old:
                served_since += 1
            else:
                late.add(connection)
    assert served_since / callers < new / 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "there is no key"),
        (["--api-key-file", "missing"], "cannot be read"),
        (["--api-key-file", "empty"], "empty holds no key, which is one line of printable ASCII"),
        (["--port", "70000"], "port"),
    ],
)
def test_what_it_cannot_be_started_with_is_said(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty").write_text("\n")
    command = [sys.executable, "-m", "chroma_mlx", "serve", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.returncode in (1, 2)
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_a_port_that_is_taken_is_said(served: Served, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chroma_mlx", "serve", "--model", "builtin", "--port", str(served.port)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.returncode == 1
    assert "Address already in use" in found.stderr


def test_a_model_that_is_not_to_be_had_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chroma_mlx", "serve", "--model", str(tmp_path), "--port", "0"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert found.returncode == 1
    assert "could not be loaded" in found.stderr


def test_the_engine_is_a_process_of_its_own_and_is_started_again_when_it_dies(tmp_path: Path) -> None:
    with serve(tmp_path) as served:
        (engine,) = psutil.Process(served.process.pid).children()
        assert not LINUX or b"libmlx" not in Path(f"/proc/{served.process.pid}/maps").read_bytes()
        body = {"texts": ["a text"]}
        before = httpx.post(f"{served.url}/embed", json=body).json()["embeddings"]
        assert not LINUX or "chroma_mlx_engine_process_" in httpx.get(f"{served.url}/metrics").text
        engine.kill()
        engine.wait(10)
        assert httpx.post(f"{served.url}/embed", json=body, timeout=60).json()["embeddings"] == before
        (engine,) = psutil.Process(served.process.pid).children()
        assert served.stop() == 0
        assert not engine.is_running()


LIMITED = """
import resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), hard))
from chroma_mlx.server.run import OPEN_FILES, _allow_connections
_allow_connections()
now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
assert most == hard, "what an administrator may do was given away"
print(now >= (OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)))
"""


def test_it_lets_itself_have_more_connections_than_the_system_gives_unasked() -> None:
    command = [sys.executable, "-c", LIMITED, "256"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "True\n"


def test_a_key_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a secret\n")
    with serve(tmp_path, "--api-key-file", str(tmp_path / "key")) as served:
        assert httpx.get(f"{served.url}/models").status_code == 401
        assert httpx.get(f"{served.url}/models", headers={"x-api-key": "a secret"}).status_code == 200
        assert "a secret" not in served.log.read_text()


@pytest.mark.parametrize("asking", [False, True])
def test_it_ends_at_once_while_a_model_is_downloaded(tmp_path: Path, asking: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}", "HF_HOME": str(tmp_path / "hub")}
        with serve(tmp_path, model="Qwen/Qwen3-Embedding-0.6B", ready=False, **hub) as served:
            silent.settimeout(30)
            with silent.accept()[0]:
                answers: list[httpx.Response] = []

                def ask() -> None:
                    answers.append(httpx.post(f"{served.url}/embed", json={"texts": ["a"]}, timeout=60))

                thread = threading.Thread(target=ask)
                if asking:
                    thread.start()
                    time.sleep(0.5)
                started = time.monotonic()
                assert served.stop(signal.SIGTERM) == 0
                assert time.monotonic() - started < 10
                if asking:
                    thread.join(60)
                    assert (answers[0].status_code, answers[0].json()["code"]) == (503, "stopping")


def test_sigterm_before_it_serves_is_not_lost() -> None:
    told, server = run._Told(), uvicorn.Server(uvicorn.Config("none:none"))
    told(signal.SIGTERM, None)
    assert not server.should_exit
    told.tell(server)
    assert server.should_exit
