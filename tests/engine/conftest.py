"""The file of a vector cache, and what the engine computes beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cached_vectors import Vectors

from chroma_mlx.engine.network import LocalNetwork
from chroma_mlx.engine.vector_cache import close_caches


@pytest.fixture(autouse=True)
def _files_are_closed() -> Iterator[None]:
    yield
    close_caches()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vectors.sqlite"


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of every forward pass."""
    sizes: list[int] = []
    forward = LocalNetwork.embed

    def counted(self: LocalNetwork, rows: list[Any], **options: Any) -> Vectors:
        sizes.append(len(rows))
        return forward(self, rows, **options)

    monkeypatch.setattr(LocalNetwork, "embed", counted)
    return sizes
