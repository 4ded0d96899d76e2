"""The demo's collection: filled once, picked up where an interrupted run left it, then asked."""

from __future__ import annotations

import json
import platform
import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from ..checkpoint.snapshot import find_snapshot
from ..errors import CacheError
from ..functions import MLXEmbeddingFunction
from ..models.known import DEFAULT_MODEL, KNOWN_MODELS
from ..progress import progress_bar
from .corpus import read_passages

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection

BUILTIN: Final = "builtin"
# A call embeds and stores this many; what a kill loses is at most one of them.
PASSAGES_A_CALL: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The model of the demo, and in words why this one and how to get the other."""

    model_name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingest:
    """What filling the collection did: passages in all, passages embedded now, and seconds for these."""

    passages: int
    embedded: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A passage that answers, its cosine similarity to the question, and where a person finds it."""

    id: str
    similarity: float
    source: str
    text: str


def choose_model(model_name: str | None, *, configured: str | None = None) -> Choice:
    """`model_name` where given, else the configured one, else the default if it is cached, else the built-in."""
    if model_name is not None:
        return Choice(model_name=model_name, why="as asked for by --model")
    if configured is not None:
        return Choice(model_name=configured, why="as configured")
    repo_id = KNOWN_MODELS[DEFAULT_MODEL].repo_id
    if repo_id is not None and _is_cached(repo_id):
        return Choice(
            model_name=DEFAULT_MODEL,
            why=f"it is in the cache; `--model {BUILTIN}` takes the small model of this package",
        )
    return Choice(
        model_name=BUILTIN,
        why=f"it needs no download; `--model {DEFAULT_MODEL}` downloads the default model, which is far better",
    )


def _is_cached(repo_id: str) -> bool:
    try:
        return find_snapshot(repo_id, None) is not None
    except CacheError:  # the built-in model needs no cache
        return False


def open_collection(client: ClientAPI, function: MLXEmbeddingFunction, *, limit: int | None, reset: bool) -> Collection:
    """The collection of this model, interpreter and limit; an older one of the same name is replaced."""
    model = str(function.get_config()["model_name"])
    # Chroma types this argument for text and images at once, which no function for text alone fits.
    passed = cast(Any, function)
    # A name of Chroma's takes few characters; the checksum tells two folders apart that look alike in them.
    slug = model if model in KNOWN_MODELS else f"{model[-40:]}-{zlib.crc32(model.encode()):08x}"
    name = "ask-python-" + re.sub(r"[^a-z0-9.]+", "-", slug.lower()).strip("-.") + (f"-{limit}" if limit else "")
    settings = json.dumps(function.get_config())
    made_of = {"python": platform.python_version(), "settings": settings, "limit": limit or 0}
    existing = {collection.name: collection for collection in client.list_collections()}
    if name in existing:
        metadata = existing[name].metadata or {}
        if not reset and all(metadata.get(key) == value for key, value in made_of.items()):
            return client.get_collection(name, embedding_function=passed)
        client.delete_collection(name)
    return client.create_collection(name, embedding_function=passed, metadata=made_of)


def fill_collection(collection: Collection, *, limit: int | None) -> Ingest:
    """Embeds and stores the passages that are not there yet; none when an earlier run completed."""
    metadata: dict[str, Any] = dict(collection.metadata or {})
    if metadata.get("complete"):
        return Ingest(passages=collection.count(), embedded=0, seconds=0.0)
    passages = read_passages(limit)
    stored = set(collection.get(include=[])["ids"])
    missing = [passage for passage in passages if passage.id not in stored]
    started = time.perf_counter()
    with progress_bar(len(missing), None, unit="passages") as bar:
        for start in range(0, len(missing), PASSAGES_A_CALL):
            part = missing[start : start + PASSAGES_A_CALL]
            collection.add(
                ids=[passage.id for passage in part],
                documents=[passage.text for passage in part],
                metadatas=[{"source": passage.source, "heading": passage.heading} for passage in part],
            )
            bar.update(len(part))
    seconds = time.perf_counter() - started
    collection.modify(metadata={**metadata, "complete": True})
    return Ingest(passages=len(passages), embedded=len(missing), seconds=seconds)


def ask(collection: Collection, questions: Sequence[str], *, n_results: int) -> list[list[Answer]]:
    """The best passages for each question, best first."""
    found = collection.query(query_texts=list(questions), n_results=min(n_results, collection.count()))
    # What a query includes unless it is told otherwise; the types allow None for each.
    documents, metadatas, distances = found["documents"] or [], found["metadatas"] or [], found["distances"] or []
    return [
        [
            Answer(id=id, similarity=1.0 - distance, source=str(metadata["source"]), text=document)
            for id, document, metadata, distance in zip(*columns, strict=True)
        ]
        for columns in zip(found["ids"], documents, metadatas, distances, strict=True)
    ]


def open_client(path: Path) -> ClientAPI:
    """A persistent client on `path` that tells nobody."""
    import chromadb
    from chromadb.config import Settings

    path.mkdir(parents=True, exist_ok=True)
    return chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))
