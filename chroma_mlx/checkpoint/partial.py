"""Files of a download that is not complete: taken by one process at a time, kept for the next one.

The Hub's locks do not hold on every file system (some clusters' locks succeed always). So a process gives
an unfinished file a name of its own before it appends to it, in one step, and gives it the common name back
when it could not complete it. One that a killed process left under its own name is taken from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SUFFIX: Final = ".chroma-mlx.incomplete"
# Nobody writes to a file that has not changed for so long: reads from the network end far earlier.
IDLE_S: Final = 600.0


@contextmanager
def claimed(blob: Path, *, clock: Callable[[], float] = time.time) -> Iterator[Path]:
    """The unfinished file of `blob`, under a name that is this call's alone; new when there is none.

    What is left of it at the end is put back for the next call.
    """
    own = blob.with_name(f"{blob.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")
    for left in partials(blob):
        if not is_written(left, clock=clock):
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                left.rename(own)
                break
    try:
        yield own
    finally:
        shared = blob.with_name(f"{blob.name}{SUFFIX}")
        if _size(own) > _size(shared):
            own.replace(shared)
        own.unlink(missing_ok=True)


def partials(blob: Path) -> list[Path]:
    """The unfinished files of a blob, the largest first."""
    found = blob.parent.glob(f"{blob.name}*{SUFFIX}")
    return sorted(found, key=_size, reverse=True)


def is_written(partial: Path, *, clock: Callable[[], float] = time.time) -> bool:
    """Whether a process may be writing to an unfinished file."""
    owner = partial.name.removesuffix(SUFFIX).partition(".")[2]
    if not owner:
        return False
    machine, _, rest = owner.partition("-")
    pid = rest.partition("-")[0]
    if machine == _machine() and pid.isdecimal() and not _runs(int(pid)):
        return False
    try:
        return clock() - partial.stat().st_mtime < IDLE_S
    except OSError:
        return False


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _machine() -> str:
    """Eight digits for this machine's name, which may hold what a file's name may not."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
