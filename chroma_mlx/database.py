"""A Chroma that is there: a database in a folder or a server. Looking at one makes none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import ConfigError, DatabaseUnreachable
from .rules import check_variable

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

PORT: Final = 8000
DATABASE: Final = "chroma.sqlite3"
MAGIC: Final = b"SQLite format 3\x00"
NAMES_SHOWN: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder that a database is in, or is to be; `tenant` and `database` None are Chroma's default ones."""

    path: Path
    tenant: str | None = None
    database: str | None = None

    def is_there(self) -> bool:
        """Whether it has a database. Raises DatabaseUnreachable where that cannot be seen."""
        try:
            return (self.path / DATABASE).exists()
        except OSError as error:  # a name that is too long, or a folder that may not be looked into
            raise self._not_opened(error) from error

    def open(self, *, create: bool = False) -> ClientAPI:
        """A client on the database, which only `create` makes. Raises DatabaseUnreachable."""
        import chromadb
        from chromadb.config import Settings

        try:
            if self.is_there():
                self._check_file()
            elif not create:
                raise DatabaseUnreachable(
                    f"There is no Chroma database in {str(self.path)!r} (no {DATABASE}), and looking makes none. Pass "
                    "the folder that the collections were made in."
                )
            else:
                self._check_new()
                self.path.mkdir(parents=True, exist_ok=True)
            settings, where = Settings(anonymized_telemetry=False), _given(self.tenant, self.database)
            # Absolute: Chroma takes two clients of one path for the same, whatever the working folder was.
            return chromadb.PersistentClient(self.path.absolute(), settings=settings, **where)
        except (OSError, ValueError) as error:  # a ValueError is what Chroma makes of any failure to open
            if isinstance(error, DatabaseUnreachable):
                raise
            raise self._not_opened(error) from error

    def _not_opened(self, error: Exception) -> DatabaseUnreachable:
        return DatabaseUnreachable(
            f"The Chroma database in {str(self.path)!r} cannot be opened: {error}. Pass another folder, or see to this "
            "one's rights and files."
        )

    @contextmanager
    def opened(self, *, create: bool = False) -> Iterator[ClientAPI]:
        """As `open`; closed in the end."""
        client: Any = self.open(create=create)  # Any: its type leaves out that it can be closed
        with client:
            yield client

    def _check_file(self) -> None:
        with (self.path / DATABASE).open("rb") as opened:
            if opened.read(len(MAGIC)) != MAGIC:
                raise DatabaseUnreachable(
                    f"{self.path / DATABASE} is no Chroma database, or a damaged one. Name another folder."
                )

    def _check_new(self) -> None:
        from chromadb.config import DEFAULT_DATABASE, DEFAULT_TENANT

        if (self.tenant or DEFAULT_TENANT, self.database or DEFAULT_DATABASE) != (DEFAULT_TENANT, DEFAULT_DATABASE):
            raise DatabaseUnreachable(
                f"There is no Chroma database in {str(self.path)!r}, and one that is made has Chroma's default tenant "
                "and database alone. Leave out the tenant and the database, or pass the folder that they are in."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Chroma server, and as whom it is asked; `tenant` and `database` None are Chroma's default ones."""

    host: str
    port: int = PORT
    ssl: bool = False
    tenant: str | None = None
    database: str | None = None
    token: str | None = field(default=None, repr=False)

    def open(self) -> ClientAPI:
        """A client of it. Raises DatabaseUnreachable when none answers."""
        import chromadb
        import httpx
        from chromadb.config import Settings
        from chromadb.errors import ChromaError

        headers = {}
        if self.token is not None:
            headers = {"x-chroma-token": self.token, "authorization": f"Bearer {self.token}"}
        settings, where = Settings(anonymized_telemetry=False), _given(self.tenant, self.database)
        try:
            return chromadb.HttpClient(self.host, self.port, ssl=self.ssl, headers=headers, settings=settings, **where)
        except (ValueError, OSError, httpx.HTTPError, httpx.InvalidURL, ChromaError) as error:
            address = f"{'https' if self.ssl else 'http'}://{self.host}:{self.port}"
            raise DatabaseUnreachable(
                f"No Chroma server answers at {address} ({error}). Start one with `chroma run`, or pass its --host and "
                "--port, and --ssl if it speaks HTTPS."
            ) from error

    @contextmanager
    def opened(self, *, create: bool = False) -> Iterator[ClientAPI]:
        """As `open`; there is nothing to make or to close."""
        yield self.open()


def read_token(variable: str) -> str:
    """A server's token from an environment variable. Raises ConfigError where that is none, or not set."""
    check_variable("The token's variable", variable)
    token = os.environ.get(variable, "").strip()
    if not token:
        raise ConfigError(f"The environment variable {variable}, which is to hold the token, is not set.")
    return token


def find_collection(client: ClientAPI, name: str | None) -> Collection:
    """The collection `name`; without one, the only one there is. Its function is not built.

    Raises ConfigError when there is none of that name, or a name is needed.
    """
    from chromadb.errors import NotFoundError

    if name is not None:
        try:
            return client.get_collection(name)
        except NotFoundError as error:
            raise ConfigError(f"There is no collection {name!r}. {_names(client)}") from error
    found = client.list_collections(limit=2)
    if len(found) != 1:
        raise ConfigError(f"Which collection? {_names(client)} Pass its name with --collection.")
    return client.get_collection(found[0].name)


def _names(client: ClientAPI) -> str:
    names = sorted(collection.name for collection in client.list_collections(limit=NAMES_SHOWN + 1))
    if not names:
        return "There is none here."
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return f"There are {', '.join(map(repr, names[:NAMES_SHOWN]))}{more}."


def _given(tenant: str | None, database: str | None) -> dict[str, str]:
    return {name: value for name, value in (("tenant", tenant), ("database", database)) if value is not None}
