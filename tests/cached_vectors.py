"""What the tests of the vector cache share: texts that go through it, vectors of a test's own, other processes."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from small import CHECKPOINTS

from chroma_mlx.engine.encoder import Embedded, Encoder
from chroma_mlx.engine.plan import Kind
from chroma_mlx.settings import MachineSettings, VectorSettings

Vectors = npt.NDArray[np.float32]

TESTS: Final = Path(__file__).parent
FOLDER: Final = str(CHECKPOINTS / "official-float32")
WIDTH: Final = 32
ROOMY: Final = 10**8


def embed(
    texts: list[str],
    file: Path | None,
    *,
    kind: Kind = "document",
    model: str = FOLDER,
    machine: dict[str, Any] | None = None,
    **vectors: Any,
) -> Embedded:
    options = MachineSettings(device="cpu", embedding_cache=file, **(machine or {}))
    return Encoder(VectorSettings(model_name=model, **vectors), options).embed(texts, kind)


def key_of(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


def keys_of(*numbers: int) -> list[bytes]:
    return [key_of(number) for number in numbers]


def random_vectors(rows: int, dimension: int = WIDTH, seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """The file as another program has it."""
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def run_python(code: str, *arguments: object) -> None:
    """Runs a script that must end well and without a warning."""
    run = subprocess.run([*command(code), *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")


def command(code: str) -> list[str]:
    """How to run a script, which may import this package and this module."""
    path = [str(TESTS.parent), str(TESTS)]
    return [sys.executable, "-W", "error", "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"]
