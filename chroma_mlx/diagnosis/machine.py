"""What this machine has: memory, room on its disk, a GPU, a chip."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BRAND: Final = ("sysctl", "-n", "machdep.cpu.brand_string")
UNKNOWN_CHIP: Final = "unknown chip"


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use: the machine's, or less where a control group says so (a container).

    `root` is where /proc and /sys are looked for.
    """
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([installed, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of this process's control group and of those around it, of version 1 and 2. None off Linux."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's, of which only the top is there.
        own = base / path.lstrip("/")
        for folder in (own, *own.parents):
            # "max" is no number, and no limit.
            with contextlib.suppress(OSError, ValueError):
                yield int((folder / name).read_text(encoding="ascii"))
            if folder == base:
                break


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder."""
    return shutil.disk_usage(folder).free


def is_writable(folder: Path) -> bool:
    """Whether this process may write into a folder."""
    return os.access(folder, os.W_OK)


def has_gpu() -> bool:
    """Whether MLX finds a GPU. Raises ImportError without MLX, and what starting it raises."""
    from ..engine.mlx_thread import mlx_thread

    def look() -> bool:
        import mlx.core as mx

        return bool(mx.is_available(mx.Device(mx.DeviceType.gpu)))

    return mlx_thread.run(look)


def chip(system: str = sys.platform, brand: Sequence[str] = BRAND) -> str:
    """The processor's name; on a Mac what the command `brand` prints."""
    try:
        if system == "darwin":
            return subprocess.run(brand, capture_output=True, text=True, check=False).stdout.strip() or UNKNOWN_CHIP
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return UNKNOWN_CHIP
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), UNKNOWN_CHIP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How each of these is found out."""

    memory: Callable[[], int] = usable_memory
    free: Callable[[Path], int] = free_bytes
    writable: Callable[[Path], bool] = is_writable
    gpu: Callable[[], bool] = has_gpu
