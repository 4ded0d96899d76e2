"""Tells one model from another in milliseconds, wherever its files lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

SAMPLES: Final = 1_024
SAMPLE_BYTES: Final = 4_096
# Keys of config.json that change no vector: who saved the file, with what, and for which library's class.
SILENT: Final = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "auto_map"}
)


def hash_model(tokenizer: Path, weights: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that differ when the tokenizer, the weights or the settings do.

    A SHA-256 of the settings, the tokenizer, and of each weight file's size, beginning, end, and 4 KiB at
    1,024 places an equal way apart: all of a file below 4 MiB, and a part of every matrix of a large one.
    (Reading all of an 8B model would take longer than opening a collection may.)
    """
    status = [(file, file.stat()) for file in (tokenizer, *weights)]
    spoken = {key: value for key, value in settings.items() if key not in SILENT}
    return _hash(
        tuple((file, one.st_size, one.st_mtime_ns) for file, one in status),
        json.dumps(spoken, sort_keys=True, default=str),
    )


@lru_cache(maxsize=32)
def _hash(files: tuple[tuple[Path, int, int], ...], settings: str) -> str:
    """Kept by the files' sizes and times."""
    digest = hashlib.sha256(settings.encode())
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
