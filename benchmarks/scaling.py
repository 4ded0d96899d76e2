"""The tables of docs/scaling.md, computed from the measured rates in results/last.json and Chroma's published limits.

    python benchmarks/scaling.py [--write]

Prints them; `--write` puts them into the page.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent / "docs" / "scaling.md"
RESULTS = FOLDER / "results" / "last.json"

AMOUNTS = (10**6, 10**8, 10**10)
MACHINES = (1, 10, 100, 1_000)
SECONDS_AN_HOUR, HOURS_A_DAY, DAYS_A_YEAR = 3600, 24, 365.25
BYTES_A_NUMBER = 4
# https://docs.trychroma.com/guides/performance/single-node: records of 1024 dimensions on a machine of 64 GB.
RECORDS_A_SERVER = 15_000_000
# https://cookbook.chromadb.dev/core/resources: of the vectors' bytes, at least so many on disk.
DISK = (2, 4)
# https://docs.trychroma.com/cloud/quotas-limits: most records of a collection, unless more is asked for.
RECORDS_A_CLOUD_COLLECTION = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Passages a second that a machine embeds, and the width of their vectors."""

    model: str
    passages: str
    per_s: float
    dimension: int


def read_rates(results: dict[str, Any]) -> list[Rate]:
    """The rates of one machine, as they were measured."""
    upsert, mix = results["ingest"], results["peers"]["0.6b"]["peers"]["this project"]["mix"]
    return [
        Rate(
            model="built-in",
            passages="of the demo's corpus, with Chroma's writing",
            per_s=upsert["documents"] / upsert["upsert_s"],
            dimension=256,
        ),
        Rate(
            model="0.6B shape",
            passages=f"of {mix['tokens_per_s'] / mix['texts_per_s']:,.0f} tokens in the mean",
            per_s=mix["texts_per_s"],
            dimension=1024,
        ),
    ]


def hours(passages: int, per_s: float, machines: int = 1) -> float:
    """How long so many machines embed, each at that rate."""
    return passages / per_s / machines / SECONDS_AN_HOUR


def shown_hours(found: float) -> str:
    if found < 1:
        return f"{found * 60:,.1f} min" if found * 60 < 10 else f"{found * 60:,.0f} min"
    if found < 48:
        return f"{found:,.1f} h"
    days = found / HOURS_A_DAY
    return f"{days:,.0f} days" if days < 2 * DAYS_A_YEAR else f"{days / DAYS_A_YEAR:,.0f} years"


def shown_bytes(found: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if found < 1000:
            return f"{found:,.3g} {unit}"
        found /= 1000
    return f"{found:,.3g} TB"


def amount(passages: int) -> str:
    return f"10^{round(math.log10(passages))}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Every table of the page by its name."""
    rates = read_rates(results)
    writes = results["ingest"]["documents"] / results["ingest"]["write_s"]
    return {
        "rates": table(
            ["model", "passages", "passages a second", "machines until one Chroma server is busy"],
            [[rate.model, rate.passages, f"{rate.per_s:,.3g}", f"{writes / rate.per_s:,.0f}"] for rate in rates],
        ),
        "hours": table(
            ["model", "passages", *(f"{machines:,} machine{'s' * (machines > 1)}" for machines in MACHINES)],
            [
                [rate.model, amount(passages)]
                + [shown_hours(hours(passages, rate.per_s, machines)) for machines in MACHINES]
                for rate in rates
                for passages in AMOUNTS
            ],
        ),
        "bytes": table(
            [
                "passages",
                "vectors, 256-d",
                "vectors, 1024-d",
                "disk, 1024-d, at least",
                "servers of 64 GB, 1024-d",
                "collections of Chroma Cloud",
            ],
            [
                [amount(passages)]
                + [shown_bytes(passages * dimension * BYTES_A_NUMBER) for dimension in (256, 1024)]
                + [" to ".join(shown_bytes(passages * 1024 * BYTES_A_NUMBER * times) for times in DISK)]
                + [f"{math.ceil(passages / each):,}" for each in (RECORDS_A_SERVER, RECORDS_A_CLOUD_COLLECTION)]
                for passages in AMOUNTS
            ],
        ),
        "writes": f"{writes:,.0f} records a second",
    }


def read_places(page: str) -> dict[str, str]:
    """What stands in the page for each table."""
    return dict(re.findall(r"<!-- (\w+) -->\n?(.*?)\n?<!-- end -->", page, re.DOTALL))


def with_tables(page: str, found: dict[str, str]) -> str:
    def put(place: re.Match[str]) -> str:
        between = "\n" if "\n" in place[0] else ""
        return f"<!-- {place[1]} -->{between}{found[place[1]]}{between}<!-- end -->"

    return re.sub(r"<!-- (\w+) -->.*?<!-- end -->", put, page, flags=re.DOTALL)


def main() -> None:
    """Prints the tables, or writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them into docs/scaling.md")
    options = parser.parse_args()
    found = tables(json.loads(RESULTS.read_text()))
    if options.write:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    else:
        print("\n\n".join(found.values()))


if __name__ == "__main__":
    main()
