"""Queries behind an instruction, with its keys and values computed once and with them computed every time."""

from __future__ import annotations

import time
from typing import Any

from common import in_child, medians, percentile
from workloads import INSTRUCTION, query_lengths, texts_of

QUERIES, QUICK_QUERIES = 100, 4
BATCHES, QUICK_BATCHES = 12, 1
BATCH = 8


class NoPrompts:
    """Takes the place of a model's prompts and knows none."""

    def prefix(self, *_: Any) -> None:
        """None: every text is computed whole."""


def measure(folder: str, quick: bool) -> dict[str, Any]:
    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

    counts: dict[str, Any] = (
        {"queries": QUICK_QUERIES, "batches": QUICK_BATCHES} if quick else {"queries": QUERIES, "batches": BATCHES}
    )
    models = {"0.6B shape": (folder, folder), "built-in": ("builtin", str(BUILTIN_FOLDER))}
    return {
        name: in_child("prefix.of_model", model=model, tokenizer=tokenizer, **counts)
        for name, (model, tokenizer) in models.items()
    }


def of_model(model: str, tokenizer: str, queries: int, batches: int) -> dict[str, Any]:
    """Each query once with and once without reuse, first in every other turn; then batches of BATCH likewise."""
    import numpy as np

    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.engine.plan import make_plan
    from chroma_mlx.engine.prompts import is_reusable

    function = MLXEmbeddingFunction(model, query_instruction=INSTRUCTION, show_progress=False)
    encoder = function.encoder()
    loaded = encoder.load()
    ways = {"with": loaded.network.prompts, "without": NoPrompts()}
    texts = texts_of(tokenizer, query_lengths(queries + batches * BATCH, seed=21), seed=21)
    calls = [[text] for text in texts[:queries]]
    calls += [texts[first : first + BATCH] for first in range(queries, len(texts), BATCH)]
    for prompts in ways.values():
        object.__setattr__(loaded.network, "prompts", prompts)
        encoder.encode(texts[:1], "query")
        encoder.encode(texts[:BATCH], "query")
    times: dict[str, list[float]] = {name: [] for name in ways}
    furthest = 0.0
    for turn, call in enumerate(calls):
        found = []
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            object.__setattr__(loaded.network, "prompts", ways[name])
            start = time.perf_counter()
            found.append(encoder.encode(call, "query"))
            times[name].append(time.perf_counter() - start)
        furthest = max(furthest, float(np.abs(found[0] - found[1]).max()))
    result: dict[str, Any] = {"queries": queries, "batches": batches, "furthest": furthest}
    for name, taken in times.items():
        result[f"{name}_p50_s"] = percentile(taken[:queries], 50)
        result[f"{name}_p95_s"] = percentile(taken[:queries], 95)
        result[f"{name}_batch_s"] = medians({"s": each} for each in taken[queries:])["s"]
    own = sum(loaded.tokenizer.lengths(texts[queries:])) + batches * BATCH * loaded.tokenizer.special_tokens
    plan = make_plan(encoder.vectors, loaded, "query")
    reused = is_reusable(plan.prompt_tokens, causal=loaded.network.causal, pooling=plan.pooling)
    result["batch_tokens_times"] = 1 + (batches * BATCH * len(plan.prompt_tokens) / own if reused else 0)
    result["p50_ratio"] = result["with_p50_s"] / result["without_p50_s"]
    result["batch_times"] = result["without_batch_s"] / result["with_batch_s"]
    return result


def describe(results: dict[str, Any]) -> str:
    """The section as Markdown."""
    lines = [
        "| model | one query: p50 with reuse, without | with, of without | batches of 8: with, without | times faster "
        "| times fewer tokens | largest difference |\n|---|---|---|---|---|---|---|"
    ]
    for name, r in results.items():
        lines.append(
            f"| {name} | {r['with_p50_s'] * 1000:,.1f} ms, {r['without_p50_s'] * 1000:,.1f} ms | {r['p50_ratio']:.2f} "
            f"| {r['with_batch_s'] * 1000:,.1f} ms, {r['without_batch_s'] * 1000:,.1f} ms | {r['batch_times']:.2f} "
            f"| {r['batch_tokens_times']:.2f} | {r['furthest']:.1e} |"
        )
    return "\n".join(lines)
