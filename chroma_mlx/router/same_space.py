"""Holds the user's word that a collection's vectors compare with the router's to a few of its stored texts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import CollectionMismatch, UncheckedSpace
from ..models.known import find_known
from .embedders import Embedder
from .matching import read_fingerprint
from .steps import Call, Steps

if TYPE_CHECKING:
    from ..engine.fingerprint import Fingerprint

# Stored texts that are embedded anew, and records among which the shortest texts are looked for: no limit of
# tokens cuts a short text, and where text stands around it, or how it is pooled, changes it most.
SAMPLE: Final = 8
SEARCHED: Final = 64
# Any record with a text.
WITH_TEXT: Final = {"$regex": "(?s)."}
# The smallest mean cosine of the sample. Measured with the built-in model and all-MiniLM-L6-v2 on 86 texts, over
# 20,000 samples of 8: weights of 8 and 6 bits have 0.995 to 1.000 with full precision, a prefix before every text
# at most 0.977, another pooling at most 0.908. (sentence-transformers and this engine on the same weights:
# 1 - 1.8e-7.)
LEAST_COSINE: Final = 0.985
# Weights of 5 and 4 bits in affine packing have 0.917 or more, in mxfp4 0.891: that still tells another pooling, and
# no longer a prefix. (Of 22 million parameters, which lose more than large models do. At 3 and 2 bits these have as
# little as 0.755 and 0.367, which is another space.)
FEW_BITS: Final = 5
LEAST_COSINE_OF_FEW_BITS: Final = 0.91
# How far the vectors' lengths may be apart, on the mean, where lengths count: vectors not scaled to unit length
# change by up to 1.5 % at 8 bits and 8 % at 4 bits, on the same samples.
LENGTH_TOLERANCE: Final = 0.1
# From here to the caller of a wrapper's method: this check, settle, write or query, run, the method.
CALLER: Final = 6


def check_same_space(
    name: str, chroma: Any, space: str, embedder: Embedder, *, few_bits: bool, stacklevel: int = CALLER
) -> Steps[None]:
    """Embeds a few of the stored texts anew, as far as there are any, and compares them with their vectors.

    Warns with UncheckedSpace when there are records, and none has a text. Raises CollectionMismatch.
    """
    include = ["documents", "embeddings"]
    sample = yield Call(chroma.get, {"limit": SEARCHED, "include": include})
    if len(sample["ids"]) and not any(sample["documents"]):
        sample = yield Call(chroma.get, {"limit": SEARCHED, "include": include, "where_document": WITH_TEXT})
        if not any(sample["documents"]):
            warnings.warn(
                f"Collection {name!r} was opened with `same_space=True`, and no stored record has a text to hold that "
                "to: whether its vectors compare with this model's is not known. Query it for a record that you know.",
                UncheckedSpace,
                stacklevel=stacklevel,
            )
    pairs = [(text, vector) for text, vector in zip(sample["documents"], sample["embeddings"], strict=True) if text]
    pairs = sorted(pairs, key=lambda pair: len(pair[0]))[:SAMPLE]
    if pairs:
        own = yield Call(embedder.embed_again, {"texts": [text for text, _ in pairs]}, computes=True)
        check_sample(name, [vector for _, vector in pairs], own, space=space, few_bits=few_bits)


def check_sample(name: str, stored: npt.ArrayLike, own: npt.ArrayLike, *, space: str, few_bits: bool) -> None:
    """Raises CollectionMismatch unless the vectors of a sample, stored and made anew, (n, dimension) each, agree.

    In a space where lengths count, "l2" or "ip", these must agree too.
    """
    one, other = np.asarray(stored, dtype=np.float64), np.asarray(own, dtype=np.float64)
    tiny = np.finfo(np.float64).tiny
    lengths = np.maximum([np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)], tiny)  # (2, n)
    cosine = float(((one * other).sum(axis=1) / lengths[0] / lengths[1]).mean())
    least = LEAST_COSINE_OF_FEW_BITS if few_bits else LEAST_COSINE
    lead = f"Collection {name!r} was opened with `same_space=True`, but its texts embedded anew"
    mend = "Open it with the model and the settings that made its vectors, or embed its texts into a new collection."
    if not cosine >= least:
        raise CollectionMismatch(
            f"{lead} have a cosine of {cosine:.3f} with the stored vectors (the mean of {len(one)}; {least} is the "
            f"least): the spaces are not the same. {mend}",
            differences={"cosine": (least, cosine)},
        )
    typical = np.exp(np.log(lengths).mean(axis=1))  # geometric: (2,)
    ratio = float(typical[1] / typical[0])
    if space != "cosine" and not 1 - LENGTH_TOLERANCE <= ratio <= 1 / (1 - LENGTH_TOLERANCE):
        raise CollectionMismatch(
            f"{lead} have vectors of length {typical[1]:.4g} where the stored ones have {typical[0]:.4g}, and the "
            f"collection's space, {space}, compares lengths too. Set `normalize` as it was, or: {mend}",
            differences={"length": (float(typical[0]), float(typical[1]))},
        )


def has_few_bits(configuration: Mapping[str, Any], metadata: Mapping[str, Any] | None, own: Fingerprint | None) -> bool:
    """Whether the stored vectors or one's own are known to come from weights of few bits."""
    try:
        stored = read_fingerprint("", metadata) or {}
    except CollectionMismatch:  # damaged, which `same_space` overlooks
        stored = {}
    saved = (configuration.get("embedding_function") or {}).get("config") or {}
    known = find_known(str(saved.get("model_name", "")))
    described = [stored.get("quantization"), own.quantization if own else None]
    bits = [int(found[1]) for text in described if (found := re.match(r"(\d+)-bit", str(text)))]
    return min([*bits, int(known.bits) if known and not stored else 32]) <= FEW_BITS
