"""`chroma-mlx embed`: texts in, vectors out, without Chroma in between."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .arguments import add_config, path, positive

if TYPE_CHECKING:
    from ..engine.encoder import Vectors


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "embed",
        help="embed texts: JSON lines or a .npy file out",
        description="Embeds the texts given as arguments, or the lines of a file or of standard input, in order. "
        'Prints a line of JSON a text ({"text": …, "embedding": […]}), or writes a NumPy array.',
    )
    parser.add_argument("text", nargs="*", help="a text; without any, each line of --file or standard input is one")
    parser.add_argument("--file", type=path, metavar="FILE", help="a text file, UTF-8, one text a line")
    parser.add_argument("--output", type=path, metavar="FILE", help="FILE.npy for an array, else JSON lines")
    parser.add_argument("--model", metavar="NAME", default=None, help="short name, Hub repository id or folder")
    parser.add_argument("--query", action="store_true", help="embed as queries, with the model's instruction")
    parser.add_argument("--dimension", type=positive, metavar="N", help="width of the vectors (Matryoshka)")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Reads, embeds and writes."""
    from ..router import EmbeddingRouter

    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # as the files are, whatever the terminal's own is
    texts = _read_texts(options)
    if options.output is not None and not options.output.parent.is_dir():
        raise InputError(f"There is no folder {str(options.output.parent)!r} to write to. Make it first.")
    given = {"model_name": options.model, "dimension": options.dimension}
    router = EmbeddingRouter(options.config, **{key: value for key, value in given.items() if value is not None})
    vectors = router.embed(texts, "query" if options.query else "document")
    if options.output is not None and options.output.suffix.lower() == ".npy":
        import numpy as np

        np.save(options.output, vectors)
    elif options.output is not None:
        with options.output.open("w", encoding="utf-8") as file:
            file.writelines(_json_lines(texts, vectors))
    else:
        sys.stdout.writelines(_json_lines(texts, vectors))
    return 0


def _read_texts(options: argparse.Namespace) -> list[str]:
    if options.text and options.file:
        raise InputError("Texts were given both as arguments and by --file. Pass one or the other.")
    if options.text:
        return list(options.text)
    try:
        content = options.file.read_text(encoding="utf-8-sig") if options.file else sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(f"{options.file or 'standard input'} is not UTF-8: {error}. Convert it first.") from error
    # Not splitlines(): that also breaks at form feeds and other characters that a text may hold.
    lines = content.removesuffix("\n").split("\n") if content else []
    return [line.removesuffix("\r") for line in lines]


def _json_lines(texts: Iterable[str], vectors: Vectors) -> Iterable[str]:
    for text, vector in zip(texts, vectors, strict=True):
        # Rounded to what float32 holds, so that the lines are no longer than they say something.
        values = [float(f"{value:.8g}") for value in vector]
        yield json.dumps({"text": text, "embedding": values}, ensure_ascii=False) + "\n"
