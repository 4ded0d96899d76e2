"""`chroma-mlx view`: a map of a collection, in the browser."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from ..errors import InputError
from .arguments import add_client_arguments, add_collection, open_client, path, positive

LIMIT = 200_000
# UMAP makes no map of less.
FEWEST = 6


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "view",
        help="draw a collection as a map in the browser",
        description="Writes the collection to a Parquet file, with the nearest neighbours that Chroma's own index "
        "finds, and opens it in Embedding Atlas, which draws the vectors as a map. Nothing is embedded and nothing "
        "leaves this machine. Needs the extra chroma-mlx[parquet], and embedding-atlas on the path. Ctrl-C ends it.",
    )
    add_client_arguments(parser)
    add_collection(parser)
    parser.add_argument(
        "--limit", type=positive, metavar="N", default=LIMIT, help=f"most records on the map ({LIMIT}), evenly spread"
    )
    parser.add_argument("--keep", type=path, metavar="FILE", help="keep the map's Parquet file under this name")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--map-port", type=positive, metavar="N", help="the map's own port (5055, or a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Writes the file, shows it until it is interrupted, and removes it."""
    from ..collections.map_file import TEXT, write_map
    from ..collections.parquet import need_pyarrow
    from ..collections.viewer import command, find_port, find_tool, show
    from ..collections.whole_file import check_writable
    from ..database import find_collection
    from ..router.target import space_of

    need_pyarrow()
    tool, port = find_tool(), find_port(options.map_port)
    if options.keep is not None:
        check_writable(options.keep, replace=options.force)
    with tempfile.TemporaryDirectory(prefix="chroma-mlx-view-") as folder:
        with open_client(options) as client:  # closed before the map is shown: a database is one process's at a time
            collection = find_collection(client, options.collection)
            _check_count(collection.name, collection.count(), options.limit)
            file = options.keep or Path(folder) / f"{collection.name}.parquet"
            contents = write_map(collection, file, limit=options.limit)
            text, space = TEXT if contents.has_text else None, space_of(collection)
        print(f"{len(contents.rows):,} records of {collection.name}; Ctrl-C ends the map.", flush=True)
        show(command(tool, file, text=text, space=space, port=port), port=port, browser=not options.no_browser)
    return 0


def _check_count(name: str, count: int, limit: int) -> None:
    """Raises InputError for too few records; says where the map has not all of them."""
    if min(count, limit) < FEWEST:
        raise InputError(f"A map takes {FEWEST} records or more, and this one would have {min(count, limit)}.")
    if count > limit:
        print(f"{name} has {count:,} records. The map has {limit:,} of them, evenly spread.")
