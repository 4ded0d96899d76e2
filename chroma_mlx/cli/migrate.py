"""`chroma-mlx migrate`: a collection embedded anew by another model, beside the old one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import add_client_arguments, add_config, add_summary, collection_name, open_client
from .summary import tell


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "migrate",
        help="embed a collection's texts by another model, into a new collection",
        description="Embeds the texts of a collection, whatever made its vectors, into another one: ids, texts, "
        "metadata and uris as they are. The old one is only read. An interrupted run goes on when it is started again. "
        "Exits with 3 when records were refused, which have no text; they stand in the file of rejects.",
    )
    parser.add_argument("--collection", required=True, metavar="OLD", help="the collection that is there")
    parser.add_argument(
        "--to", type=collection_name, required=True, metavar="NEW", help="the new one, made if there is none"
    )
    add_client_arguments(parser)
    parser.add_argument("--model", metavar="NAME", help="short name, Hub repository id or folder (as configured)")
    add_summary(parser)
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Migrates, and prints what was done."""
    from ..ingestion import migrate

    with open_client(options) as client:
        result = migrate(
            options.collection,
            options.to,
            client=client,
            model=options.model,
            config=options.config,
            rejects=options.rejects or Path(f"{options.to}.rejects.jsonl"),
            retry_seconds=options.retry_seconds,
        )
    return tell(result, as_json=options.json)
