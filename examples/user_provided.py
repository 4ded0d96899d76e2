"""Vectors that you have already: no model is loaded, and text without a vector is refused.

python examples/user_provided.py [FOLDER]
"""

import sys

import chromadb

from chroma_mlx import EmbeddingRouter
from chroma_mlx.errors import RecordError

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "chroma-data"
COLOURS = {"brick": [0.7, 0.2, 0.1], "moss": [0.2, 0.5, 0.1], "sea": [0.1, 0.3, 0.7], "wine": [0.5, 0.0, 0.1]}


def main() -> None:
    router = EmbeddingRouter(mode="user_provided")
    colours = router.collection(chromadb.PersistentClient(FOLDER), "colours")
    done = colours.upsert([{"id": name, "text": f"the colour {name}", "vector": rgb} for name, rgb in COLOURS.items()])
    print(f"{done.provided} vectors stored, {done.embedded} texts embedded")
    print(colours.query(vector=[0.6, 0.1, 0.1], n_results=2))
    try:
        colours.upsert([{"id": "sky", "text": "the colour of the sky"}])
    except RecordError as error:
        print(error)


if __name__ == "__main__":
    main()
