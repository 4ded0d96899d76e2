from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import chromadb
import pytest
from chromadb.api import AsyncClientAPI, ClientAPI
from chromadb.config import Settings
from servers import chroma_run

from chroma_mlx import EmbeddingRouter
from chroma_mlx.router import RoutedCollection


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
    with chroma_run(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
async def async_client(router_port: int) -> AsyncClientAPI:
    return await chromadb.AsyncHttpClient("127.0.0.1", router_port, settings=Settings(anonymized_telemetry=False))
