"""`chroma-mlx doctor`: what this machine has, what is wrong with it, and what to do."""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from .arguments import add_config

# What was not examined is neither.
MARKS: Final = {True: "ok  ", False: "BAD ", None: "--  "}


def add_parser(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="examine this installation",
        description="Examines versions, platform, configuration, MLX, BLAS, memory, cache and model, and embeds a "
        "text. Fetches nothing. Exits with 1 when something is wrong, also when mock vectors would take the model's "
        "place (`fallback: mock`).",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Examines part after part, and prints each as it is known."""
    from ..diagnosis.doctor import examine

    checks = []
    for check in examine(options.config):
        checks.append(check)
        if not options.json:
            print(f"{MARKS[check.ok]} {check.name}: {check.found}")
            if check.remedy:
                print(f"     → {check.remedy}")
    if options.json:
        print(json.dumps([check.to_dict() for check in checks], ensure_ascii=False, indent=2))
    return 1 if any(check.ok is False for check in checks) else 0
