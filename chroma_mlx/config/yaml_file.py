"""Reads a small YAML file from a stranger: safely, and no more of YAML than a configuration needs."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml

from ..errors import ConfigError

# A commented file of every key is under 3 kB.
MAX_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 16
# Aliases can make a small file unfold into gigabytes. A few are of use: a text that two keys share.
MAX_ALIASES: Final = 16


class _Refused(yaml.YAMLError):
    """The file is YAML, but no configuration."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses deep nesting, many aliases, and a key given twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        self._aliases += self.check_event(yaml.AliasEvent)
        if self._depth > MAX_DEPTH:
            raise _Refused(f"it is nested more than {MAX_DEPTH} deep")
        if self._aliases > MAX_ALIASES:
            raise _Refused(f"it has more than {MAX_ALIASES} aliases")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise _Refused(f"line {node.start_mark.line + 1}: {', '.join(twice)} is given twice in one table")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as plain Python values; None for an empty one.

    Raises ConfigError, naming the file, when it cannot be read, is over 64 KiB, is no YAML or UTF-8, is
    nested deeply or unfolds aliases.
    """
    try:
        status = path.stat()
        if status.st_size > MAX_BYTES:
            raise ConfigError(
                f"{path} has {status.st_size:,} bytes, but a configuration has at most {MAX_BYTES:,}. Point to the "
                "right file; `chroma-mlx config init` writes one."
            )
        return _parse(path.absolute(), status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise ConfigError(
            f"The configuration {path} cannot be read ({error.strerror or error}). Check the path and its "
            "permissions; `chroma-mlx config init` writes a file."
        ) from error


@lru_cache(maxsize=8)
def _parse(path: Path, modified: int, size: int) -> Any:
    """Kept by the file's time and size, since Chroma builds a function several times an upsert."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a file may grow meanwhile, and a device has no size
        return parse_yaml(content[:MAX_BYTES].decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error}). Save it as UTF-8.") from error
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path} cannot be used as YAML: {error}. Mend the file at that place.") from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
