"""Measures this project, and MLX as it comes beside it; prints Markdown. See README.md in this folder."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import demo
import overhead
import router
import start
import throughput
from common import in_child, machine

SECTIONS = {"throughput": throughput, "overhead": overhead, "router": router, "start": start, "demo": demo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds: a look, not a result")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        choices=SECTIONS,
        default=list(SECTIONS),
        help=f"sections to run, of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    options = parser.parse_args()
    results: dict[str, object] = {"machine": machine(), "quick": options.quick}
    print(_machine_line(machine()), flush=True)
    with tempfile.TemporaryDirectory(prefix="chroma-mlx-benchmark-") as folder:
        if set(options.only) - {"demo", "router"}:
            in_child("shape.write_checkpoint", folder=folder)
        for name in options.only:
            began = time.perf_counter()
            results[name] = SECTIONS[name].measure(folder, options.quick)
            print(f"\n## {name} ({time.perf_counter() - began:.0f} s)\n", flush=True)
            print(SECTIONS[name].describe(results[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _machine_line(m: dict[str, object]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in m["packages"].items())
    return (
        f"{m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB, {m['system']}; Python {m['python']}, {packages}."
    )


if __name__ == "__main__":
    main()
