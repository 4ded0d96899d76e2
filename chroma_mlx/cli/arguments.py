"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse
import io
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..database import PORT
from ..rules import SECONDS, TIMEOUT, Rule

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

    from ..database import Folder, Server

COLLECTION_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def name(text: str) -> str:
    """A name that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty, perhaps that of a variable that is not set")
    return text


def path(text: str) -> Path:
    """A file or a folder; an empty name would be the working folder."""
    return Path(name(text))


def timeout(text: str) -> float:
    """Seconds that can be waited for, or a fraction of one."""
    return _seconds(text, TIMEOUT)


def pause(text: str) -> float:
    """The same, or 0 for none."""
    return _seconds(text, SECONDS)


def _seconds(text: str, rule: Rule) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not rule.accepts(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {rule.allowed}")
    return number


def collection_name(text: str) -> str:
    """A name that Chroma takes for a collection."""
    if not COLLECTION_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name for a collection: 3 to 512 letters, digits, dots, underscores and hyphens, the first "
            "and the last a letter or digit"
        )
    return text


def count(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def add_summary(parser: argparse.ArgumentParser) -> None:
    """Adds what a run that writes to a collection has: rejects, waiting, --json."""
    parser.add_argument("--rejects", type=path, metavar="FILE", help="where to (NAME.rejects.jsonl)")
    parser.add_argument("--retry-seconds", type=pause, default=300, metavar="N", help="how long a server may be away")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config, which every command takes."""
    parser.add_argument(
        "--config",
        type=path,
        metavar="FILE",
        help="a configuration file (default: CHROMA_MLX_CONFIG, ./embedding_config.yaml, or your own)",
    )


def write_utf8() -> None:
    """Makes standard output UTF-8, whatever the terminal's own is: a document may hold any character."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says where Chroma is: --path, or --host with --port, --ssl and --token-env."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--path", type=path, metavar="DB", help="the folder that a database of Chroma's is in")
    where.add_argument("--host", metavar="HOST", help="the host of a Chroma server (`chroma run`)")
    parser.add_argument("--port", type=positive, metavar="N", help=f"the server's port ({PORT})")
    parser.add_argument("--ssl", action="store_true", help="speak HTTPS with the server")
    parser.add_argument("--token-env", metavar="VARIABLE", help="the environment variable with the server's token")
    parser.add_argument("--tenant", metavar="NAME", help="Chroma's tenant, where it is not the default one")
    parser.add_argument("--database", metavar="NAME", help="the tenant's database, likewise")


def add_collection(parser: argparse.ArgumentParser) -> None:
    """Adds --collection, which may be left out where there is only one."""
    parser.add_argument("--collection", metavar="NAME", help="the collection (default: the only one there is)")


@contextmanager
def open_client(options: argparse.Namespace, *, create: bool = False) -> Iterator[ClientAPI]:
    """The client that the arguments of `add_client_arguments` say; only `create` makes a database.

    A database is closed in the end. Raises DatabaseUnreachable, and what `place_of` raises.
    """
    with place_of(options).opened(create=create) as client:
        yield client


def place_of(options: argparse.Namespace) -> Folder | Server:
    """Where the arguments of `add_client_arguments` say that Chroma is.

    Raises ConfigError for what is a server's beside a folder, and for a token that is not set.
    """
    from ..database import Folder
    from ..errors import ConfigError

    if options.path is None:
        return server_of(options)
    if options.port is not None or options.ssl or options.token_env is not None:
        raise ConfigError(
            "--port, --ssl and --token-env are a server's, and --path is a folder. Pass --host, or leave them out."
        )
    return Folder(path=options.path, tenant=options.tenant, database=options.database)


def server_of(options: argparse.Namespace) -> Server:
    """The server that the arguments of `add_client_arguments` say. Raises ConfigError for a token that is not set."""
    from ..database import Server, read_token

    return Server(
        host=options.host,
        port=PORT if options.port is None else options.port,
        ssl=options.ssl,
        tenant=options.tenant,
        database=options.database,
        token=None if options.token_env is None else read_token(options.token_env),
    )
