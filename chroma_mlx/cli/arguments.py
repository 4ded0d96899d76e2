"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config, which every command takes."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a configuration file (default: CHROMA_MLX_CONFIG, ./embedding_config.yaml, or your own)",
    )
