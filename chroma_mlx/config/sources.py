"""Where the values of a configuration come from: a file, and variables of the environment that override it."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs
import yaml

from ..errors import ConfigError
from ..settings import Rule
from .yaml_file import parse_yaml, read_yaml

SECTION: Final = "embedding"
FILE_NAME: Final = "embedding_config.yaml"
PREFIX: Final = "CHROMA_MLX_"
PATH_VARIABLE: Final = "CHROMA_MLX_CONFIG"
# Variables of the prefix that are no keys of the configuration.
OTHER_VARIABLES: Final = frozenset({PATH_VARIABLE, "CHROMA_MLX_BLAS"})
DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Sourced:
    """A value and where it came from, in words."""

    value: Any
    source: str


def find_file(path: str | os.PathLike[str] | None) -> tuple[Path, str] | None:
    """The configuration file in force and, in words, why that one; None when there is none.

    A given path, else the one that CHROMA_MLX_CONFIG names, else the working folder's, else the user's.
    """
    if path is not None:
        return Path(path).expanduser(), "given"
    named = os.environ.get(PATH_VARIABLE)
    if named:
        return Path(named).expanduser(), PATH_VARIABLE
    for candidate, why in ((Path(FILE_NAME), "working folder"), (user_file(), "user's configuration")):
        if candidate.exists():
            return candidate, why
    return None


def user_file() -> Path:
    """Where a user's own configuration lies on this platform."""
    return platformdirs.user_config_path("chroma-mlx") / FILE_NAME


def gather(path: str | os.PathLike[str] | None, rules: Mapping[str, Rule]) -> dict[str, Sourced]:
    """The values that the file and the environment give, by key; the environment wins.

    Raises ConfigError with every unknown key and every value that `rules` do not allow.
    """
    values: dict[str, Sourced] = {}
    problems: list[str] = []
    found = find_file(path)
    if found is not None:
        file, why = found
        section = read_section(read_yaml(file), rules, str(file), problems)
        values |= {key: Sourced(value, f"{file} ({why})") for key, value in section.items()}
    values |= read_environment(rules, problems)
    raise_all(problems)
    return values


def read_section(data: Any, rules: Mapping[str, Rule], where: str, problems: list[str]) -> dict[str, Any]:
    """The values of the section `embedding` of `data`; what is wrong with it is added to `problems`."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        problems.append(f"{where}: it holds {_shown(data)}, not a table. Begin it with `{SECTION}:`.")
        return {}
    for key in data:
        if key != SECTION:
            hint = f"It belongs under `{SECTION}:`." if key in rules else f"The one known key is {SECTION}."
            problems.append(f"{where}: {key}: unknown key. {hint}")
    section = data.get(SECTION)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        problems.append(f"{where}: {SECTION}: it is {_shown(section)}, not a table of keys.")
        return {}
    for key, value in section.items():
        if key not in rules:
            problems.append(f"{where}: {SECTION}.{key}: unknown key. {_known(str(key), rules)}")
        elif not rules[key].accepts(value):
            problems.append(
                f"{where}: {SECTION}.{key}: {_shown(value)} is not allowed. Set it to {_allowed(rules[key])}."
            )
    return {key: value for key, value in section.items() if key in rules}


def read_environment(rules: Mapping[str, Rule], problems: list[str]) -> dict[str, Sourced]:
    """The values of CHROMA_MLX_<KEY>; what is wrong with one is added to `problems`."""
    values = {}
    for name, text in sorted(_variables()):
        key = name.removeprefix(PREFIX).lower()
        if key not in rules:
            names = [PREFIX + key.upper() for key in rules]
            problems.append(f"{name}: unknown variable. {_known(name, [*names, *sorted(OTHER_VARIABLES)])}")
            continue
        is_text = rules[key].accepts("a text")
        if text == "" and not key.endswith("_instruction"):
            continue  # `VARIABLE= command` is how one variable is taken out of an environment
        value = text if is_text and text != "null" else _scalar(text)
        if rules[key].accepts(value):
            values[key] = Sourced(value, name)
        else:
            problems.append(f"{name}: {_shown(value)} is not allowed. Set it to {_allowed(rules[key])}.")
    return values


def raise_all(problems: list[str]) -> None:
    """Raises ConfigError with a line for each problem, if there is any."""
    if problems:
        title = "The configuration is not valid" if len(problems) == 1 else "The configuration has errors"
        raise ConfigError("\n  ".join([f"{title}:", *problems]), problems=tuple(problems))


def _variables() -> Iterator[tuple[str, str]]:
    return (
        (name, text) for name, text in os.environ.items() if name.startswith(PREFIX) and name not in OTHER_VARIABLES
    )


def _scalar(text: str) -> Any:
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        return text


def _known(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"Did you mean {close[0]}?" if close else f"Known are {', '.join(names)}."


def _shown(value: Any) -> str:
    """A value as YAML has it, not too long."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _allowed(rule: Rule) -> str:
    words = rule.allowed.replace("None", "null").replace("True", "true").replace("False", "false")
    return re.sub(r"'(\w+)'", r"\1", words)
