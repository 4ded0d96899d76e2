"""What was refused: a line of JSON each, in a file that is made with the first."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TextIO

from ..errors import ConfigError
from .passage import Reject
from .report import REJECTS_HELD


class Rejects:
    """Counts and writes rejects; safe from any thread. The file of an earlier run is replaced by the first one."""

    def __init__(self, path: Path | None) -> None:
        """Raises ConfigError where the file could not be written."""
        if path is not None and not path.parent.is_dir():
            raise ConfigError(
                f"There is no folder {str(path.parent)!r} for the rejects. Make it, or name another file."
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
