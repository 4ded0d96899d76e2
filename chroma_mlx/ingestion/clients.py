"""Chroma's client for a local database or a server."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Chroma server, and as whom it is asked."""

    host: str
    port: int = 8000
    ssl: bool = False
    tenant: str | None = None
    database: str | None = None
    token: str | None = field(default=None, repr=False)

    def open(self) -> Any:
        """A client of it. Raises ConfigError where it does not answer."""
        import chromadb
        from chromadb.config import Settings

        places = {"tenant": self.tenant, "database": self.database}
        where = {name: value for name, value in places.items() if value is not None}
        headers = {}
        if self.token is not None:
            headers = {"x-chroma-token": self.token, "authorization": f"Bearer {self.token}"}
        settings = Settings(anonymized_telemetry=False)
        try:
            return chromadb.HttpClient(self.host, self.port, ssl=self.ssl, headers=headers, settings=settings, **where)
        except ValueError as error:  # Chroma's, for a server that does not answer or does not know who asks
            raise ConfigError(
                f"The Chroma server at {self.host}:{self.port} does not answer as one: {error} Start it with "
                "`chroma run`, or set --host and --port to where it is."
            ) from error


def open_client(
    *,
    path: Path | None,
    host: str | None,
    port: int = 8000,
    ssl: bool = False,
    tenant: str | None = None,
    database: str | None = None,
    token_variable: str | None = None,
    create: bool = True,
) -> Any:
    """A client of the database in `path`, which `create` allows to make, or of the server at `host`.

    `token_variable` is the environment variable with the token that the server asks for. Raises ConfigError where
    it is not set, there is no database, or the server does not answer.
    """
    if path is not None and not create and not path.is_dir():
        raise ConfigError(f"There is no database {str(path)!r}. Name the folder of one that is there.")

    where = {name: value for name, value in (("tenant", tenant), ("database", database)) if value is not None}
    if path is not None:
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        # Absolute: Chroma takes two clients of one path for the same, whatever the working folder was.
        return chromadb.PersistentClient(path.absolute(), settings=settings, **where)
    token = None if token_variable is None else read_token(token_variable)
    return Server(host=str(host), port=port, ssl=ssl, token=token, **where).open()


def read_token(variable: str) -> str:
    """What an environment variable holds. Raises ConfigError where it is not set."""
    token = os.environ.get(variable, "").strip()
    if not token:
        raise ConfigError(f"The environment variable {variable}, which is to hold the token, is not set.")
    return token
