"""Whether ten and a hundred times as many short documents take ten and a hundred times as long, and no more memory."""

from __future__ import annotations

import time
from typing import Any

from common import in_child, medians, resident_bytes
from workloads import texts_of

COUNTS, QUICK_COUNTS = (1_000, 10_000, 100_000), (200, 1_000)
CALL = 1_000  # documents a call, as an ingest hands them over; the vectors are not kept
SHORTEST, LONGEST = 8, 24  # tokens
SAMPLES = 20


def measure(folder: str, quick: bool) -> dict[str, Any]:
    """Rounds, the counts interleaved, each in a fresh process."""
    counts = QUICK_COUNTS if quick else COUNTS
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in counts}
    for _ in range(1 if quick else 2):
        for count in counts:
            found[count].append(in_child("scale.embed", count=count))
    return {"counts": [{**medians(rounds), "rounds": rounds} for rounds in found.values()]}


def embed(count: int) -> dict[str, Any]:
    """`count` different documents through the built-in model, the engine alone."""
    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

    lengths = [SHORTEST + index % (LONGEST - SHORTEST + 1) for index in range(CALL)]
    function = MLXEmbeddingFunction("builtin", show_progress=False)
    function.encode(texts_of(str(BUILTIN_FOLDER), lengths, seed=-1))
    taken, resident = 0.0, []
    for start in range(0, count, CALL):
        texts = texts_of(str(BUILTIN_FOLDER), lengths[: count - start], seed=start)
        began = time.perf_counter()
        function.encode(texts)
        taken += time.perf_counter() - began
        resident.append(resident_bytes())
    return {
        "documents": count,
        "seconds": taken,
        "documents_per_s": count / taken,
        "resident": resident[:: max(1, len(resident) // SAMPLES)],
        "resident_first": resident[0],
        "resident_last": resident[-1],
    }


def describe(r: dict[str, Any]) -> str:
    """The section as Markdown."""
    rates = [row["documents_per_s"] for row in r["counts"]]
    lines = [
        f"Short documents ({SHORTEST} to {LONGEST} tokens) through the built-in model in calls of {CALL:,}.\n",
        "| documents | documents/s | resident memory after the first call | after the last |\n|---|---|---|---|",
    ]
    for row in r["counts"]:
        memory = " | ".join(_mib(row[key]) for key in ("resident_first", "resident_last"))
        lines.append(f"| {row['documents']:,.0f} | {row['documents_per_s']:,.0f} | {memory} |")
    lines.append(f"\nThe slowest rate is {min(rates) / max(rates):.2f} of the fastest.")
    return "\n".join(lines)


def _mib(count: float | None) -> str:
    return "not known here" if count is None else f"{count / 2**20:,.0f} MiB"
