"""Documents embedded again after one in a hundred was edited, with the cache of vectors and without it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common import in_child, medians, seconds, spread
from workloads import CHANGED, change_some, make_texts

LARGEST = 256
COUNTS = {"built-in": (2_000, 200), "0.6B shape": (100, 10)}  # documents, and of a quick run


def measure(folder: str, quick: bool) -> dict[str, Any]:
    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

    models = {"built-in": ("builtin", str(BUILTIN_FOLDER)), "0.6B shape": (folder, folder)}
    results = {}
    for name, (model, tokenizer) in models.items():
        arguments: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "count": COUNTS[name][1 if quick else 0]}
        rounds = []
        for _ in range(1 if quick else 2):
            with tempfile.TemporaryDirectory() as scratch:
                cache = str(Path(scratch) / "vectors")
                filled = in_child("reingest.embed", **arguments, cache=cache, changed=False)
                on = in_child("reingest.embed", **arguments, cache=cache, changed=True)
                off = in_child("reingest.embed", **arguments, cache=None, changed=True)
                rounds.append(
                    {
                        "first_s": filled["seconds"],
                        "on_s": on["seconds"],
                        "off_s": off["seconds"],
                        "times": off["seconds"] / on["seconds"],
                        "furthest": max(abs(a - b) for a, b in zip(on["marks"], off["marks"], strict=True)),
                    }
                )
        results[name] = {"documents": arguments["count"], "rounds": rounds, **medians(rounds)}
    return results


def embed(model: str, tokenizer: str, count: int, cache: str | None, changed: bool) -> dict[str, Any]:
    """One call with all documents in a fresh process, the model loaded.

    `marks`: of each vector its product with a fixed one, which a value that differs or stands elsewhere changes.
    """
    import numpy as np

    from chroma_mlx import MLXEmbeddingFunction

    options: dict[str, Any] = {"show_progress": False}
    if cache is not None:
        options["embedding_cache"] = cache
    texts = make_texts(tokenizer, count, largest=LARGEST, seed=31)
    texts = change_some(texts) if changed else texts
    function = MLXEmbeddingFunction(model, **options)
    function.load()
    function.encode(["warm up"])
    found: list[Any] = []
    taken = seconds(lambda: found.append(function.encode(texts)))
    fixed = np.random.default_rng(0).standard_normal(found[0].shape[1])
    return {"seconds": taken, "marks": (found[0] @ fixed).tolist()}


def describe(results: dict[str, Any]) -> str:
    """The section as Markdown."""
    lines = [
        f"Documents embedded again in a fresh process, {CHANGED:.0%} of them edited.\n",
        "| model | documents | first time, filling the cache | again, without | again, with the cache | times faster "
        "| largest difference |\n|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        lines.append(
            f"| {name} | {r['documents']:,.0f} | {r['first_s']:.2f} s | {r['off_s']:.2f} s | {r['on_s']:.3f} s | "
            f"{r['times']:.1f} ({spread(r['rounds'], 'times')}) | {r['furthest']:.1e} |"
        )
    return "\n".join(lines)
