"""A pytest plugin with the fixture `chroma_mlx_mock`: an application's tests without a model.

It is installed as the module `pytest_chroma_mlx` of its own, since pytest imports its plugins at every
start, and a module below `chroma_mlx` would bring Chroma with it, which takes a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chroma_mlx import EmbeddingRouter


@pytest.fixture
def chroma_mlx_mock(monkeypatch: pytest.MonkeyPatch) -> EmbeddingRouter:
    """Mode "mock" for whatever reads its configuration during the test, and a router in it.

    It sets CHROMA_MLX_MODE, which stands above every configuration file. The vectors are as wide as those of
    the configured model, need no model and no download, and are the same everywhere.
    """
    from chroma_mlx import EmbeddingRouter

    monkeypatch.setenv("CHROMA_MLX_MODE", "mock")
    return EmbeddingRouter()
