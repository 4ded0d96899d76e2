"""`chroma-mlx verify`: a model's vectors against similarities that are known."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .arguments import add_config

# How a model was recognised that was not asked for by its name.
HOW = ("weights", "shape")


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "verify",
        help="compare a model's vectors with known similarities",
        description="Embeds the example of a model's page and compares the similarities with the published ones (of "
        "the built-in model and all-MiniLM-L6-v2: with stored ones), within what the rounding of the weights may "
        "change. A folder is known by its shape. Where none are known the verdict is 'plausible' at best. Exits with "
        "1 when it is 'wrong'.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="short name, Hub repository id or folder")
    parser.add_argument(
        "--as", dest="as_name", metavar="NAME", help="the known model that a folder holds; 'none' for another"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verifies, and prints what was found."""
    from ..config import resolve
    from ..diagnosis.verify import verify_model

    given = {"model_name": options.model} if options.model else {}
    result = verify_model(resolve(options.config, given).config, options.as_name)
    status = 1 if result.verdict == "wrong" else 0
    if options.json:
        print(json.dumps(result.to_dict(), indent=2))
        return status
    taken = f", {result.recognised} by its {result.by}" if result.recognised and result.by in HOW else ""
    print(f"Model: {result.model}{taken}")
    kind = "published" if result.published else "stored"
    for row, query in enumerate(result.queries):
        for column, document in enumerate(result.documents):
            expected = f"  ({kind}: {result.expected[row][column]:.4f})" if result.expected else ""
            print(f"{result.similarities[row][column]:7.4f}{expected}  {query} / {document[:40]}")
    if result.problems:
        for problem in result.problems:
            print(f"Wrong: {problem}.")
        print("Fetch the model again, and upgrade chroma-mlx; if it stays so, report it with this output.")
        return status
    print(f"{result.verdict.capitalize()}. Held: {'; '.join(result.held)}.")
    if result.not_held:
        print(f"Not held: {'; '.join(result.not_held)}.")
    return status
