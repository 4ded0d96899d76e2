"""Where the values of a configuration come from: a file, and variables of the environment that override it."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import platformdirs
import yaml

from ..errors import ConfigError
from ..rules import Rule, shown
from .yaml_file import parse_yaml, read_yaml, unreadable

SECTION: Final = "embedding"
FILE_NAME: Final = "embedding_config.yaml"
PREFIX: Final = "CHROMA_MLX_"
PATH_VARIABLE: Final = "CHROMA_MLX_CONFIG"
# Variables of the prefix that are no keys of the configuration.
OTHER_VARIABLES: Final = frozenset({PATH_VARIABLE, "CHROMA_MLX_BLAS"})
DEFAULT: Final = "default"
MOST_SHOWN: Final = 79
MOST_PROBLEMS: Final = 20


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value, where it came from in words, and for messages the place it stands at."""

    value: Any
    source: str
    place: str


class Problem(NamedTuple):
    """What is wrong, in words, and with which key, if it is a known one."""

    text: str
    key: str | None = None


def find_file(path: str | os.PathLike[str] | None) -> tuple[Path, str] | None:
    """The configuration file in force and, in words, why that one; None when there is none.

    A given path, else the one that CHROMA_MLX_CONFIG names, else the working folder's, else the user's.
    """
    if path is not None:
        return _path(path), "given"
    named = os.environ.get(PATH_VARIABLE)
    if named:
        return _path(named), PATH_VARIABLE
    for candidate, why in ((Path(FILE_NAME), "working folder"), (user_file(), "user's configuration")):
        try:
            candidate.lstat()  # a link that leads nowhere is a mistake to tell of
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise unreadable(candidate, error.strerror or str(error)) from error
        return candidate, why
    return None


def _path(path: object) -> Path:
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ConfigError(
            f"config is {shown(path)}, which is neither an EmbeddingConfig nor a path. Pass one of them; "
            "EmbeddingConfig.from_dict makes one of a dict."
        )
    expanded = os.path.expanduser(path)  # pathlib's raises for a user that does not exist
    if "\0" in expanded:
        raise unreadable(repr(expanded), "no path holds a NUL character")
    return Path(expanded)


def user_file() -> Path:
    """Where a user's own configuration lies on this platform."""
    return platformdirs.user_config_path("chroma-mlx") / FILE_NAME


def gather(
    path: str | os.PathLike[str] | None, rules: Mapping[str, Rule], problems: list[Problem]
) -> dict[str, Sourced]:
    """The values that the file and the environment give, by key; the environment wins.

    Every unknown key and every value that `rules` do not allow is added to `problems`. Raises ConfigError
    for a file that cannot be read at all.
    """
    values: dict[str, Sourced] = {}
    found = find_file(path)
    if found is not None:
        file, why = found
        section = read_section(read_yaml(file), rules, str(file), problems)
        values |= {key: Sourced(value, f"{file} ({why})", f"{file}: {SECTION}.{key}") for key, value in section.items()}
    return values | read_environment(rules, problems)


def read_section(data: Any, rules: Mapping[str, Rule], where: str, problems: list[Problem]) -> dict[str, Any]:
    """The values of the section `embedding` of `data`; what is wrong with it is added to `problems`."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        problems.append(Problem(f"{where}: it holds {_shown(data)}, not a table. Begin it with `{SECTION}:`."))
        return {}
    for key in data:
        if key != SECTION:
            hint = f"It belongs under `{SECTION}:`." if key in rules else f"The one known key is {SECTION}."
            problems.append(Problem(f"{where}: {_key(key)}: unknown key. {hint}"))
    section = data.get(SECTION)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        problems.append(Problem(f"{where}: {SECTION}: it is {_shown(section)}, not a table of keys."))
        return {}
    values = {}
    for key, value in section.items():
        if key not in rules:
            problems.append(Problem(f"{where}: {SECTION}.{_key(key)}: unknown key. {known_names(str(key), rules)}"))
        elif not rules[key].accepts(value):
            problems.append(refusal(key, f"{where}: {SECTION}.{key}", value, f"Set it to {_allowed(rules[key])}."))
        else:
            values[key] = value
    return values


def read_environment(rules: Mapping[str, Rule], problems: list[Problem]) -> dict[str, Sourced]:
    """The values of CHROMA_MLX_<KEY>; what is wrong with one is added to `problems`."""
    values = {}
    for name, text in sorted(_variables()):
        key = name.removeprefix(PREFIX).lower()
        if key not in rules:
            names = [*rules, *(other.removeprefix(PREFIX).lower() for other in sorted(OTHER_VARIABLES))]
            problems.append(Problem(f"{name}: unknown variable. {known_names(key, names, PREFIX)}"))
            continue
        is_text = rules[key].accepts("a text")
        if text == "" and not key.endswith("_instruction"):
            continue  # `VARIABLE= command` is how one variable is taken out of an environment
        value = text if is_text and text != "null" else _scalar(text)
        if rules[key].accepts(value):
            values[key] = Sourced(value, name, name)
        else:
            problems.append(refusal(key, name, value, f"Set it to {_allowed(rules[key])}."))
    return values


def refusal(key: str, place: str, value: Any, what_to_do: str) -> Problem:
    """The problem that a value is not allowed."""
    return Problem(f"{place}: {_shown(value)} is not allowed. {what_to_do}", key)


def raise_all(problems: list[Problem]) -> None:
    """Raises ConfigError with a line for each problem, if there is any."""
    if problems:
        texts = tuple(problem.text for problem in problems)
        lines = [
            *texts[:MOST_PROBLEMS],
            *([f"… and {len(problems) - MOST_PROBLEMS:,} more"] * (len(problems) > MOST_PROBLEMS)),
        ]
        title = "The configuration is not valid" if len(problems) == 1 else "The configuration has errors"
        raise ConfigError("\n  ".join([f"{title}:", *lines]), problems=texts)


def _variables() -> Iterator[tuple[str, str]]:
    return (
        (name, text) for name, text in os.environ.items() if name.startswith(PREFIX) and name not in OTHER_VARIABLES
    )


def _scalar(text: str) -> Any:
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        return text


def known_names(name: str, names: Iterable[str], prefix: str = "") -> str:
    """The name that was probably meant, or all there are, in a sentence; behind a prefix in capitals."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1)
    shown = [prefix + each.upper() if prefix else each for each in close or names]
    return f"Did you mean {shown[0]}?" if close else f"Known are {', '.join(shown)}."


def _key(key: object) -> str:
    return key if isinstance(key, str) else _shown(key)


def _shown(value: Any) -> str:
    """A value as YAML has it, not too long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # a key that is no text, a ring, a number of 5,000 digits
        text = shown(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _allowed(rule: Rule) -> str:
    words = rule.allowed.replace("None", "null").replace("True", "true").replace("False", "false")
    return re.sub(r"'(\w+)'", r"\1", words)
