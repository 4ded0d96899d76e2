"""`chroma-mlx ingest` with the built-in model, beside the engine alone and Chroma alone with ready vectors.

    python benchmarks/ingest_files.py [--quick] [--documents N] [--rounds N] [--ray] [--json FILE]

Prints Markdown: the first run into a PersistentClient, a second one unchanged, one with 1 % edited, and memory. (The
section `ingest` of run.py is another matter: Chroma's own upsert of text.) With `--ray` instead the first run into
`chroma run`, by one process and by two workers of Ray's.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from common import (
    at_least_one,
    environment,
    in_child,
    machine,
    medians,
    resident_bytes_of,
    seconds,
    spread,
    writable_file,
)
from workloads import CHANGED, change_some, make_texts

DOCUMENTS, QUICK_DOCUMENTS = 100_000, 1_000
MEDIAN, LARGEST = 40, 200  # tokens: each document is one passage
TEXTS_A_CALL = 4_096
LOOK_S = 0.25
START_TRIES = 240
WORKERS = 2
COLLECTION = "documents"


def write_documents(file: Path, texts: list[str]) -> None:
    rows = ({"id": f"document-{place}", "text": text, "group": place % 10} for place, text in enumerate(texts))
    with file.open("w", encoding="utf-8") as opened:
        opened.writelines(json.dumps(row) + "\n" for row in rows)


def read_documents(file: str) -> list[dict[str, Any]]:
    with open(file, encoding="utf-8") as opened:
        return [json.loads(line) for line in opened]


def engine(file: str, vectors: str) -> dict[str, Any]:
    """The engine alone, the model loaded; its vectors are kept for `chroma`."""
    import numpy as np

    from chroma_mlx import MLXEmbeddingFunction

    texts = [row["text"] for row in read_documents(file)]
    function = MLXEmbeddingFunction("builtin", show_progress=False)
    function.encode(texts[:64])
    made: list[Any] = []

    def embed() -> None:
        made.extend(
            function.encode(texts[start : start + TEXTS_A_CALL]) for start in range(0, len(texts), TEXTS_A_CALL)
        )

    taken = seconds(embed)
    np.save(vectors, np.concatenate(made))
    return {"seconds": taken}


def chroma(file: str, vectors: str, folder: str) -> dict[str, Any]:
    """Chroma alone: the same records as the ingest stores, their vectors ready, in calls as large as it takes."""
    import chromadb
    import numpy as np

    from chroma_mlx import MLXEmbeddingFunction
    from chroma_mlx.ingestion.passage import make_passage

    client = chromadb.PersistentClient(folder)
    function: Any = MLXEmbeddingFunction("builtin")
    collection = client.create_collection(COLLECTION, embedding_function=function)
    passages = [
        make_passage(row["id"], row["text"], {"group": row["group"], "source": file}) for row in read_documents(file)
    ]
    ready, size = np.load(vectors), client.get_max_batch_size()

    def write() -> None:
        for start in range(0, len(passages), size):
            part = passages[start : start + size]
            collection.upsert(
                ids=[each.id for each in part],
                documents=[each.text for each in part],
                metadatas=[dict(each.metadata) for each in part],
                embeddings=list(ready[start : start + size]),
            )

    return {"seconds": seconds(write)}


def run(file: Path, home: Path, *where: str) -> dict[str, Any]:
    """The command in a process of its own: its summary, the seconds from start to end, and what it held on the way.

    `where` are its options for the database; without, that in `home`.
    """
    command = [sys.executable, "-m", "chroma_mlx", "ingest", str(file), "--collection", COLLECTION, "--json"]
    command += ["--model", "builtin", "--id-column", "id", *(where or ("--path", str(home / "data")))]
    started, held = time.perf_counter(), list[int]()
    places = {"XDG_STATE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    process = subprocess.Popen(command, cwd=home, env={**environment(), **places}, stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        while process.poll() is None:
            if now := resident_bytes_of(process.pid):
                held.append(now)
            time.sleep(LOOK_S)

    watching = threading.Thread(target=watch)
    watching.start()
    printed = process.communicate()[0]
    wall = time.perf_counter() - started
    watching.join()
    if process.returncode != 0:
        raise SystemExit(f"the ingest ended with exit status {process.returncode}")
    summary = json.loads(printed)
    return {
        **{name: summary[name] for name in ("added", "updated", "unchanged", "embedded", "failed")},
        "wall_s": wall,
        "run_s": summary["seconds"],
        "peak": max(held, default=0),
        "quarters": [held[len(held) * part // 4 - 1] for part in (1, 2, 3, 4)] if len(held) > 3 else [],
    }


def measure(documents: int) -> dict[str, Any]:
    """One round of everything, in a folder that is gone behind it."""
    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

    texts = make_texts(str(BUILTIN_FOLDER), documents, median=MEDIAN, largest=LARGEST, seed=41)
    with tempfile.TemporaryDirectory(prefix="chroma-mlx-ingest-") as scratch:
        home = Path(scratch)
        file, vectors = home / "documents.jsonl", str(home / "vectors.npy")
        write_documents(file, texts)
        alone = in_child("ingest_files.engine", file=str(file), vectors=vectors)["seconds"]
        written = in_child("ingest_files.chroma", file=str(file), vectors=vectors, folder=str(home / "alone"))[
            "seconds"
        ]
        first, second = run(file, home), run(file, home)
        write_documents(file, change_some(texts))
        edited = run(file, home)
    return {
        "engine_s": alone,
        "chroma_s": written,
        "first_s": first["wall_s"],
        "ratio": max(alone, written) / first["wall_s"],
        "second_s": second["wall_s"],
        "times": first["wall_s"] / second["wall_s"],
        "edited_s": edited["wall_s"],
        "embedded": edited["embedded"],
        "peak": first["peak"],
        "quarters": first["quarters"],
        "right": (first["added"], second["unchanged"], second["embedded"]) == (documents, documents, 0),
    }


@contextmanager
def chroma_run(home: Path) -> Iterator[int]:
    """A server of Chroma's with an empty database; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    home.mkdir()
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(home), "--port", str(port)]
    server = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(START_TRIES):
            try:
                httpx.get(f"http://127.0.0.1:{port}/api/v2/heartbeat").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(LOOK_S)
        else:
            raise SystemExit("chroma run gave no heartbeat")
        yield port
    finally:
        server.terminate()
        server.wait()


def measure_ray(documents: int, turn: int) -> dict[str, Any]:
    """One round of both ways into a server of their own each, the order turned round in every other one."""
    from chroma_mlx.checkpoint.locate import BUILTIN_FOLDER

    texts = make_texts(str(BUILTIN_FOLDER), documents, median=MEDIAN, largest=LARGEST, seed=41)
    ways = {"one_s": (), "two_s": ("--ray", "--workers", str(WORKERS))}
    row: dict[str, Any] = {"right": True}
    with tempfile.TemporaryDirectory(prefix="chroma-mlx-ingest-") as scratch:
        home = Path(scratch)
        file = home / "documents.jsonl"
        write_documents(file, texts)
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            with chroma_run(home / name) as port:
                done = run(file, home, "--host", "127.0.0.1", "--port", str(port), *ways[name])
            row[name], row["right"] = done["wall_s"], row["right"] and done["added"] == documents
    return {**row, "ratio": row["one_s"] / row["two_s"]}


def describe_ray(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rounds, documents = found["rounds"], found["documents"]
    return (
        f"{documents:,} documents of {MEDIAN} tokens in the median into `chroma run`, medians of {len(rounds)} "
        f"round(s), each from the start of its process to its end: one process {found['one_s']:.1f} s, "
        f"{documents / found['one_s']:,.0f} documents/s; {WORKERS} workers of Ray's, Ray's own start included, "
        f"{found['two_s']:.1f} s, {documents / found['two_s']:,.0f} documents/s: **{found['ratio']:.2f}** "
        f"({spread(rounds, 'ratio')}) times the rate. Every count was "
        f"{'right' if all(row['right'] for row in rounds) else 'WRONG'}."
    )


def describe(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rounds, documents = found["rounds"], found["documents"]
    mib = " / ".join(f"{held / 2**20:.0f}" for held in found["quarters"])
    edited = round(documents * CHANGED)
    return "\n".join(
        [
            f"{documents:,} documents of {MEDIAN} tokens in the median, medians of {len(rounds)} round(s), each run "
            "from the start of its process to its end.\n",
            "| | seconds | documents/s |\n|---|---|---|",
            *(
                f"| {name} | {found[key]:.1f} | {documents / found[key]:,.0f} |"
                for name, key in (
                    ("the engine alone", "engine_s"),
                    ("Chroma alone, ready vectors", "chroma_s"),
                    ("ingest, first run", "first_s"),
                    ("ingest, nothing changed", "second_s"),
                    (f"ingest, {CHANGED:.0%} edited", "edited_s"),
                )
            ),
            "",
            f"The first run has **{found['ratio']:.2f}** ({spread(rounds, 'ratio')}) of the rate of the slower of the "
            f"two. The second is **{found['times']:.0f} times** faster ({spread(rounds, 'times')}). Of {edited:,} "
            f"edited documents {found['embedded']:,.0f} were embedded. Resident memory, the engine's process with it: "
            f"{found['peak'] / 2**20:.0f} MiB at most; at each quarter of the run {mib} MiB. Every count was "
            f"{'right' if found['right'] else 'WRONG'}.",
        ]
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_DOCUMENTS:,} documents: a look, not a result")
    parser.add_argument("--documents", type=at_least_one, metavar="N", help=f"how many ({DOCUMENTS:,})")
    parser.add_argument("--rounds", type=at_least_one, default=1, metavar="N", help="how often (1)")
    parser.add_argument("--ray", action="store_true", help=f"{WORKERS} workers of Ray's beside one process")
    parser.add_argument("--json", type=writable_file, metavar="FILE", help="also write every figure to FILE")
    options = parser.parse_args()
    documents = options.documents or (QUICK_DOCUMENTS if options.quick else DOCUMENTS)
    rounds = [measure_ray(documents, turn) if options.ray else measure(documents) for turn in range(options.rounds)]
    found = {"documents": documents, "rounds": rounds, **medians(rounds)}
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **found}, indent=1))
    print(describe_ray(found) if options.ray else describe(found))


if __name__ == "__main__":
    main()
