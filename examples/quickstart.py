"""Create a collection, upsert raw text, query by text.

    python examples/quickstart.py [FOLDER]

Then open it again in a new process: python examples/reopen.py [FOLDER]
"""

import sys

import chromadb

from chroma_mlx import MLXEmbeddingFunction

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "chroma-data"


def main() -> None:
    client = chromadb.PersistentClient(FOLDER)
    # "builtin" needs no download; leave the name out for Qwen3-Embedding-0.6B.
    function = MLXEmbeddingFunction("builtin")
    notes = client.get_or_create_collection("notes", embedding_function=function)
    notes.upsert(
        ids=["bread", "bike", "tomato"],
        documents=[
            "Knead the dough for ten minutes, then let it rise under a cloth.",
            "A squeaking bicycle chain wants oil, and less of it than you think.",
            "Tomato plants grow best in full sun, tied to a stake.",
        ],
        metadatas=[{"room": "kitchen"}, {"room": "garage"}, {"room": "garden"}],
    )
    print(f"{notes.count()} notes")
    found = notes.query(query_texts=["how do I bake a loaf?"], n_results=1)
    print(found["ids"][0][0], found["documents"][0][0])


if __name__ == "__main__":
    main()
