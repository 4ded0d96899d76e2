"""The BLAS's matrix product itself, for work that is cut finer than MLX's arrays."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Final

from .threads import own_library

# Of the C interface to the BLAS (https://www.netlib.org/blas/#_cblas).
ROW_MAJOR: Final = 101
PLAIN, TRANSPOSED = 111, 112
Product = Callable[..., None]
# OpenBLAS copies both operands into panels, which for few rows takes longer than to multiply, but on AVX-512 not for
# products of at most UNCOPIED multiplications and 1,200 numbers, which are fewer from LEAST_SUMMED on
# (https://github.com/OpenMathLib/OpenBLAS, kernel/x86_64/sgemm_small_kernel_permit_skylakex.c). PIECE columns fill its
# registers.
AVX512: Final = (b"SkylakeX", b"Cooperlake", b"SapphireRapids")
UNCOPIED: Final = 100**3
PIECE: Final = 4
# Measured on 2 cores: 1.8 times as fast for 8 rows, 1.5 for 16, 1.1 for 32, slower from 48 on.
LEAST_SUMMED, MOST_ROWS = 1024, 32
CORE: Final = "chroma_mlx_scipy_openblas_get_corename"


@functools.cache
def own_product() -> Product | None:
    """`cblas_sgemm` of this package's own copy of the library, None where MLX multiplies with another.

    Takes (order, transpose a, transpose b, M, N, K, alpha, a, lda, b, ldb, beta, c, ldc), the arrays as addresses.
    May be called from several threads at once; each call then works on its own thread where `use_threads_for` has
    set one thread.
    """
    library = own_library()
    if library is None:
        return None
    product = library.cblas_sgemm
    integer, number, address = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    product.argtypes = [
        *(integer,) * 6,
        *(number, address, integer),
        *(address, integer),
        *(number, address, integer),
    ]
    product.restype = None
    found: Product = product
    return found


def uncopied_columns(rows: int, columns: int, summed: int) -> int:
    """Into pieces of how many columns (rows, summed) @ (columns, summed).T is cut to be faster. 0: it is not cut."""
    if rows > MOST_ROWS or summed < LEAST_SUMMED or rows * columns * summed <= UNCOPIED or not _has_uncopied():
        return 0
    return UNCOPIED // (rows * summed) // PIECE * PIECE


@functools.cache
def _has_uncopied() -> bool:
    library = own_library()
    if library is None or not hasattr(library, CORE):
        return False
    core = library[CORE]
    core.restype = ctypes.c_char_p
    return core() in AVX512
