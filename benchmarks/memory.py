"""Whether resident memory stays where it is while texts of mixed lengths go through."""

from __future__ import annotations

import statistics
from typing import Any

from common import in_child, resident_bytes
from workloads import make_texts

TEXTS, QUICK_TEXTS = 20_000, 600
CALL = 100  # texts a call
LARGEST = 256  # tokens, the built-in model's own limit
WARM_UP = 0.2  # of the calls: by then the longest batches have been met


def measure(folder: str, quick: bool) -> dict[str, Any]:
    return in_child("memory.embed", count=QUICK_TEXTS if quick else TEXTS)


def embed(count: int) -> dict[str, Any]:
    """Mixed texts through the built-in model in calls of CALL; resident memory after each, in bytes."""
    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

    if resident_bytes() is None:
        return {"texts": count, "available": False}
    function = MLXEmbeddingFunction("builtin", show_progress=False)
    resident: list[int] = []
    for start in range(0, count, CALL):
        function.encode(make_texts(str(BUILTIN_FOLDER), min(CALL, count - start), largest=LARGEST, seed=start))
        resident.append(resident_bytes() or 0)
    warm = resident[round(len(resident) * WARM_UP) :]
    tenth = max(1, len(warm) // 10)
    first, last = statistics.median(warm[:tenth]), statistics.median(warm[-tenth:])
    return {
        "texts": count,
        "available": True,
        "resident": resident,
        "first": first,
        "last": last,
        "highest": max(warm),
        "grown": last / first - 1,
        "highest_over": max(warm) / first - 1,
    }


def describe(r: dict[str, Any]) -> str:
    """The section as Markdown."""
    if not r["available"]:
        return "Not run: this system does not say what is resident in /proc."
    return (
        f"{r['texts']:,} texts of mixed lengths through the built-in model in calls of {CALL}: resident "
        f"{r['first'] / 2**20:,.0f} MiB after the first fifth, {r['last'] / 2**20:,.0f} MiB at the end "
        f"(**{r['grown']:+.1%}**), {r['highest'] / 2**20:,.0f} MiB at most ({r['highest_over']:+.1%})."
    )
