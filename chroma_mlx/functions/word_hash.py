"""Vectors from a keyed hash of a text's words: the same everywhere, and close for texts that share words.

Each word is hashed to `dimension` numbers, and a text is the sum of its words', a longer word counting for
more (they carry the meaning; "the" and "of" are in every text), plus a little of the whole text's own hash,
so that the order of the words counts too. The sums are of whole numbers and the one square root and one
division are exact to the last bit by IEEE 754, so every platform has the same vector.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

# A change of anything here changes the vectors: give the key a new number then.
KEY: Final = b"chroma-mlx mock vectors 1:"
# Chinese and Japanese put no space between words: there each character counts as one.
WORD: Final = re.compile(r"[぀-ヿ㐀-䶿一-鿿]|[^\W_぀-ヿ㐀-䶿一-鿿]+")
MOST_WEIGHT: Final = 8
WORDS_KEPT: Final = 4_096


def hash_texts(texts: Sequence[str], dimension: int) -> npt.NDArray[np.float32]:
    """Unit vectors of the texts, (len(texts), dimension) float32. Equal texts have equal vectors."""
    vectors = np.empty((len(texts), dimension), dtype=np.float32)
    for row, text in enumerate(texts):
        vectors[row] = _hash_text(text, dimension)
    return vectors


def _hash_text(text: str, dimension: int) -> npt.NDArray[np.float32]:
    # Odd numbers, so that a text without words is never the zero vector.
    total = _numbers(b"text:" + text.encode("utf-8"), dimension)
    words = Counter(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    for word, times in words.items():
        # A second occurrence adds little, or one repeated word would drown the others.
        total = total + _word_numbers(word, dimension) * (2 * min(len(word), MOST_WEIGHT) + min(times, MOST_WEIGHT) - 1)
    square = int((total * total).sum())
    if square == 0:
        total = _numbers(b"text:" + text.encode("utf-8"), dimension)
        square = int((total * total).sum())
    vector: npt.NDArray[np.float32] = (total.astype(np.float64) / np.sqrt(np.float64(square))).astype(np.float32)
    return vector


@lru_cache(maxsize=WORDS_KEPT)
def _word_numbers(word: str, dimension: int) -> npt.NDArray[np.int64]:
    return _numbers(b"word:" + word.encode("utf-8"), dimension)


def _numbers(content: bytes, dimension: int) -> npt.NDArray[np.int64]:
    """`dimension` odd whole numbers from -255 to 255, drawn by SHAKE-128 of the key and the content."""
    drawn = np.frombuffer(hashlib.shake_128(KEY + content).digest(dimension), dtype=np.uint8)
    return 2 * drawn.astype(np.int64) - 255
