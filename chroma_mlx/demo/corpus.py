"""What `chroma-mlx demo` searches: the running interpreter's manual and the docstrings of its library."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from ..errors import ChromaMLXError
from .compiled import COMPILED_MODULES, compiled_definitions
from .manual import load_help_names, load_topics, manual_entries
from .passage import MIN_BODY_CHARS, Entry, Passage, cut_passages, text_blocks
from .stdlib import Definition, public_definitions

__all__ = ["EmptyCorpus", "Passage", "read_passages"]


class EmptyCorpus(ChromaMLXError, ValueError):
    """The interpreter came without its manual, the source of its library and compiled docstrings."""

    def __init__(self, stdlib: Path) -> None:
        super().__init__(
            f"This Python has no documentation to read: no manual, no documented source in {str(stdlib)!r}. "
            "Some minimal or zipped installations leave both out. "
            "Run the demo with a full Python installation."
        )
        self.stdlib = stdlib


def read_passages(limit: int | None = None) -> list[Passage]:
    """Passages of the manual, then of the docstrings, sorted by name within each.

    With `limit`, that many of them spread evenly over the whole, in the same order; all where there are
    fewer. Raises ValueError for a limit below 1 and EmptyCorpus where there is nothing to read.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}. Leave it out to read every passage.")
    stdlib = Path(sysconfig.get_path("stdlib"))
    passages = collect_passages(load_topics(), load_help_names(), stdlib, COMPILED_MODULES)
    return passages if limit is None else spread(passages, limit)


def collect_passages(
    topics: Mapping[str, str],
    help_names: Mapping[str, str],
    stdlib: Path,
    compiled: Iterable[ModuleType],
) -> list[Passage]:
    """Passages of the given topics, of the source files below `stdlib`, and of the compiled modules."""
    # The source comes first: what it documents is documented in full, the compiled twin often in one line.
    definitions = [*public_definitions(stdlib), *compiled_definitions(compiled)]
    passages = cut_passages([*manual_entries(topics, help_names), *docstring_entries(definitions)])
    if not passages:
        raise EmptyCorpus(stdlib)
    return passages


def docstring_entries(definitions: Iterable[Definition]) -> list[Entry]:
    """An entry for each name and each text, the first one given; texts that are too short are left out."""
    by_name: dict[str, Definition] = {}
    for definition in definitions:
        by_name.setdefault(definition.name, definition)
    texts: set[str] = set()
    entries = []
    # Of methods that share a text, the one with the shortest path is the one people know.
    for name in sorted(by_name, key=lambda name: (name.count("."), name)):
        definition = by_name[name]
        text = " ".join(definition.doc.split())
        if len(text) < MIN_BODY_CHARS or text in texts:
            continue
        texts.add(text)
        blocks = tuple(text_blocks(definition.doc))
        entries.append(Entry(key=f"doc:{name}", heading=_signature(definition), source=name, blocks=blocks))
    return sorted(entries, key=lambda entry: entry.key)


def spread(passages: Sequence[Passage], limit: int) -> list[Passage]:
    """`limit` passages at even distances, the first one included; all where there are fewer."""
    total = len(passages)
    if limit >= total:
        return list(passages)
    return [passages[index * total // limit] for index in range(limit)]


def _signature(definition: Definition) -> str:
    if definition.parameters is None:
        return definition.name
    return f"{definition.name}({definition.parameters})"
