from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import chromadb
import pytest
from chromadb.api import AsyncClientAPI, ClientAPI
from processes import quiet
from servers import chroma_run

from chroma_mlx import MLXEmbeddingFunction


@pytest.fixture(scope="session")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real `chroma run`."""
    with chroma_run(tmp_path_factory.mktemp("server")) as port:
        yield port


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
