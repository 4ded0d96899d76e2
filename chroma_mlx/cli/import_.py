"""`chroma-mlx import`: a Parquet file of `export` into a collection."""

from __future__ import annotations

import argparse
from typing import Any

from .arguments import add_client_arguments, collection_name, open_client, path


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "import",
        help="put an exported Parquet file into a collection, without embedding again",
        description="Makes the collection that was exported, or adds its records to one of the same kind. The whole "
        "file is checked before anything is written. Run again after it was stopped, it does the rest. Needs the "
        "extra: pip install 'chroma-mlx[parquet]'.",
    )
    parser.add_argument("file", type=path, metavar="FILE", help="a file that `chroma-mlx export` wrote")
    add_client_arguments(parser)
    parser.add_argument(
        "--collection", type=collection_name, metavar="NAME", required=True, help="the collection to import into"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace records that are there and differ")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Imports, and says what that did."""
    from ..collections.importing import checked_file, import_collection

    # The file first: no database is made for one that is not right.
    with checked_file(options.file) as source, open_client(options, create=True) as client:
        done = import_collection(client, source, options.collection, overwrite=options.overwrite)
    print(
        f"{options.collection}: {done.added:,} records added, {done.present:,} were there already, {done.replaced:,} "
        "replaced"
    )
    return 0
