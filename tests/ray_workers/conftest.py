from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import chroma_run


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration and no journal of this machine reaches a test."""
    for variable in [variable for variable in os.environ if variable.startswith(("CHROMA_MLX_", "RAY_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """That of a real `chroma run`."""
    with chroma_run(tmp_path_factory.mktemp("served")) as port:
        yield port
