"""`chroma-mlx ingest`: files and folders into a collection, only what has changed."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .arguments import (
    add_client_arguments,
    add_config,
    add_summary,
    collection_name,
    count,
    name,
    path,
    pause,
    place_of,
    positive,
    server_of,
)
from .summary import tell

if TYPE_CHECKING:
    from ..ingestion import IngestResult


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
    parser.add_argument(
        "source", nargs="+", type=path, metavar="SOURCE", help="a file, a folder, or - for standard input"
    )
    parser.add_argument(
        "--collection",
        type=collection_name,
        required=True,
        metavar="NAME",
        help="the collection, made if there is none",
    )
    add_client_arguments(parser)
    parser.add_argument("--model", metavar="NAME", help="short name, Hub repository id or folder (the collection's)")
    parser.add_argument(
        "--text-column", type=name, metavar="NAME", default="text", help="the column of the text (text)"
    )
    parser.add_argument(
        "--id-column", type=name, metavar="NAME", help="the column of the id (made of source and place)"
    )
    parser.add_argument("--format", metavar="NAME", help="how every file is read, whatever its ending; needed for -")
    parser.add_argument("--glob", action="append", default=[], metavar="PATTERN", help="which files of a folder")
    parser.add_argument("--base", type=path, metavar="FOLDER", help="name sources from here (by absolute paths)")
    parser.add_argument("--passage-tokens", type=positive, metavar="N", help="longest passage (512, or the model's)")
    parser.add_argument("--overlap-tokens", type=count, metavar="N", help="what passages share (an eighth)")
    parser.add_argument(
        "--sync",
        action="store_true",
        help="delete what is not in these sources any more (a folder that is empty is an error: it may not be mounted)",
    )
    parser.add_argument("--recheck", action="store_true", help="compare with the collection even if nothing changed")
    parser.add_argument("--ray", action="store_true", help="let several processes work (extra ray; needs --host)")
    parser.add_argument("--workers", type=positive, metavar="N", help="with --ray: how many (2)")
    parser.add_argument("--address", metavar="HOST:PORT", help="with --ray: a cluster (one on this machine)")
    parser.add_argument("--worker-cpus", type=positive, metavar="N", help="with --ray: cores of each (its share)")
    parser.add_argument("--room-seconds", type=pause, metavar="N", help="with --ray: how long a cluster may grow (0)")
    add_summary(parser)
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ingests, and prints what was done."""
    from ..ingestion import ingest

    sources = options.source
    taken = {
        "format": options.format,
        "globs": options.glob,
        "base": options.base,
        "rejects": options.rejects or Path(f"{options.collection}.rejects.jsonl"),
        "model": options.model,
        "config": options.config,
        "text_column": options.text_column,
        "id_column": options.id_column,
        "passage_tokens": options.passage_tokens,
        "overlap_tokens": options.overlap_tokens,
        "sync": options.sync,
        "recheck": options.recheck,
        "retry_seconds": options.retry_seconds,
    }
    if options.ray:
        result = _ingest_by_workers(sources, options, taken)
    else:
        _refuse_alone(options)
        # Opened there, when all else is checked: what is mistyped makes no database.
        result = ingest(sources, options.collection, client=place_of(options), **taken)
    return tell(result, as_json=options.json)


def _ingest_by_workers(sources: list[Path], options: argparse.Namespace, taken: dict[str, Any]) -> IngestResult:
    from .. import ray

    if options.host is None:
        raise ConfigError(
            f"--ray writes from several processes, and a local database is one process's. Run `chroma run --path "
            f"{options.path}`, and name it with --host in place of --path."
        )
    workers = {
        "workers": options.workers or 2,
        "address": options.address,
        "worker_cpus": options.worker_cpus,
        "room_seconds": options.room_seconds or 0,
    }
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints there what workers log; the summary is to stand alone
        return ray.ingest(sources, options.collection, server=server_of(options), **workers, **taken)


def _refuse_alone(options: argparse.Namespace) -> None:
    """Raises ConfigError for an option of --ray's without it."""
    for option in ("workers", "address", "worker_cpus", "room_seconds"):
        if getattr(options, option) is not None:
            raise ConfigError(f"--{option.replace('_', '-')} is of several processes. Give --ray too, or leave it out.")
