"""A pytest plugin with the fixture `chroma_mlx_mock`: an application's tests without a model.

It is installed as the module `pytest_chroma_mlx` of its own, since pytest imports its plugins at every
start, and a module below `chroma_mlx` would bring Chroma with it, which takes a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chroma_mlx import EmbeddingRouter


@pytest.fixture
def chroma_mlx_mock(monkeypatch: pytest.MonkeyPatch) -> EmbeddingRouter:
    """Mode "mock" for whatever reads its configuration during the test, and a router in it.

    It sets CHROMA_MLX_MODE, which stands above every configuration file, but not above an EmbeddingConfig
    that was read before. The vectors are as wide as those of the configured model, need no model and no
    download, and are the same everywhere. (An MLXEmbeddingFunction made by hand computes in every mode.)
    """
    return _mock(monkeypatch)


@pytest.fixture(scope="session")
def chroma_mlx_mock_session() -> Iterator[EmbeddingRouter]:
    """As chroma_mlx_mock, for a whole session: for fixtures of a wider scope."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield _mock(monkeypatch)


def _mock(monkeypatch: pytest.MonkeyPatch) -> EmbeddingRouter:
    from chroma_mlx import EmbeddingRouter

    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    return EmbeddingRouter()
