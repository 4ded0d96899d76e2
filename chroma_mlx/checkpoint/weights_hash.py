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
CHUNK_BYTES: Final = 2**20
# Keys of config.json that change no vector: who saved the file, with what, and for which library's class.
SILENT: Final = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "auto_map"}
)

Stamps = tuple[tuple[Path, int, int], ...]


def hash_model(tokenizer: Path, weights: Sequence[Path], settings: Mapping[str, Any], *, whole: bool = False) -> str:
    """Hexadecimal digits that differ when the tokenizer, the weights or the settings do: 16, or of the `whole` 64.

    Of the whole it is a SHA-256 of every byte, 0.5 to 1 s a gigabyte. Else of the settings, the tokenizer, and of
    each weight file's size, beginning, end, and 4 KiB at 1,024 places an equal way apart: all of a file below
    4 MiB. (Reading all of an 8B model would take longer than opening a collection may.) That tells models
    apart that were trained or quantised apart; a few values changed in a large file may lie between the places.
    """
    spoken = {key: value for key, value in settings.items() if key not in SILENT}
    return _hash(
        stamp_files((tokenizer, *weights)),
        json.dumps(spoken, sort_keys=True, default=str),
        whole,
    )


def stamp_files(files: Sequence[Path]) -> Stamps:
    """Their sizes and times, which are others once a file is. Raises OSError where one is gone."""
    status = [(file, file.stat()) for file in files]
    return tuple((file, one.st_size, one.st_mtime_ns) for file, one in status)


@lru_cache(maxsize=32)
def _hash(files: Stamps, settings: str, whole: bool) -> str:
    """Kept by the files' sizes and times."""
    digest = hashlib.sha256(settings.encode())
    for place, (file, size, _) in enumerate(files):
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            if whole or place == 0 or size <= SAMPLES * SAMPLE_BYTES:
                while chunk := stream.read(CHUNK_BYTES):
                    digest.update(chunk)
                continue
            for sample in range(SAMPLES):
                stream.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[: None if whole else 16]
