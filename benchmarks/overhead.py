"""What this project and Chroma add to the forward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

from common import in_child, medians, seconds
from workloads import make_texts

ROUNDS, QUICK_ROUNDS = 5, 2


def measure(folder: str, quick: bool) -> dict[str, Any]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    return {
        "0.6B shape": in_child("overhead.of_model", model=folder, count=8, rounds=rounds),
        "built-in": in_child("overhead.of_model", model="builtin", count=128 if quick else 512, rounds=rounds),
    }


def of_model(model: str, count: int, rounds: int) -> dict[str, Any]:
    """Medians of `rounds` in which each way runs once, so that a slow moment meets all of them alike."""
    import chromadb

    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.engine.mlx_thread import mlx_thread
    from chroma_mlx.engine.plan import make_plan

    function: Any = MLXEmbeddingFunction(model, show_progress=False)
    encoder = function.encoder()
    texts = _texts(model, count)
    loaded = encoder.load()
    plan = make_plan(encoder.vectors, loaded, "document")
    batches = [work.rows for _, work in encoder.request(texts, "document").batches()]

    def forward() -> None:
        def passes() -> None:
            for rows in batches:
                loaded.network.embed(rows, pooling=plan.pooling, skip=plan.skip, prompt=plan.prompt_tokens)

        mlx_thread.run(passes)  # without a wait between two of them

    vectors = function(texts)
    client = chromadb.EphemeralClient()
    measured = []
    for turn in range(rounds):
        ids = [f"{turn}-{index}" for index in range(count)]
        by_text = client.create_collection(f"text-{turn}", embedding_function=function)
        by_vector = client.create_collection(f"vector-{turn}", embedding_function=function)
        ways = {
            "forward_s": forward,
            "function_s": lambda: function(texts),
            "upsert_text_s": partial(by_text.upsert, ids=ids, documents=texts),
            "upsert_vectors_s": partial(by_vector.upsert, ids=ids, documents=texts, embeddings=vectors),
        }
        # Every other round the other way round: what runs first finds the machine cooler.
        row = {name: seconds(ways[name]) for name in (list(ways) if turn % 2 else reversed(ways))}
        row["project"] = row["function_s"] / row["forward_s"] - 1
        row["chroma"] = row["upsert_vectors_s"] / row["upsert_text_s"]
        row["whole"] = row["upsert_text_s"] / row["forward_s"] - 1
        measured.append(row)
    tokens = sum(len(row) for rows in batches for row in rows)
    tokenise_s = medians({"s": seconds(lambda: list(encoder.request(texts, "document").batches()))} for _ in range(5))[
        "s"
    ]
    return {"texts": count, "tokens": tokens, "batches": len(batches), "tokenise_s": tokenise_s, **medians(measured)}


def _texts(model: str, count: int) -> list[str]:
    """Real passages for the built-in model, which reads 256 tokens; the shape's own words for the shape."""
    if model != "builtin":
        return make_texts(model, count, median=60, largest=250, seed=2)
    from chroma_mlx.demo.corpus import read_passages

    return [passage.text for passage in read_passages(count)]


def describe(results: dict[str, Any]) -> str:
    """The section as Markdown."""
    rows = [
        f"| {name} | {r['texts']}, {r['tokens']:,} | {r['forward_s'] * 1000:,.0f} ms | {r['project']:+.1%} | "
        f"{r['tokenise_s'] / r['forward_s']:.1%} | {r['whole']:+.1%} | {r['chroma']:.1%} |"
        for name, r in results.items()
    ]
    return "\n".join(
        [
            "| model | texts, tokens | forward pass alone | function, beyond it | of which tokenising and planning | "
            "upsert of text, beyond it | Chroma's own share of that upsert |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )
