"""What `ingest` and `migrate` print of their work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from .arguments import write_utf8

if TYPE_CHECKING:
    from ..ingestion import IngestResult

# The exit status: something was refused, and all else was done.
REFUSED: Final = 3
COUNTS: Final = ("added", "updated", "unchanged", "deleted", "failed")


def tell(result: IngestResult, *, as_json: bool) -> int:
    """Prints the summary; returns the exit status."""
    write_utf8()
    if as_json:
        print(json.dumps(result.to_dict(), ensure_ascii=False, indent=2))
    else:
        _print_table(result)
    return REFUSED if result.failed else 0


def _print_table(result: IngestResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    counts = result.to_dict()
    names = [*COUNTS, *(["carried"] if result.carried else [])]
    for name in names:
        table.add_column(name, justify="right")
    table.add_row(*(f"{counts[name]:,}" for name in names))
    console = Console(highlight=False)
    console.print(table)
    rate = f", {result.embedded / result.seconds:,.0f} a second" if result.embedded else ""
    print(f"Collection {result.collection}: {result.embedded:,} passages embedded in {result.seconds:.1f} s{rate}.")
    for note in result.notes:
        print(note)
    if result.rejects_file is not None:
        print(f"Refused, with reasons: {result.rejects_file}")
