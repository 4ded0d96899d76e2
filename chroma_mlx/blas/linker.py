"""What the dynamic linker did, and what a library exports: ELF, 64-bit little-endian, all that MLX is built for."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SPIN = "OPENBLAS_THREAD_TIMEOUT"


class Unavailable(Exception):
    """A library cannot be used here. The message is the clause of a longer one that says why."""


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    )


def address_of(function: object) -> int:
    """Where a function that ctypes found begins."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def library_at(address: int) -> str | None:
    """Path of the library whose code or data is at `address`."""
    info = _DlInfo()
    found = ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(info))
    return os.fsdecode(info.dli_fname) if found and info.dli_fname else None


def open_globally(path: str) -> str:
    """Opens a library, by path or soname, into the process's global scope. Returns its real path.

    Raises Unavailable when it cannot be opened or does not export `cblas_sgemm`.
    """
    try:
        # Privately first, so that a library without the product never reaches the global scope.
        with _short_spin():
            product = ctypes.CDLL(path).cblas_sgemm
    except OSError as error:
        raise Unavailable(str(error)) from error
    except AttributeError as error:
        raise Unavailable(f"{path} does not export cblas_sgemm") from error
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    return library_at(address_of(product)) or path


@contextmanager
def _short_spin() -> Iterator[None]:
    """OpenBLAS's idle threads sleep after 2**16 cycles (some 20 microseconds) instead of 2**26.

    Spinning, they use up their share of a busy core and are not there when the next product comes: measured,
    a batch of short texts took ten times as long. The library reads the variable once, while it is opened; a
    value of the user's own stays, and the environment is left as it was.
    """
    if SPIN in os.environ:
        yield
        return
    os.environ[SPIN] = "16"
    try:
        yield
    finally:
        del os.environ[SPIN]


def global_library() -> str | None:
    """Path of the library whose `cblas_sgemm` is first in the global scope: what MLX would be bound to."""
    try:
        return library_at(address_of(ctypes.CDLL(None).cblas_sgemm))
    except AttributeError:
        return None


def bound_library() -> str | None:
    """Path of the library whose `cblas_sgemm` MLX calls; None while it can still be chosen."""
    mlx = sys.modules.get("mlx.core")
    if mlx is None:
        return None
    with open("/proc/self/maps") as maps:
        # address-range, permissions, offset, device, inode, path; offset 0 is where the file begins
        rows = [row.split(maxsplit=5) for row in maps if row.rstrip().endswith("/libmlx.so")]
    if not rows:
        return str(mlx.__file__)  # linked into the extension
    base, path = int(rows[0][0].split("-")[0], 16), rows[0][5].rstrip("\n")
    slot = _slot(Path(path).read_bytes(), "cblas_sgemm")
    if slot is None:
        return path
    target = ctypes.c_void_p.from_address(base + slot).value or 0
    library = library_at(target)
    # Under RTLD_LAZY the slot leads back into libmlx.so until the first product.
    return None if library and os.path.basename(library) == "libmlx.so" else library


_SHT_RELA, _SHT_DYNSYM = 4, 11  # section types


def _sections(image: bytes) -> list[tuple[int, ...]]:
    """Section headers: name, type, flags, address, offset, size, link, info, alignment, entry size."""
    (start,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    return [struct.unpack_from("<IIQQQQIIQQ", image, start + row * size) for row in range(count)]


def dynamic_symbols(image: bytes) -> list[tuple[str, bool]]:
    """Name of each dynamic symbol, and whether the library exports it, in the order of the table."""
    sections = _sections(image)
    table = next(section for section in sections if section[1] == _SHT_DYNSYM)
    names = sections[table[6]][4]
    symbols = []
    for name, kind, _, section, _, _ in struct.iter_unpack("<IBBHQQ", image[table[4] : table[4] + table[5]]):
        start = names + name
        # Binding 0 is local: on aarch64 the table also holds sections, which have no name.
        exported = section != 0 and kind >> 4 != 0
        symbols.append((image[start : image.index(b"\0", start)].decode(), exported))
    return symbols


def _slot(image: bytes, name: str) -> int | None:
    """Where, from the library's base, the linker stores the address of an imported function."""
    index = [symbol for symbol, _ in dynamic_symbols(image)].index(name)
    for section in _sections(image):
        if section[1] == _SHT_RELA:
            for offset, info, _ in struct.iter_unpack("<QQq", image[section[4] : section[4] + section[5]]):
                if info >> 32 == index:
                    return int(offset)
    return None
