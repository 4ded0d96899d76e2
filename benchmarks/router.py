"""What the router's checks add to Chroma's own upsert of vectors that users provide."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from common import in_child, medians, seconds

RECORDS, WIDTH = 10_000, 1_024
ROUNDS, QUICK_ROUNDS = 5, 1


def measure(folder: str, quick: bool) -> dict[str, Any]:
    return in_child("router.of_provided", records=RECORDS, rounds=QUICK_ROUNDS if quick else ROUNDS)


def of_provided(records: int, rounds: int) -> dict[str, Any]:
    """Medians of `rounds` in which each way runs once, first in every other round."""
    import chromadb
    import numpy as np

    from chroma_mlx import EmbeddingRouter

    vectors = np.random.default_rng(0).standard_normal((records, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [f"The text of record {number}." for number in range(records)]
    rows = [
        {"id": str(number), "text": text, "vector": vector, "metadata": {"number": number}}
        for number, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]
    router = EmbeddingRouter(mode="user_provided")
    function: Any = router.embedding_function
    measured = []
    for turn in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            client = chromadb.PersistentClient(folder)
            size = client.get_max_batch_size()
            plain = client.create_collection("plain", embedding_function=function)
            routed = router.collection(client, "routed")

            def by_chroma(collection: Any = plain, size: int = size) -> None:
                for start in range(0, records, size):
                    part = slice(start, start + size)
                    collection.upsert(
                        ids=[row["id"] for row in rows[part]],
                        embeddings=list(vectors[part]),
                        documents=texts[part],
                        metadatas=[row["metadata"] for row in rows[part]],
                    )

            ways: dict[str, Callable[[], Any]] = {"chroma_s": by_chroma, "router_s": partial(routed.upsert, rows)}
            order = list(ways) if turn % 2 else list(ways)[::-1]
            row = {name: seconds(ways[name]) for name in order}
            # The same call with a database that takes no time: what is left is the router.
            routed._target.chroma = _Nothing(routed._target.chroma)
            row["alone_s"] = seconds(partial(routed.upsert, rows))
            measured.append(row | {"overhead": row["router_s"] / row["chroma_s"] - 1})
    return {"records": records, "width": WIDTH, "rounds": rounds, **medians(measured)}


class _Nothing:
    """A collection that stores nothing."""

    def __init__(self, collection: Any) -> None:
        self.id, self.name, self.configuration_json = collection.id, collection.name, collection.configuration_json

    def get(self, **_: Any) -> dict[str, list[str]]:
        return {"ids": []}

    def upsert(self, **_: Any) -> None:
        return None


def describe(results: dict[str, Any]) -> str:
    """The section as Markdown."""
    r = results
    return (
        f"{r['records']:,} records with text, metadata and a {r['width']}-d vector into a PersistentClient, medians of "
        f"{r['rounds']} rounds: Chroma's own upsert {r['chroma_s']:.2f} s, the router's {r['router_s']:.2f} s "
        f"({r['overhead']:+.1%}). The router's own work, without the database: {r['alone_s'] * 1000:.0f} ms, "
        f"{r['alone_s'] / r['chroma_s']:.1%} of Chroma's."
    )
