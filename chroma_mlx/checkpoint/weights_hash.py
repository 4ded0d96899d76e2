"""Tells one model's weights from another's in milliseconds, wherever the files lie."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final

from .open import Checkpoint

SAMPLES: Final = 1_024
SAMPLE_BYTES: Final = 4_096


def hash_weights(checkpoint: Checkpoint) -> str:
    """16 hexadecimal digits that differ when the weights or the tokenizer do.

    A SHA-256 of the tokenizer and of each weight file's size, beginning, end, and 4 KiB at 1,024 places an
    equal way apart: all of a file below 4 MiB, and a part of every matrix of a large one. (Reading all of
    an 8B model would take longer than opening a collection may.)
    """
    status = [(file, file.stat()) for file in (checkpoint.tokenizer_file, *checkpoint.files)]
    return _hash(tuple((file, one.st_size, one.st_mtime_ns) for file, one in status))


@lru_cache(maxsize=32)
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Kept by the files' sizes and times."""
    digest = hashlib.sha256()
    for place, (file, size, _) in enumerate(files):
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            if place == 0 or size <= SAMPLES * SAMPLE_BYTES:
                digest.update(stream.read())
                continue
            for sample in range(SAMPLES):
                stream.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
