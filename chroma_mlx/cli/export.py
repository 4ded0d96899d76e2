"""`chroma-mlx export`: a collection as one Parquet file."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import add_client_arguments, add_collection, open_client, path


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="write a collection to a Parquet file: vectors, documents, and what made them",
        description="Writes every record of a collection to a Parquet file, and with it the collection's function, "
        "space, metadata and the fingerprint of its vectors, so that `chroma-mlx import` makes the same collection "
        "elsewhere without embedding anything. Needs the extra: pip install 'chroma-mlx[parquet]'.",
    )
    parser.add_argument("file", type=path, metavar="FILE", help="FILE.parquet")
    add_client_arguments(parser)
    add_collection(parser)
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the file, and says what is in it."""
    from ..collections.exporting import export_collection
    from ..database import find_collection

    with open_client(options) as client:
        collection = find_collection(client, options.collection)
        records = export_collection(collection, options.file, replace=options.force)
    print(f"{records:,} records of {collection.name} in {options.file}")
    return 0
