"""What was refused: a line of JSON each, in a file that is made with the first."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Final, TextIO

from ..errors import ConfigError
from .passage import Reject
from .readers.rows import MAX_LINE_BYTES
from .report import REJECTS_HELD

# What every line of the file has.
OWN: Final = ("source", "id", "reason", "record")
BEGINNING: Final = b'{"source": "'


class Rejects:
    """Counts and writes rejects; safe from any thread. The file of an earlier run is replaced by the first one."""

    def __init__(self, path: Path | None) -> None:
        """Raises ConfigError where the file could not be written, or is another's."""
        if path is not None and not path.parent.is_dir():
            raise ConfigError(
                f"There is no folder {str(path.parent)!r} for the rejects. Make it, or name another file."
            )
        if path is not None and path.is_dir():
            raise ConfigError(f"{str(path)!r} is a folder. Name a file in it for the rejects.")
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ConfigError(f"{str(path)!r} may not be written. Name another file for the rejects.")
        if path is not None and path.is_file() and not _is_ours(path):
            raise ConfigError(
                f"{str(path)!r} is there already, and is no file of rejects, which would be written over it. Name "
                "another file for them."
            )
        self.path = path
        self.count = 0
        self.first: list[Reject] = []
        self.sources: set[str] = set()
        self._lock = threading.Lock()
        self._file: TextIO | None = None

    def add(self, reject: Reject) -> None:
        """Notes one. Raises OSError where the file cannot be written."""
        with self._lock:
            self.count += 1
            self.sources.add(reject.source)
            if len(self.first) < REJECTS_HELD:
                self.first.append(reject)
            if self.path is not None:
                if self._file is None:
                    self._file = self.path.open("w", encoding="utf-8")
                self._file.write(json.dumps(reject.to_dict(), ensure_ascii=False) + "\n")
                self._file.flush()  # so that it is all there however the run ends

    def close(self) -> None:
        """Closes the file, if there is one."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    @property
    def written(self) -> str | None:
        """The file's name, if anything was refused."""
        return str(self.path) if self.path is not None and self.count else None


def _is_ours(path: Path) -> bool:
    """Whether a file is empty, or begins with a line as `Rejects` writes them, or with what a full disk left of one."""
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_LINE_BYTES)
        found = json.loads(line)
    except OSError:
        return False
    except ValueError:
        return not line.endswith(b"\n") and (line.startswith(BEGINNING) or BEGINNING.startswith(line))
    return isinstance(found, dict) and set(OWN) <= set(found)
