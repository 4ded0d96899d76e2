"""`chroma-mlx ingest`: files and folders into a collection, only what has changed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import add_client_arguments, add_config, collection_name, open_client, positive

if TYPE_CHECKING:
    from ..ingestion import IngestResult

# Something was refused, and all else was done.
REFUSED = 3
COUNTS = ("added", "updated", "unchanged", "deleted", "failed")


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "ingest",
        help="put files and folders into a collection; again, and only what changed is embedded",
        description="Reads JSON lines, CSV, TSV, Parquet, text, Markdown, HTML and PDF, cuts what is long into "
        "passages, and embeds what is new or edited. An interrupted run goes on when it is started again. Exits with "
        "3 when something was refused, which stands in the file of rejects with its reason. Parquet, HTML, PDF and "
        "texts that are too long for one passage need the extra: pip install 'chroma-mlx[ingest]'.",
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="a file, a folder, or - for standard input")
    parser.add_argument(
        "--collection",
        type=collection_name,
        required=True,
        metavar="NAME",
        help="the collection, made if there is none",
    )
    add_client_arguments(parser)
    parser.add_argument("--model", metavar="NAME", help="short name, Hub repository id or folder (the collection's)")
    parser.add_argument("--text-column", metavar="NAME", default="text", help="the column of the text (text)")
    parser.add_argument("--id-column", metavar="NAME", help="the column of the id (made of source and place)")
    parser.add_argument("--format", metavar="NAME", help="how every file is read, whatever its ending; needed for -")
    parser.add_argument("--glob", action="append", default=[], metavar="PATTERN", help="which files of a folder")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="name sources from here (by absolute paths)")
    parser.add_argument("--passage-tokens", type=positive, metavar="N", help="longest passage (512, or the model's)")
    parser.add_argument("--overlap-tokens", type=_count, metavar="N", help="what passages share (an eighth)")
    parser.add_argument("--sync", action="store_true", help="delete what is not in these sources any more")
    parser.add_argument("--recheck", action="store_true", help="compare with the collection even if nothing changed")
    parser.add_argument("--rejects", type=Path, metavar="FILE", help="where to (NAME.rejects.jsonl)")
    parser.add_argument("--retry-seconds", type=_count, default=300, metavar="N", help="how long a server may be away")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ingests, and prints what was done."""
    from ..ingestion import ingest

    with open_client(options, create=True) as client:
        result = ingest(
            [Path(source) for source in options.source],
            options.collection,
            client=client,
            model=options.model,
            config=options.config,
            text_column=options.text_column,
            id_column=options.id_column,
            format=options.format,
            globs=options.glob,
            base=options.base,
            passage_tokens=options.passage_tokens,
            overlap_tokens=options.overlap_tokens,
            sync=options.sync,
            recheck=options.recheck,
            rejects=options.rejects or Path(f"{options.collection}.rejects.jsonl"),
            retry_seconds=options.retry_seconds,
        )
    if options.json:
        print(json.dumps(result.to_dict(), ensure_ascii=False, indent=2))
    else:
        _print_summary(result)
    return REFUSED if result.failed else 0


def _count(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _print_summary(result: IngestResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    counts = result.to_dict()
    names = [*COUNTS, *(["carried"] if result.carried else [])]
    for name in names:
        table.add_column(name, justify="right")
    table.add_row(*(f"{counts[name]:,}" for name in names))
    console = Console(highlight=False)
    console.print(table)
    rate = f", {result.embedded / result.seconds:,.0f} a second" if result.embedded else ""
    print(f"Collection {result.collection}: {result.embedded:,} passages embedded in {result.seconds:.1f} s{rate}.")
    for note in result.notes:
        print(note)
    if result.rejects_file is not None:
        print(f"Refused, with reasons: {result.rejects_file}")
