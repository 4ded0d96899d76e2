"""Chroma's client for a local database or a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import ConfigError


def open_client(
    *,
    path: Path | None,
    host: str | None,
    port: int = 8000,
    ssl: bool = False,
    tenant: str | None = None,
    database: str | None = None,
    token_variable: str | None = None,
) -> Any:
    """A client of the database in `path`, which is made if there is none, or of the server at `host`.

    `token_variable` is the environment variable with the token that the server asks for. Raises ConfigError where
    it is not set, or the server does not answer.
    """
    import chromadb
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False)
    where = {name: value for name, value in (("tenant", tenant), ("database", database)) if value is not None}
    if path is not None:
        # Absolute: Chroma takes two clients of one path for the same, whatever the working folder was.
        return chromadb.PersistentClient(path.absolute(), settings=settings, **where)
    headers = {}
    if token_variable is not None:
        token = os.environ.get(token_variable, "").strip()
        if not token:
            raise ConfigError(f"The environment variable {token_variable}, which is to hold the token, is not set.")
        headers = {"x-chroma-token": token, "authorization": f"Bearer {token}"}
    try:
        return chromadb.HttpClient(str(host), port, ssl=ssl, headers=headers, settings=settings, **where)
    except ValueError as error:  # Chroma's, for a server that does not answer or does not know who asks
        raise ConfigError(
            f"The Chroma server at {host}:{port} does not answer as one: {error} Start it with `chroma run`, or set "
            "--host and --port to where it is."
        ) from error
