from __future__ import annotations

import os
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
from chromadb.config import Settings

from chroma_mlx import EmbeddingRouter
from chroma_mlx.router import RoutedCollection

START_S = 60.0


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of this machine or this folder reaches a test."""
    for variable in [variable for variable in os.environ if variable.startswith("CHROMA_MLX_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientAPI]:
    """Closed in the end: until then Chroma keeps four files open for every collection, deleted ones too."""
    client = chromadb.PersistentClient(tmp_path / "data", settings=Settings(anonymized_telemetry=False))
    yield client
    client.close()


@pytest.fixture
def name() -> str:
    """A collection name that no other test has."""
    return f"collection-{uuid.uuid4().hex}"


@pytest.fixture
def mock() -> EmbeddingRouter:
    """Mode mock, vectors of 8 dimensions."""
    return EmbeddingRouter(mode="mock", dimension=8)


@pytest.fixture
def collection(client: ClientAPI, name: str, mock: EmbeddingRouter) -> RoutedCollection:
    """Empty, in mode mock, 8 dimensions."""
    return mock.collection(client, name)


@pytest.fixture(scope="session")
def router_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real `chroma run`."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    chroma = Path(sys.executable).parent / "chroma"
    command = [str(chroma), "run", "--path", str(folder / "data"), "--host", "127.0.0.1", "--port", str(free)]
    environment = {**os.environ, "ANONYMIZED_TELEMETRY": "False"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)
        try:
            await_server(server, free, folder / "log")
            yield free
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def await_server(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/api/v2/heartbeat", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.05)  # not listening yet
    raise RuntimeError(f"chroma run gave no heartbeat:\n{log.read_text(errors='replace')}")


@pytest.fixture
async def async_client(router_port: int) -> AsyncClientAPI:
    return await chromadb.AsyncHttpClient("127.0.0.1", router_port, settings=Settings(anonymized_telemetry=False))
