from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import chromadb
import pytest
from chromadb.api import ClientAPI
from chromadb.config import Settings


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration and no journal of this machine reaches a test; vectors are mock ones of 8 dimensions."""
    for variable in [variable for variable in os.environ if variable.startswith("CHROMA_MLX_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    monkeypatch.setenv("CHROMA_MLX_DIMENSION", "8")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientAPI]:
    client = chromadb.PersistentClient(tmp_path / "data", settings=Settings(anonymized_telemetry=False))
    yield client
    client.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder of sources."""
    folder = tmp_path / "sources"
    folder.mkdir()
    return folder
