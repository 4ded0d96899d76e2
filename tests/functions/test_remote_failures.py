"""Which failures of an embedding server may pass by themselves, so that an ingest tries again, and which may not."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from chroma_mlx import RemoteEmbeddingFunction
from chroma_mlx.errors import ChromaMLXError, ConfigError, DeadlineExceeded, InputError, RemoteError
from chroma_mlx.ingestion.retry import Retry


@dataclass(frozen=True)
class Answer:
    """What the server answers each request. Status 0 hangs up without a word; `after_s` is when."""

    status: int
    code: str = "internal"
    where: str | None = None
    html: bool = False
    space: str | None = None
    after_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        said: dict[str, Any] = {"code": self.code, "message": "so it is", "field": self.where}
        if self.space is not None:
            said = {"embeddings": [[0.6, 0.8]], "dimension": 2, "space": self.space}
        return b"<html>so it is</html>" if self.html else json.dumps(said).encode()


MAY_PASS = {
    "500": (Answer(500), RemoteError),
    "500 of another program": (Answer(500, html=True), RemoteError),
    "502 of a proxy": (Answer(502, html=True), RemoteError),
    "504 of a proxy": (Answer(504, html=True), RemoteError),
    "503 without its model": (Answer(503, "model_unavailable"), RemoteError),
    "503 busy": (Answer(503, "overloaded", headers={"retry-after": "60"}), DeadlineExceeded),
    "503 of a proxy": (Answer(503, html=True), DeadlineExceeded),
    "429": (Answer(429, "rate_limited", headers={"retry-after": "60"}), DeadlineExceeded),
    "no answer in time": (Answer(200, after_s=0.4), DeadlineExceeded),
    "connection lost": (Answer(0), RemoteError),
}
STAYS = {
    "400": (Answer(400, "bad_request"), ConfigError),
    "401": (Answer(401, "unauthorized"), RemoteError),
    "403": (Answer(403, "forbidden"), RemoteError),
    "404": (Answer(404, "not_found"), RemoteError),
    "404 of another program": (Answer(404, html=True), RemoteError),
    "405": (Answer(405, "method_not_allowed"), RemoteError),
    "413 of one text": (Answer(413, "request_too_large", "texts"), InputError),
    "415": (Answer(415, "unsupported_media_type"), RemoteError),
    "422 of a text": (Answer(422, "invalid", "texts[0]"), InputError),
    "422 of a setting": (Answer(422, "invalid", "dimension"), ConfigError),
    "a redirection": (Answer(307, html=True, headers={"location": "/elsewhere"}), RemoteError),
    "200 of another program": (Answer(200, html=True), RemoteError),
    "other vectors than before": (Answer(200, space="cd34"), RemoteError),
}
TABLE = [(name, *row, True) for name, row in MAY_PASS.items()] + [(name, *row, False) for name, row in STAYS.items()]


class Served(ThreadingHTTPServer):
    """An embedding server that always answers the same."""

    daemon_threads = True
    answer = Answer(500)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Served

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        answer = self.server.answer
        time.sleep(answer.after_s)
        if answer.status:
            self.send_response(answer.status)
            for name, value in {"content-length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # whoever asked may be gone
                self.wfile.write(answer.body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def failure(url: str) -> tuple[ChromaMLXError, int]:
    """(what an ingest is told that waits no longer, how often it tried)."""
    tries = []
    function = RemoteEmbeddingFunction("builtin", url=url, space="ab12", timeout_s=0.2)

    def embed() -> None:
        tries.append(1)
        function(["a"])

    with pytest.raises(ChromaMLXError, match=r"so it is|server|time was up") as raised:
        Retry(0.0, remote=False, wait=lambda seconds: False).call(embed)
    return raised.value, len(tries)


@pytest.mark.parametrize(("answer", "kind", "passes"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_may_pass_is_tried_again_and_nothing_else_is(
    served: Served, answer: Answer, kind: type[ChromaMLXError], passes: bool
) -> None:
    served.answer = answer
    error, tries = failure(served.url)
    assert (type(error), tries) == (kind, 2 if passes else 1), error
    assert getattr(error, "may_pass", passes) is passes


def test_a_server_that_is_not_there_is_tried_again() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    error, tries = failure(f"http://127.0.0.1:{port}")
    assert (type(error), tries, getattr(error, "may_pass", None)) == (RemoteError, 2, True)
