"""Chroma's upsert of text with the built-in model, beside the engine alone and Chroma's own writing of the vectors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from common import in_child, medians, seconds, spread

DOCUMENTS, QUICK_DOCUMENTS = 5_000, 300


def measure(folder: str, quick: bool) -> dict[str, Any]:
    rounds = 1 if quick else 3
    return in_child("ingest.upsert", count=QUICK_DOCUMENTS if quick else DOCUMENTS, rounds=rounds)


def upsert(count: int, rounds: int) -> dict[str, Any]:
    """Medians of `rounds` in which each way runs once, the order turned round in every other one."""
    import chromadb

    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.demo.corpus import read_passages

    function: Any = MLXEmbeddingFunction("builtin", show_progress=False)
    texts = [passage.text for passage in read_passages(count)]
    ids = [str(index) for index in range(len(texts))]
    vectors = list(function.encode(texts[:32]))
    vectors = list(function.encode(texts))
    measured = []
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            client = chromadb.PersistentClient(folder)
            by_text = client.create_collection("text", embedding_function=function)
            by_vector = client.create_collection("vector", embedding_function=function)

            def in_parts(collection: Any, given: Any = None, size: int = client.get_max_batch_size()) -> None:
                for start in range(0, len(texts), size):
                    part = slice(start, start + size)
                    more = {} if given is None else {"embeddings": given[part]}
                    collection.upsert(ids=ids[part], documents=texts[part], **more)

            ways: dict[str, Callable[[], Any]] = {
                "engine_s": partial(function.encode, texts),
                "write_s": partial(in_parts, by_vector, vectors),
                "upsert_s": partial(in_parts, by_text),
            }
            order = list(ways)[:: 1 if turn % 2 else -1]
            row = {name: seconds(ways[name]) for name in order}
            row["ratio"] = (row["engine_s"] + row["write_s"]) / row["upsert_s"]
            measured.append(row)
    return {"documents": len(texts), "rounds": measured, **medians(measured)}


def describe(r: dict[str, Any]) -> str:
    """The section as Markdown."""
    return (
        f"{r['documents']:,.0f} passages into a PersistentClient, medians of {len(r['rounds'])} round(s): Chroma's "
        f"upsert of the text {r['upsert_s']:.2f} s, {r['documents'] / r['upsert_s']:,.0f} documents/s; the engine "
        f"alone {r['engine_s']:.2f} s; Chroma's own upsert of the same vectors {r['write_s']:.2f} s. The upsert's "
        f"rate is **{r['ratio']:.2f}** ({spread(r['rounds'], 'ratio')}) of that of the two one after the other."
    )
