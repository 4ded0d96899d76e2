from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import chromadb
import pytest
from chromadb.api import ClientAPI
from chromadb.config import Settings
from servers import chroma_run

from chroma_mlx.cli import main

OpenClient = Callable[[Path], ClientAPI]


def quiet() -> Settings:
    return Settings(anonymized_telemetry=False)


@pytest.fixture
def open_client() -> Iterator[OpenClient]:
    """A client on a folder; two of one folder share their data. Closed in the end."""
    with ExitStack() as opened:
        yield lambda folder: opened.enter_context(chromadb.PersistentClient(folder, settings=quiet()))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder for the database that is looked at."""
    return tmp_path / "source"


@pytest.fixture(scope="session")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real `chroma run`."""
    with chroma_run(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must do well; returns what it printed."""

    def run(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with an explanation; returns it."""

    def run(*arguments: object) -> str:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert status == 1, printed.out
        assert "Traceback" not in printed.err
        return printed.err

    return run
