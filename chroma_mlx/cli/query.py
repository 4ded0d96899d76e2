"""`chroma-mlx query`: a collection asked in words."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import InputError
from .arguments import add_client_arguments, add_collection, open_client, positive, write_utf8


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "query",
        help="find the records of a collection nearest to a text",
        description="Embeds a text with the function saved with the collection, and prints the records nearest to it, "
        "best first: their similarity (in an l2 space the distance), id and the beginning of the document.",
    )
    parser.add_argument("text", help="what to look for")
    add_client_arguments(parser)
    add_collection(parser)
    parser.add_argument("-n", type=positive, metavar="N", default=5, help="how many records (5)")
    parser.add_argument("--where", metavar="JSON", help='a filter of Chroma\'s, for example \'{"source": "manual"}\'')
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Asks, and prints what was found."""
    from ..collections.searching import search
    from ..database import find_collection

    write_utf8()
    where = None if options.where is None else _read_where(options.where)
    with open_client(options) as client:
        hits = search(find_collection(client, options.collection), options.text, n_results=options.n, where=where)
    print(json.dumps(hits.rows(), ensure_ascii=False, indent=2) if options.json else hits)
    return 0


def _read_where(text: str) -> dict[str, Any]:
    try:
        where = json.loads(text)
    except ValueError as error:
        raise InputError(f"--where is no JSON: {error}. Pass a filter of Chroma's, in quotes.") from error
    if not isinstance(where, dict):
        raise InputError(f'--where is {text}, and a filter of Chroma\'s is a table, for example {{"source": "a"}}.')
    return where
