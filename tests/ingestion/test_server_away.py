"""A Chroma server that goes away in the middle and comes back: the run goes on by itself, and nothing is lost."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import chromadb
import httpx
import pytest
from chromadb.config import Settings
from chromadb.errors import InternalError, InvalidArgumentError
from ingested import contents

from chroma_mlx import IngestResult, MockEmbeddingFunction, ingest
from chroma_mlx.errors import DatabaseUnreachable, DeadlineExceeded, EngineError, IngestStopped, RemoteError
from chroma_mlx.ingestion.retry import Retry

TEXTS = [f"Text {number} of many." for number in range(600)]


class Server:
    """A real `chroma run` on a port that it keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/api/v2/heartbeat").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise RuntimeError("chroma run gave no heartbeat")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def test_a_server_that_is_killed_and_started_again_in_the_middle_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.FIRST_PASSAGES", 20)
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.DOCUMENTS_A_BLOCK", 20)
    monkeypatch.setattr("chroma_mlx.ingestion.preparing.BATCH_S", 0.001)
    server, half, results = Server(tmp_path / "served"), threading.Event(), list[IngestResult]()
    server.start()
    try:
        client = chromadb.HttpClient("127.0.0.1", server.port, settings=Settings(anonymized_telemetry=False))
        back = threading.Event()

        def texts() -> Any:
            for number, text in enumerate(TEXTS):
                if number == len(TEXTS) // 2:
                    half.set()
                    back.wait(60)
                yield text

        def run() -> None:
            options: dict[str, Any] = {"client": client, "embedding_function": MockEmbeddingFunction(8)}
            results.append(ingest(texts(), "notes", retry_seconds=60, **options))

        running = threading.Thread(target=run)
        with caplog.at_level(logging.WARNING, logger="chroma_mlx.ingestion"):
            running.start()
            assert half.wait(60)
            server.kill()
            back.set()
            deadline = time.monotonic() + 60
            while not caplog.records and time.monotonic() < deadline:  # it is noticed
                time.sleep(0.01)
            server.start()
            running.join(60)
        [result] = results
        assert (result.added + result.updated, result.failed) == (len(TEXTS), 0)
        stored = contents(client.get_collection("notes"))
        assert {id: text for id, (text, _, _) in stored.items()} == {
            f"records:{number}": text for number, text in enumerate(TEXTS, start=1)
        }
        said = [record.getMessage() for record in caplog.records]
        assert "trying again for 60 s" in said[0]
        assert "The server answers again" in said[-1]
    finally:
        server.kill()


class Flaky:
    """Fails as told, then answers; and a clock that its pauses move."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.now, self.pauses = list(errors), 0.0, list[float]()

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return False

    def clock(self) -> float:
        return self.now


def retry(flaky: Flaky, limit_s: float, *, remote: bool = True) -> Retry:
    return Retry(limit_s, remote=remote, wait=flaky.wait, clock=flaky.clock)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError(""),
        InternalError("busy"),
        Exception("502 Bad Gateway"),
        DatabaseUnreachable("x"),
    ],
)
def test_what_may_pass_is_tried_again_after_growing_pauses(error: Exception) -> None:
    flaky = Flaky(*[error] * 4)
    assert retry(flaky, 300).call(flaky) == "answer"
    assert flaky.pauses == [0.25, 0.5, 1.0, 2.0]


def test_what_does_not_pass_within_the_limit_ends_it_with_the_reason() -> None:
    flaky = Flaky(*[httpx.ConnectError("refused")] * 100)
    with pytest.raises(IngestStopped, match=r"\(ConnectError: refused\), and was waited for 5 s\."):
        retry(flaky, 5).call(flaky)
    assert sum(flaky.pauses) == 5


@pytest.mark.parametrize(
    ("error", "remote"),
    [
        (InternalError("disk I/O error"), False),
        (InvalidArgumentError("width"), True),
        (OSError("full"), True),
    ],
)
def test_what_will_not_pass_ends_it_at_once(error: Exception, remote: bool) -> None:
    flaky = Flaky(error)
    with pytest.raises(IngestStopped, match="run the same ingest again: it goes on from there") as stopped:
        retry(flaky, 300, remote=remote).call(flaky)
    assert flaky.pauses == []
    assert stopped.value.__cause__ is error


@pytest.mark.parametrize("error", [RemoteError("away", may_pass=True), DeadlineExceeded(waited_s=60)])
def test_an_embedding_server_that_is_away_or_busy_is_waited_for_and_then_named(error: Exception) -> None:
    flaky = Flaky(error)
    assert retry(flaky, 300, remote=False).call(flaky) == "answer"
    flaky = Flaky(*[error] * 100)
    with pytest.raises(type(error), match=r"away|time was up after 60 s"):
        retry(flaky, 5, remote=False).call(flaky)
    assert sum(flaky.pauses) == 5


@pytest.mark.parametrize("error", [EngineError("no vector"), KeyError("x"), RemoteError("wrong key x", may_pass=False)])
def test_what_is_no_failure_of_the_database_is_left_as_it_is(error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error), match=r"no vector|x") as found:
        retry(flaky, 300).call(flaky)
    assert found.value is error
    assert flaky.pauses == []
