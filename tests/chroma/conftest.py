from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import chromadb
import httpx
import pytest
from chromadb.api import AsyncClientAPI, ClientAPI
from processes import environment, quiet

from chroma_mlx import MLXEmbeddingFunction

START_S = 60.0


@pytest.fixture(scope="session")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real `chroma run`."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    chroma = Path(sys.executable).parent / "chroma"
    command = [str(chroma), "run", "--path", str(folder / "data"), "--host", "127.0.0.1", "--port", str(free)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment(), cwd=folder)
        try:
            await_heartbeat(server, free, folder / "log")
            yield free
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def await_heartbeat(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)  # not listening yet
    raise RuntimeError(f"chroma run gave no heartbeat:\n{log.read_text(errors='replace')}")


@pytest.fixture(params=["ephemeral", "persistent", "http"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> ClientAPI:
    if request.param == "ephemeral":
        return chromadb.EphemeralClient(settings=quiet())
    if request.param == "persistent":
        return chromadb.PersistentClient(tmp_path / "data", settings=quiet())
    return chromadb.HttpClient("127.0.0.1", request.getfixturevalue("port"), settings=quiet())


@pytest.fixture
def local_client() -> ClientAPI:
    """For what does not depend on the client. Such clients share their data within a process."""
    return chromadb.EphemeralClient(settings=quiet())


@pytest.fixture
async def async_client(port: int) -> AsyncClientAPI:
    return await chromadb.AsyncHttpClient("127.0.0.1", port, settings=quiet())


@pytest.fixture
def name() -> str:
    """A collection name that no other test has."""
    return f"collection-{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def function() -> MLXEmbeddingFunction:
    return MLXEmbeddingFunction("builtin")
