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
