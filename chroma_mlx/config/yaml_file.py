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
MAX_VALUES: Final = 1_000


class _Refused(yaml.YAMLError):
    """The file is YAML, but no configuration."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without what lets a small file unfold or make objects: aliases, tags and merges.

    It also refuses deep nesting, many values, and a key given twice.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it out
        where = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"{where}: *{event.anchor} is an alias, and a configuration has none. Write the value again")
        if getattr(event, "tag", None) not in (None, "!"):
            raise _Refused(f"{where}: {event.tag} is a tag, and a configuration has none. Leave it out")
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(f"{where}: it is nested more than {MAX_DEPTH} deep")
        if self._values > MAX_VALUES:
            raise _Refused(f"{where}: it holds more than {MAX_VALUES:,} keys and values")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            where = f"line {key.start_mark.line + 1}"
            if key.tag == "tag:yaml.org,2002:merge":
                raise _Refused(f"{where}: << merges tables, which a configuration has no use for. Write the keys out")
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _Refused(f"{where}: {key.value} is given twice in one table. Leave one out")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as plain Python values; None for an empty one.

    Raises ConfigError, naming the file, when it cannot be read, is over 64 KiB, is no YAML or UTF-8, is
    nested deeply, or has aliases, tags or merges.
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
        raise unreadable(path, error.strerror or str(error)) from error


def unreadable(path: object, reason: str) -> ConfigError:
    """The error for a file that cannot be opened."""
    return ConfigError(
        f"The configuration {path} cannot be read ({reason}). Check the path and its permissions; `chroma-mlx config "
        "init` writes a file."
    )


@lru_cache(maxsize=8)
def _parse(path: Path, modified: int, size: int) -> Any:
    """Kept by the file's time and size, since Chroma builds a function several times an upsert."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)  # a file may grow meanwhile, and a device has no size
    try:
        return parse_yaml(content[:MAX_BYTES].decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error}). Save it as UTF-8.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} cannot be used as YAML: {error}. Mend the file at that place.") from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (ValueError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        # A date without such a day, a number with too many digits: what PyYAML stumbles over.
        raise _Refused(f"a value is none ({error})") from error
    finally:
        loader.dispose()
