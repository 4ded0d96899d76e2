"""The activations of the feed-forward, each in the form that a device computes fastest.

On a host whose MLX computes exponentials one at a time (see host.py) they go through NumPy's exp. gelu's exact
form, x times the normal distribution's share below x, takes there the logistic function of an odd polynomial for
that share, fitted here to the smallest largest error of gelu: 7e-8, and 6e-7 as it is computed in float32.
On a GPU the operations of one activation are compiled to one kernel for all shapes, as mlx-lm does
(https://github.com/ml-explore/mlx-lm: models/activations.py): one compiled function an activation, however many
batches there are. On a CPU compiling gains nothing (28 ms for 26 on 512 x 3072) and needs a compiler.
For their threads see host.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Final, TypeVar

import mlx.core as mx
import numpy as np

from .host import BLOCK, Array, Floats, in_blocks
from .weights import Weights

# Of the tanh form (https://arxiv.org/abs/1606.08415, section 2).
SCALE: Final = math.sqrt(2.0 / math.pi)
CUBE: Final = 0.044715
# The share below x is about 1 / (1 + exp(-(c0 x + c1 x ** 3 + … + c6 x ** 13))); c6 to c0.
ODDS: Final = (
    3.6278497259e-09,
    -2.67565684164e-07,
    7.94813807539e-06,
    -1.10546748339e-04,
    -6.60534859204e-05,
    7.26682983453e-02,
    1.59576853688,
)


Gated = Callable[[Array, Array], Array]
Activation = Callable[[Array], Array]
F = TypeVar("F", Gated, Activation)


def choose_swiglu(weights: Weights) -> Gated:
    """silu(gate) * up. The memory of `gate` may be used up."""
    return host_swiglu if weights.host else _compiled(swiglu) if weights.compiles else swiglu


def choose_geglu(weights: Weights) -> Gated:
    """gelu(gate) * up in the tanh form. The memory of `gate` may be used up."""
    return host_geglu if weights.host else _compiled(geglu) if weights.compiles else geglu


def choose_gelu(weights: Weights, form: str) -> Activation:
    """gelu in the form "erf" or "tanh". The memory of its argument may be used up."""
    if weights.host:
        return functools.partial(host_gelu, form=form)
    plain = _gelu(form)
    return _compiled(plain) if weights.compiles else plain


@functools.cache
def _gelu(form: str) -> Activation:
    return functools.partial(gelu, form=form)


@functools.cache
def _compiled(function: F) -> F:
    """Shapeless, so that MLX, which forgets no shape, keeps one; on the one thread that MLX works on."""
    compiled: F = mx.compile(function, shapeless=True)
    return compiled


def compiled_functions() -> int:
    """How many functions MLX has compiled here: one for each activation in use, whatever shapes it was given."""
    return _compiled.cache_info().currsize


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """By MLX's own operations, of arrays of one shape."""
    return gate * mx.sigmoid(gate) * up


def geglu(gate: mx.array, up: mx.array) -> mx.array:
    """By MLX's own operations, of arrays of one shape."""
    return gelu(gate, "tanh") * up


def host_swiglu(gate: Floats, up: Floats) -> Floats:
    """swiglu through NumPy. The memory of `gate` is used up."""
    whole, factors = gate.reshape(-1), up.reshape(-1)

    def job(block: slice) -> None:
        x = whole[block]
        sigmoid = np.negative(x)
        # exp overflows to inf below -88, where 1 / (1 + inf) is the right 0.
        with np.errstate(over="ignore"):
            np.exp(sigmoid, out=sigmoid)
        sigmoid += 1.0
        x /= sigmoid
        x *= factors[block]

    in_blocks(job, whole.size, BLOCK)
    return gate


def gelu(x: mx.array, form: str) -> mx.array:
    """gelu by MLX's own operations, elementwise; `form` is "erf" or "tanh"."""
    if form == "tanh":
        return 0.5 * x * (1.0 + mx.tanh(SCALE * (x + CUBE * x**3)))
    return x * 0.5 * (1.0 + mx.erf(x * math.sqrt(0.5)))


def host_gelu(x: Floats, form: str) -> Floats:
    """The same through NumPy, written over x."""
    flat, write_over = x.reshape(-1), _tanh_form if form == "tanh" else _erf_form
    in_blocks(lambda block: write_over(flat[block]), flat.size, BLOCK)
    return x


def host_geglu(gate: Floats, up: Floats) -> Floats:
    """gelu(gate) * up in the tanh form, of arrays of one shape. The memory of `gate` is used up."""
    x, factor = gate.reshape(-1), up.reshape(-1)

    def job(block: slice) -> None:
        _tanh_form(x[block])
        x[block] *= factor[block]

    in_blocks(job, x.size, BLOCK)
    return gate


def _tanh_form(x: Floats) -> None:
    """x / 2 * (1 + tanh(c)), which is x / (1 + exp(-2 c)), with c = SCALE * (x + CUBE * x ** 3)."""
    with np.errstate(over="ignore"):  # to infinity, where the quotient is the right 0 or x
        bottom = x * x
        bottom *= np.float32(-2.0 * SCALE * CUBE)
        bottom -= np.float32(2.0 * SCALE)
        bottom *= x
        np.exp(bottom, out=bottom)
    bottom += np.float32(1.0)
    x /= bottom


def _erf_form(x: Floats) -> None:
    """x / 2 * (1 + erf(x / sqrt(2))), which is x / (1 + exp(-p)) with the polynomial p of ODDS."""
    with np.errstate(over="ignore"):  # to infinity, where the quotient is the right 0 or x
        square = x * x
        bottom = square * np.float32(-ODDS[0])
        bottom -= np.float32(ODDS[1])
        for coefficient in ODDS[2:]:
            bottom *= square
            bottom -= np.float32(coefficient)
        bottom *= x
        np.exp(bottom, out=bottom)
    bottom += np.float32(1.0)
    x /= bottom
