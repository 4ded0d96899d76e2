"""The two hashes by which the Hub names contents: SHA-256 of large files, git's SHA-1 of small ones."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

SHA256: Final = re.compile(r"[0-9a-f]{64}")
SHA1: Final = re.compile(r"[0-9a-f]{40}")
CHUNK_BYTES: Final = 2**20


def matching(pattern: re.Pattern[str], value: object) -> str | None:
    """The value if it is a text of that form. What is not is never used as a file's name."""
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def hash_like(file: Path, expected: str) -> str:
    """The hash of a file's content, of the kind that `expected` is by its length."""
    large = SHA256.fullmatch(expected) is not None
    digest = hashlib.sha256() if large else hashlib.sha1(usedforsecurity=False)
    with file.open("rb") as stream:
        if not large:
            digest.update(f"blob {file.stat().st_size}\0".encode())
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
