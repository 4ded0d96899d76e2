"""Rules for values: each a test and the same in words, and what is said of a value that it refuses."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a value may be: a test, and the same in words."""

    accepts: Callable[[Any], bool]
    allowed: str


def optional(rule: Rule) -> Rule:
    """The same, or None."""
    return Rule(accepts=lambda value: value is None or rule.accepts(value), allowed=f"{rule.allowed}, or None")


def one_of(*choices: str | None) -> Rule:
    """One of a few words."""
    return Rule(
        accepts=lambda value: isinstance(value, str | None) and value in choices,
        allowed=" or ".join(repr(choice) for choice in choices),
    )


LARGEST_COUNT: Final = 2**63 - 1
# What a platform's clock can wait for.
MOST_SECONDS: Final = 1_000_000
# So many letters and digits without an underscore are no name but a key: `openssl rand -hex 32` makes one of 64.
KEY_CHARACTERS: Final = 20


def shown(value: object) -> str:
    """A value for a message, whatever it is."""
    try:
        return repr(value)
    except ValueError:  # a whole number of too many digits
        return f"a {type(value).__name__} too large to show"


def _is_path(value: Any) -> bool:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    return _is_text(path) and path != "" and "\0" not in path


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_COUNT


def _is_number(value: Any) -> bool:
    # Compared, not converted: a whole number may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _names_variable(value: object) -> bool:
    if not isinstance(value, str) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", value):
        return False
    return not any(len(part) >= KEY_CHARACTERS and re.search("[0-9]", part) for part in value.split("_"))


COUNT: Final = Rule(accepts=_is_count, allowed="a whole number of 1 or more")
FLAG: Final = Rule(accepts=lambda value: isinstance(value, bool), allowed="True or False")
MODEL: Final = Rule(
    accepts=lambda value: _is_text(value) and bool(value.strip()),
    allowed="a short name, a Hub repository id or a folder",
)
INSTRUCTION: Final = Rule(
    accepts=lambda value: value is None or _is_text(value),
    allowed="a text, '' for none, or None for the model's own (a text without lone surrogates)",
)
MILLISECONDS: Final = Rule(accepts=_is_number, allowed="a number of milliseconds, 0 or more")
SECONDS: Final = Rule(accepts=_is_number, allowed="a number of seconds, 0 or more")
TIMEOUT: Final = Rule(
    accepts=lambda value: _is_number(value) and 0 < value < MOST_SECONDS,
    allowed=f"a number of seconds above 0, and below {MOST_SECONDS}",
)
GIGABYTES: Final = Rule(
    accepts=lambda value: _is_number(value) and value > 0, allowed="a number of gigabytes greater than 0"
)
FOLDER: Final = Rule(accepts=_is_path, allowed="a folder")
FILE: Final = Rule(accepts=_is_path, allowed="a file")
TEXT: Final = Rule(accepts=_is_text, allowed="a text (without lone surrogates)")


def refusals(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[tuple[str, str]]:
    """(name, what is wrong in words) of each value that its rule refuses."""
    return [
        (name, f"{name} is {shown(value)}, which is not allowed. Set it to {rules[name].allowed}.")
        for name, value in values.items()
        if not rules[name].accepts(value)
    ]


def check_variable(name: str, value: object) -> None:
    """Raises ConfigError unless `value`, which `name` was given, can be the name of an environment variable.

    A key that was given in its place would be saved and shown; so the error does not repeat it.
    """
    if not _names_variable(value):
        raise ConfigError(
            f"{name} has to be the name of an environment variable: letters, digits and underscores. What was given "
            "is none, or looks like a key itself, so it is not repeated here. Put the key into a variable of the "
            "environment, and give that variable's name."
        )
