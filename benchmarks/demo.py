"""The demo's corpus with the built-in model: how fast it goes in, and how often the answer is found."""

from __future__ import annotations

import time
from typing import Any

from common import in_child, medians

ASKED = (1, 5, 10)


def measure(folder: str, quick: bool) -> dict[str, Any]:
    limit = 1_000 if quick else None
    rounds = [in_child("demo.ingest_and_ask", limit=limit) for _ in range(1 if quick else 2)]
    return {**medians(rounds), "rounds": rounds}


def ingest_and_ask(limit: int | None) -> dict[str, Any]:
    """Reads the corpus, puts it into a collection in memory, and asks every question by text."""
    import chromadb

    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.demo.corpus import read_passages
    from chroma_mlx.demo.questions import hit_at_k, load_questions

    start = time.perf_counter()
    passages = read_passages(limit)
    read_s = time.perf_counter() - start
    client = chromadb.EphemeralClient()
    function: Any = MLXEmbeddingFunction("builtin", show_progress=False)
    collection = client.create_collection("demo", embedding_function=function)
    function(["Loads the model."])
    step = client.get_max_batch_size()
    start = time.perf_counter()
    for first in range(0, len(passages), step):
        part = passages[first : first + step]
        collection.upsert(ids=[passage.id for passage in part], documents=[passage.text for passage in part])
    ingest_s = time.perf_counter() - start
    hits: dict[str, float] = {}
    for name in ("plain", "reworded"):
        questions = load_questions(reworded=name == "reworded")
        start = time.perf_counter()
        found = [collection.query(query_texts=[q.text], n_results=max(ASKED), include=[])["ids"][0] for q in questions]
        ask_s = time.perf_counter() - start
        hits |= {f"{name}_hit@{k}": hit_at_k(found, k, questions) for k in ASKED}
    return {
        "passages": len(passages),
        "characters": sum(len(passage.text) for passage in passages),
        "questions": len(questions),
        "read_s": read_s,
        "ingest_s": ingest_s,
        "documents_per_s": len(passages) / ingest_s,
        "query_s": ask_s / len(questions),
        **hits,
    }


def describe(r: dict[str, Any]) -> str:
    """The section as Markdown."""
    hits = {name: ", ".join(f"hit@{k} **{r[f'{name}_hit@{k}']:.3f}**" for k in ASKED) for name in ("plain", "reworded")}
    return f"""\
- {r["passages"]:,.0f} passages ({r["characters"] / r["passages"]:.0f} characters each) read in {r["read_s"]:.1f} s \
and ingested in {r["ingest_s"]:.1f} s: {r["documents_per_s"]:.0f} documents/s.
- {r["questions"]:.0f} questions as people type them: {hits["plain"]}; {r["query_s"] * 1000:.1f} ms a question, \
embedding and search.
- {r["questions"]:.0f} questions worded to avoid the words of the answer: {hits["reworded"]}."""
