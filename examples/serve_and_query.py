"""A server holds the model, and this program's collection asks it: no model is loaded here.

python examples/serve_and_query.py [FOLDER]
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import chromadb
import httpx

from chroma_mlx import RemoteEmbeddingFunction

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "chroma-data"


@contextmanager
def server(model: str) -> Iterator[str]:
    """The address of a `chroma-mlx serve` on a free port. Yours would be started once, for all programs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "chroma_mlx", "serve", "--model", model, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while not is_ready(url):
                if process.poll() is not None:
                    sys.exit(f"The server ended with {process.returncode}: {' '.join(command)} says why.")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()  # it answers what is under way, and ends


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:  # it does not listen yet
        return False


def main() -> None:
    with server("builtin") as url:
        function = RemoteEmbeddingFunction("builtin", url=url)
        client = chromadb.PersistentClient(FOLDER)
        notes = client.get_or_create_collection("served-notes", embedding_function=function)
        notes.upsert(
            ids=["bread", "bike", "tomato"],
            documents=[
                "Knead the dough for ten minutes, then let it rise under a cloth.",
                "A squeaking bicycle chain wants oil, and less of it than you think.",
                "Tomato plants grow best in full sun, tied to a stake.",
            ],
        )
        found = notes.query(query_texts=["how do I bake a loaf?"], n_results=1)
        print(found["ids"][0][0], found["documents"][0][0])
        served = httpx.get(f"{url}/models").json()[0]
        print(f"{served['name']}, {served['dimension']} dimensions, loaded: {served['loaded']}")
    print("mlx" if "mlx.core" in sys.modules else "no mlx", "in this program")


if __name__ == "__main__":
    main()
