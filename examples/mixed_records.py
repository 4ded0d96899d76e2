"""Records with text and records with vectors in one call: only what has no vector is embedded.

python examples/mixed_records.py [FOLDER]
"""

import sys

import chromadb

from chroma_mlx import EmbeddingRouter, Record

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "chroma-data"


def main() -> None:
    # "builtin" needs no download; leave it out for what your configuration names, or Qwen3-Embedding-0.6B.
    router = EmbeddingRouter(model_name="builtin")
    pantry = router.collection(chromadb.PersistentClient(FOLDER), "pantry")
    # A vector that is there already: made by the same model, perhaps on another machine.
    [ready] = router.embed(["Honey keeps for years in a closed jar."])
    done = pantry.upsert(
        [
            {"id": "flour", "text": "Strong flour makes a good loaf of bread.", "metadata": {"shelf": 1}},
            {
                "id": "honey",
                "text": "Honey keeps for years in a closed jar.",
                "vector": ready,
                "metadata": {"shelf": 2},
            },
            Record("tea", text="Green tea wants water below boiling.", metadata={"shelf": 2}),
        ]
    )
    print(f"{done.inserted} inserted, {done.embedded} embedded, {done.provided} provided, {done.tokens} tokens")
    print(pantry.query("what do I need to bake?", n_results=2))
    print(pantry.query("something sweet", where={"shelf": 2}).rows()[0]["text"])
    print(f"{pantry.count()} records, says Chroma itself")


if __name__ == "__main__":
    main()
