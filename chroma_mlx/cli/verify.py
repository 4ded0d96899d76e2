"""`chroma-mlx verify`: a model's vectors against published similarities."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .arguments import add_config


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "verify",
        help="compare a model's vectors with published similarities",
        description="Embeds the example of Qwen3-Embedding's page and compares the similarities with the published "
        "ones, within what the rounding of the weights may change. Exits with 1 when they differ.",
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="short name, Hub repository id or folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verifies, and prints what was found."""
    from ..config import resolve
    from ..diagnosis.verify import DOCUMENTS, QUERIES, verify_model

    given = {"model_name": options.model} if options.model else {}
    result = verify_model(resolve(options.config, given).config)
    if options.json:
        print(json.dumps(result.to_dict(), indent=2))
        return 0 if result.right else 1
    print(f"Model: {result.model}")
    for row, query in enumerate(QUERIES):
        for column, document in enumerate(DOCUMENTS):
            expected = f"  (published: {result.expected[row][column]:.4f})" if result.expected else ""
            print(f"{result.similarities[row][column]:7.4f}{expected}  {query} / {document[:40]}")
    if result.right:
        held = (
            f"the reference, {result.reference}, within {result.tolerance}"
            if result.reference
            else ("what any right model gives (no similarities are published for it)")
        )
        print(f"Right: the vectors agree with {held}.")
        return 0
    for problem in result.problems:
        print(f"Wrong: {problem}.")
    print("Fetch the model again, and upgrade chroma-mlx; if it stays so, report it with this output.")
    return 1
