"""The command `chroma-mlx`: one file a command, no logic of its own."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from chromadb.errors import ChromaError

from .. import __version__
from ..errors import ChromaMLXError
from . import (
    collections,
    config,
    demo,
    doctor,
    embed,
    export,
    import_,
    ingest,
    migrate,
    models,
    query,
    serve,
    verify,
    view,
)

STANDARD_ERROR = 2

COMMANDS = (
    *(demo, embed, ingest, migrate, query, collections, view, export, import_),
    *(serve, config, models, verify, doctor),
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command and of every subcommand."""
    parser = argparse.ArgumentParser(prog="chroma-mlx", description="Local MLX embeddings in Chroma.")
    parser.add_argument("--version", action="version", version=f"chroma-mlx {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0 done, 1 an error that is explained, 130 interrupted.

    A command may have others of its own: `ingest` and `migrate` return 3 when they refused something.
    """
    _occupy_standard_streams()
    options = make_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except BrokenPipeError:
        # The reader has what it wanted (`| head`). Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13  # as a program that SIGPIPE ends
    except (ChromaMLXError, ChromaError, OSError) as error:
        print(f"chroma-mlx: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("chroma-mlx: interrupted", file=sys.stderr)
        return 130


def _occupy_standard_streams() -> None:
    """What the program was started without (`<&- >&- 2>&-`) leads nowhere.

    Else the next file or socket would have its place, and a library that complains would write into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        os.set_inheritable(descriptor, True)  # as these are
    os.close(descriptor)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # as Python has it then
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # to the end
