"""Sources for tests of the ingest, and what they became."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """A line for each row; a text is a line as it is."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def numbered(count: int) -> list[dict[str, Any]]:
    """Records of one passage each."""
    return [{"id": f"r{number}", "text": f"Record {number} is of thing {number % 7}."} for number in range(count)]


def contents(collection: Any) -> dict[str, tuple[str, dict[str, Any], bytes]]:
    """Everything that a collection holds, by id: text, metadata, and the bytes of the vector."""
    found = collection.get(include=["documents", "metadatas", "embeddings"])
    vectors = np.asarray(found["embeddings"], dtype=np.float32)
    rows = zip(found["ids"], found["documents"], found["metadatas"], vectors, strict=True)
    return {id: (text, dict(metadata or {}), vector.tobytes()) for id, text, metadata, vector in rows}
