"""Servers of the built-in model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from served import Served, client_of, options, serve


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Of an application in this process."""
    async with client_of(options()) as made:
        yield made


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for tests that only ask it."""
    with serve(tmp_path_factory.mktemp("served")) as made:
        yield made
