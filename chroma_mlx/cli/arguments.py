"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def count(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def add_database(parser: argparse.ArgumentParser) -> None:
    """Adds --path and --host with what belongs to it: where the collections are."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--path", type=Path, metavar="DB", help="the folder of a local database")
    where.add_argument("--host", metavar="HOST", help="where a Chroma server is")
    parser.add_argument("--port", type=positive, default=8000, metavar="N", help="its port (8000)")
    parser.add_argument("--ssl", action="store_true", help="speak TLS with it")
    parser.add_argument("--tenant", metavar="NAME", help="the tenant there")
    parser.add_argument("--database", metavar="NAME", help="the database there")
    parser.add_argument("--token-env", metavar="VARIABLE", help="the environment variable that holds its token")


def database_of(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `open_client`."""
    return {
        "path": options.path,
        "host": options.host,
        "port": options.port,
        "ssl": options.ssl,
        "tenant": options.tenant,
        "database": options.database,
        "token_variable": options.token_env,
    }


def add_summary(parser: argparse.ArgumentParser) -> None:
    """Adds what a run that writes to a collection has: rejects, waiting, --json."""
    parser.add_argument("--rejects", type=Path, metavar="FILE", help="where to (NAME.rejects.jsonl)")
    parser.add_argument("--retry-seconds", type=count, default=300, metavar="N", help="how long a server may be away")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config, which every command takes."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a configuration file (default: CHROMA_MLX_CONFIG, ./embedding_config.yaml, or your own)",
    )
