"""`chroma-mlx config`: the values in force and where each came from; a commented file to begin with."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .arguments import add_config, path


def add_parser(commands: Any) -> None:
    """Adds the command and its subcommands to the parser."""
    parser = commands.add_parser(
        "config", help="show the configuration in force, or write a file", description="The configuration."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="print each value and where it came from",
        description="Prints the values in force and where each came from: a file, the environment or the default.",
    )
    add_config(show)
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(run=run_show)
    init = actions.add_parser(
        "init",
        help="write a commented file of every key",
        description="Writes ./embedding_config.yaml, or another file: every key at its default, and what it is for.",
    )
    init.add_argument("file", nargs="?", type=path, metavar="FILE", help="where to (default: ./embedding_config.yaml)")
    init.add_argument("--user", action="store_true", help="write your own configuration, for every working folder")
    init.add_argument("--force", action="store_true", help="replace a file that is there")
    init.set_defaults(run=run_init)


def run_show(options: argparse.Namespace) -> int:
    """Prints the effective configuration."""
    from ..config import resolve

    if isinstance(sys.stdout, io.TextIOWrapper):
        # A value may hold what the terminal has no character for, and a path what is no text at all.
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    effective = resolve(options.config)
    values = next(iter(effective.config.to_dict().values()))
    if options.json:
        rows = {key: {"value": value, "source": effective.sources[key]} for key, value in values.items()}
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return 0
    shown = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    keys, width = max(map(len, shown)), min(max(map(len, shown.values())), 40)
    for key, value in shown.items():
        print(f"{key:<{keys}}  {value:<{width}}  {effective.sources[key]}")
    return 0


def run_init(options: argparse.Namespace) -> int:
    """Writes the commented file."""
    from ..config.embedding import commented_yaml
    from ..config.sources import FILE_NAME, user_file

    if options.user and options.file:
        raise ConfigError("Both a file and --user were given. Pass one or the other.")
    place: Path = user_file() if options.user else options.file or Path(FILE_NAME)
    try:
        if options.user:
            place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("w" if options.force else "x", encoding="utf-8") as file:
            file.write(commented_yaml())
    except FileExistsError as error:
        raise ConfigError(f"{place} is there already. Pass --force to replace it, or another name.") from error
    except OSError as error:
        raise ConfigError(f"{place} cannot be written ({error.strerror}). Name another file.") from error
    print(f"Wrote {place}")
    return 0
