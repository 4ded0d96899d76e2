"""A file that is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import ConfigError


def check_writable(path: Path, *, replace: bool) -> None:
    """Raises ConfigError when there is a file already and `replace` is not given, or no folder for it."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder. Name a file in it.")
    if path.exists() and not replace:
        raise ConfigError(f"{path} is there already. Pass --force to replace it, or another name.")
    if not path.parent.is_dir():
        raise ConfigError(f"There is no folder {str(path.parent)!r} to write to. Make it first.")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which has its name once all of it is on the disk, and is removed when the writing fails."""
    # Beside it, so that moving it is one step; of this process, so that two do not write into one file.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
