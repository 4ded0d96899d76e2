"""`chroma-mlx demo`: ask Python's own documentation, with answers found by meaning."""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .arguments import add_config, path, positive

if TYPE_CHECKING:
    from ..demo.index import Answer

SNIPPET_CHARS = 130


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "demo",
        help="ask Python: search this interpreter's own documentation by meaning",
        description="Embeds the manual and the docstrings of the running Python into a Chroma collection, then "
        "answers questions with the passages nearest in meaning. The first run takes up to a minute with the "
        "built-in model; later ones reuse the collection.",
    )
    parser.add_argument("question", nargs="*", help="a question of your own (default: half a dozen examples)")
    parser.add_argument("--model", metavar="NAME", help="short name, Hub repository id or folder of a model")
    parser.add_argument("--limit", type=positive, metavar="N", help="embed only N passages, spread over the whole")
    parser.add_argument("--results", type=positive, metavar="N", default=3, help="passages a question (default: 3)")
    parser.add_argument("--path", type=path, metavar="FOLDER", help="where Chroma keeps the collection")
    parser.add_argument("--reset", action="store_true", help="embed everything again")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Fills the collection where needed, asks, and prints the answers with timings."""
    import platformdirs

    from ..config import resolve
    from ..config.sources import DEFAULT
    from ..demo.index import ask, choose_model, fill_collection, open_client, open_collection
    from ..demo.questions import DEMO_QUESTIONS
    from ..functions import MLXEmbeddingFunction

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a passage may hold what the terminal has no character for
    path = options.path or platformdirs.user_data_path("chroma-mlx") / "demo"
    effective = resolve(options.config)
    if effective.config.mode != "mlx":
        raise ConfigError(
            f"The demo shows what a model finds, but mode is {effective.config.mode!r} "
            f"({effective.sources['mode']}). Run it with CHROMA_MLX_MODE=mlx."
        )
    configured = effective.sources["model_name"] != DEFAULT
    choice = choose_model(options.model, configured=effective.config.model_name if configured else None)
    print(f"Model: {choice.model_name} ({choice.why})")
    function = MLXEmbeddingFunction(choice.model_name, show_progress=False, config=effective.config)
    started = time.perf_counter()
    function.load()
    load_s = time.perf_counter() - started
    collection = open_collection(open_client(path), function, limit=options.limit, reset=options.reset)
    ingest = fill_collection(collection, limit=options.limit)
    print(f"Collection: {collection.name}, {ingest.passages:,} passages, in {path}")
    questions = [" ".join(options.question)] if options.question else list(DEMO_QUESTIONS)
    query_ms = []
    for question in questions:
        started = time.perf_counter()
        [answers] = ask(collection, [question], n_results=options.results)
        query_ms.append((time.perf_counter() - started) * 1000)
        _print_answers(question, answers)
    rate = f", {ingest.embedded / ingest.seconds:,.0f} documents/s embedded and stored" if ingest.embedded else ""
    print(f"Model loaded in {load_s:.2f} s{rate}, {statistics.median(query_ms):.0f} ms a query.")
    return 0


def _print_answers(question: str, answers: list[Answer]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = Text(f"\n{question}", style="bold")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("similarity", justify="right", vertical="top")
    table.add_column("where, and the passage")
    for answer in answers:
        table.add_row(f"{answer.similarity:.3f}", Text.assemble((answer.source, "bold"), "\n", _snippet(answer.text)))
    Console(highlight=False).print(table)


def _snippet(text: str) -> str:
    """The first words behind the heading, which says no more than where the passage is from."""
    _, _, body = text.partition("\n")
    return textwrap.shorten(body, width=SNIPPET_CHARS, placeholder=" …")
