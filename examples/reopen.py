"""Open the collection of quickstart.py in a new process: the model and its settings come with it.

python examples/reopen.py [FOLDER]
"""

import sys

import chromadb

import chroma_mlx  # noqa: F401 - registers the embedding function, so that Chroma can rebuild it

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "chroma-data"


def main() -> None:
    notes = chromadb.PersistentClient(FOLDER).get_collection("notes")
    print(notes.configuration["embedding_function"].get_config()["model_name"])
    found = notes.query(query_texts=["my bike makes noise"], n_results=1)
    print(found["ids"][0][0], found["documents"][0][0])


if __name__ == "__main__":
    main()
