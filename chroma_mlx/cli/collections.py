"""`chroma-mlx collections`: what is in a database, and what about it does not fit."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .arguments import add_client_arguments, open_client, write_utf8


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "collections",
        help="list the collections of a database or a server",
        description="Lists the collections: records, dimension, space, function and model, and what does not fit. "
        "Loads no model, fetches nothing and makes nothing.",
    )
    add_client_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints a row a collection, its warnings below it."""
    from ..collections.listing import list_collections

    write_utf8()
    with open_client(options) as client:
        found = list_collections(client)
    if options.json:
        print(json.dumps([info.to_dict() for info in found], ensure_ascii=False, indent=2))
        return 0
    if not found:
        print("There is no collection.")
        return 0
    name = max(len("name"), *(len(info.name) for info in found))
    function = max(len("function"), *(len(info.function) for info in found))
    print(f"{'name':<{name}} {'records':>10} {'dimension':>9}  {'space':<6}  {'function':<{function}}  model")
    for info in found:
        print(
            f"{info.name:<{name}} {info.records:>10,} {info.dimension or '-':>9}  {info.space:<6}  "
            f"{info.function:<{function}}  {info.model or '-'}"
        )
        for warning in info.warnings:
            print(f"  → {warning}")
    return 0
