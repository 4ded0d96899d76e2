"""A Chroma that is there: a database in a folder or a server. Looking at one makes none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import ConfigError, DatabaseUnreachable

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

DATABASE: Final = "chroma.sqlite3"
MAGIC: Final = b"SQLite format 3\x00"
NAMES_SHOWN: Final = 10


def open_folder(path: Path, *, create: bool = False, where: Mapping[str, str] | None = None) -> ClientAPI:
    """A client on the database in `path`, which only `create` makes. Raises DatabaseUnreachable.

    where: Chroma's `tenant` and `database`, where they are not the default ones.
    """
    import chromadb
    from chromadb.config import Settings

    file = path / DATABASE
    try:
        if file.exists():
            with file.open("rb") as opened:
                if opened.read(len(MAGIC)) != MAGIC:
                    raise DatabaseUnreachable(f"{file} is no Chroma database, or a damaged one. Name another folder.")
        elif not create:
            raise DatabaseUnreachable(
                f"There is no Chroma database in {str(path)!r} (no {DATABASE}), and looking makes none. Pass the "
                "folder that the collections were made in."
            )
        else:
            path.mkdir(parents=True, exist_ok=True)
        # Absolute: Chroma takes two clients of one path for the same, whatever the working folder was.
        return chromadb.PersistentClient(
            path.absolute(), settings=Settings(anonymized_telemetry=False), **(where or {})
        )
    except (OSError, ValueError) as error:  # a ValueError is what Chroma makes of any failure to open
        if isinstance(error, DatabaseUnreachable):
            raise
        raise DatabaseUnreachable(f"The Chroma database in {str(path)!r} cannot be opened: {error}.") from error


def open_server(
    host: str,
    port: int,
    *,
    ssl: bool = False,
    token_variable: str | None = None,
    where: Mapping[str, str] | None = None,
) -> ClientAPI:
    """A client of the Chroma server at `host`. Raises DatabaseUnreachable when none answers.

    where: as for `open_folder`. `token_variable` is the environment variable with the token that the server asks
    for; raises ConfigError where it is not set.
    """
    import chromadb
    import httpx
    from chromadb.config import Settings
    from chromadb.errors import ChromaError

    headers = {}
    if token_variable is not None:
        token = os.environ.get(token_variable, "").strip()
        if not token:
            raise ConfigError(f"The environment variable {token_variable}, which is to hold the token, is not set.")
        headers = {"x-chroma-token": token, "authorization": f"Bearer {token}"}
    settings = Settings(anonymized_telemetry=False)
    try:
        return chromadb.HttpClient(host, port, ssl=ssl, headers=headers, settings=settings, **(where or {}))
    except (ValueError, OSError, httpx.HTTPError, httpx.InvalidURL, ChromaError) as error:
        raise DatabaseUnreachable(
            f"No Chroma server answers at {'https' if ssl else 'http'}://{host}:{port} ({error}). Start one with "
            "`chroma run`, or pass its --host and --port, and --ssl if it speaks HTTPS."
        ) from error


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
