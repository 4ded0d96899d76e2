"""What a call of any function is given: texts, their kind, and how long it may take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import ConfigError, InputError
from .rules import TIMEOUT, optional, refusals


def check_texts(texts: object) -> list[str]:
    """The texts of a call as a list; raises InputError, naming the first bad one, unless all are text.

    An empty string is text: it gets the vector that the model gives to nothing. A lone surrogate (half of
    a UTF-16 pair, as a bad decoding leaves it) is not, since it has no UTF-8 form.
    """
    if isinstance(texts, np.ndarray) and texts.ndim > 0:
        texts = list(texts)
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        raise InputError(
            f"The texts are {'one ' if isinstance(texts, str | bytes) else 'a '}{type(texts).__name__}, not a list of "
            "str. Pass a list, also for a single text: ['…']."
        )
    if len(texts) == 0:
        raise InputError("There is no text to embed: the list is empty. Pass at least one text.")
    checked = [str.__str__(text) if isinstance(text, str) else text for text in texts]
    for index, text in enumerate(checked):
        if not isinstance(text, str):
            raise InputError(
                f"Text {index} is {'None' if text is None else f'a {type(text).__name__}'}, not a str. Leave the "
                "record out, give its text, or pass its vector as an embedding.",
                index=index,
            )
        if problem := surrogate_problem(text):
            raise InputError(
                f"Text {index} {problem}. Decode the source with its right encoding, or clean the text with "
                "text.encode('utf-8', 'replace').decode().",
                index=index,
            )
    return checked


def check_kind(kind: str) -> None:
    """Raises ConfigError unless texts of this kind are embedded."""
    if kind not in ("document", "query"):
        raise ConfigError(f"kind is {kind!r}, which is not allowed. Set it to 'document' or 'query'.")


def check_timeout(timeout_s: float | None) -> None:
    """Raises ConfigError unless a call can be waited for so long; None is for as long as it takes."""
    if found := refusals({"timeout_s": timeout_s}, {"timeout_s": optional(TIMEOUT)}):
        raise ConfigError(found[0][1])


def surrogate_problem(text: str) -> str | None:
    """What is wrong with a text that has no UTF-8 form, in words; None for any other."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return (
            f"holds the lone surrogate {text[error.start]!r} at character {error.start}, which is no character and has "
            "no UTF-8 form"
        )
    return None
