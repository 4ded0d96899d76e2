"""A passage of the demo's corpus, and how a longer text is packed into passages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# About 180 words, and mostly within the 256 tokens that the model reads: prose runs at 4 to 5 characters
# a token. Heading and newline included.
MAX_CHARS = 1000
MAX_HEADING_CHARS = 110
MIN_BODY_CHARS = 30

_BODY_CHARS = MAX_CHARS - MAX_HEADING_CHARS - 1
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*?(?=[^\n])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A stretch of documentation that can be read on its own.

    id: `topic:with#2`, `topic:string-methods/str.strip`, `doc:shutil.copytree`. Where an entry needs more
        than one passage, each id ends in `#` and its number, from 1.
    text: the heading, a newline, then the prose.
    source: what to type to read the whole: `help("with")`, or a dotted name.
    heading: the first line of the text.
    """

    id: str
    text: str
    source: str
    heading: str

    @property
    def body(self) -> str:
        return self.text[len(self.heading) + 1 :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One place in the documentation, before it is cut to the length of a passage."""

    key: str
    heading: str
    source: str
    blocks: tuple[str, ...]


def text_blocks(text: str) -> list[str]:
    """Paragraphs, lists and code examples: whatever a blank line sets apart."""
    return [block.rstrip() for block in _BLANK_LINES.split(text.strip("\n")) if block.strip()]


def cut_passages(entries: Iterable[Entry]) -> list[Passage]:
    """Passages of the entries, in their order; entries that share a key are numbered as one."""
    parts: dict[str, list[tuple[Entry, str]]] = {}
    for entry in entries:
        bodies = [body for body in pack_blocks(entry.blocks) if len(body) >= MIN_BODY_CHARS]
        if bodies:
            parts.setdefault(entry.key, []).extend((entry, body) for body in bodies)
    return [
        _passage(entry, body, key if len(found) == 1 else f"{key}#{number}")
        for key, found in parts.items()
        for number, (entry, body) in enumerate(found, start=1)
    ]


def pack_blocks(blocks: Sequence[str], room: int = _BODY_CHARS) -> list[str]:
    """Blocks joined, in order, into texts of at most `room` characters and of about equal length.

    A block is cut, between two lines, only where it alone exceeds the room.
    """
    units = [piece for unit in _with_introductions(blocks, room) for piece in _fit(unit, room)]
    total = sum(len(unit) + 2 for unit in units)
    # An even share leaves no "Changed in version 3.1" behind as a passage of its own.
    share = total / max(1, math.ceil(total / room))
    packed: list[str] = []
    for unit in units:
        joined = f"{packed[-1]}\n\n{unit}" if packed else unit
        is_open = bool(packed) and len(packed[-1]) < share and len(joined) <= room
        if is_open:
            packed[-1] = joined
        else:
            packed.append(unit)
    if len(packed) > 1 and len(packed[-2]) + 2 + len(packed[-1]) <= room:
        packed[-2:] = [f"{packed[-2]}\n\n{packed[-1]}"]
    return packed


def _passage(entry: Entry, body: str, passage_id: str) -> Passage:
    heading = shorten(entry.heading)
    return Passage(id=passage_id, text=f"{heading}\n{body}", source=entry.source, heading=heading)


def shorten(heading: str) -> str:
    """The heading on one line, cut where it would crowd out the text below it."""
    line = " ".join(heading.split())
    if len(line) <= MAX_HEADING_CHARS:
        return line
    cut = line[: MAX_HEADING_CHARS - 1]
    return f"{(cut.rpartition(' ')[0] or cut).rstrip(' ,')}…"


def _with_introductions(blocks: Sequence[str], room: int) -> list[str]:
    """Blocks, an example joined to the line that ends in a colon and introduces it."""
    units: list[str] = []
    for block in blocks:
        if units and units[-1].endswith(":") and len(units[-1]) + 2 + len(block) <= room:
            units[-1] = f"{units[-1]}\n\n{block}"
        else:
            units.append(block)
    return units


def _fit(unit: str, room: int) -> list[str]:
    if len(unit) <= room:
        return [unit]
    pieces: list[str] = []
    for line in unit.splitlines():
        # A line longer than the room is a table of data or a URL; its start says what it is.
        line = line[:room]
        if pieces and len(pieces[-1]) + 1 + len(line) <= room:
            pieces[-1] = f"{pieces[-1]}\n{line}"
        else:
            pieces.append(line)
    return pieces
