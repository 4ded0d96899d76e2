"""The interpreter's own manual, the text behind `help("with")`, as entries of the corpus.

`pydoc_data.topics` holds about eighty topics as plain text: underlined headings, paragraphs, and definitions
(a signature, then its explanation three columns further in). Every heading and every definition becomes one
entry, named by where it stands.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .passage import MIN_BODY_CHARS, Entry, text_blocks

_LEVELS = "*=-~^"
_UNDERLINE = re.compile(r"([*=\-~^])\1{2,}")
_TABLE_BORDER = re.compile(r"[+|][-=+|]+|=+( +=+)+|([*=\-~^])\2{9,}")
_TABLE_CELL_EDGE = re.compile(r" *\| *")
_LIST_ITEM = re.compile(r"[*•\-] |\(?\w{1,2}[.)] |\[\d|>>>")
_SIGNATURE_PREFIX = re.compile(r"(?:(?:class|exception|classmethod|staticmethod|static|async|await) +)+")
_FOOTNOTES = "-[ Footnotes ]-"
_DEFINITION_INDENT = 3
_MAX_TERM_CHARS = 100
# `str.strip([chars])`, `d[key]`, `d | other`, `key in d`, `stop`, `Built-in functions`; not the half sentence
# "is roughly equivalent to", which code follows as well.
_TERM = re.compile(r".*[(\[._|].*|.+ in .+|\S+|[A-Z][^,\"]{,50}")

# A section is another topic's when this share of its characters stands there too. Below 1, because the two
# copies number their footnotes apart.
_COPIED_SHARE = 0.8
# Shorter blocks ("See also:", "or:") recur by chance.
_MIN_COPIED_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The blocks under one heading or one definition of a topic.

    path: the headings above the blocks, the topic's own title first.
    anchor: names the section within its topic; empty for the text right under the topic's title.
    """

    path: tuple[str, ...]
    anchor: str
    blocks: tuple[str, ...]


def load_topics() -> Mapping[str, str]:
    """The manual's topics; none where the interpreter was installed without them."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some minimal Linux packages leave pydoc_data out
        return {}
    return dict(topics)


def load_help_names() -> dict[str, str]:
    """Which name `help()` knows each topic by: `{"string-methods": "STRINGMETHODS", "with": "with"}`."""
    try:
        from pydoc import Helper
    except ImportError:
        return {}
    names: dict[str, str] = {}
    for table in (Helper.keywords, Helper.topics):
        for name, target in table.items():
            if isinstance(target, tuple):  # a plain string is an alias of another name
                names.setdefault(target[0], name)
    return names


def manual_entries(topics: Mapping[str, str], help_names: Mapping[str, str]) -> list[Entry]:
    """Entries of all topics, by topic name. What several topics hold is kept in the smallest of them."""
    seen: set[str] = set()
    kept: dict[str, list[Entry]] = {}
    # "compound" repeats "with", "for" and "try": the small topic is the one a reader asks help() for.
    for name in sorted(topics, key=lambda name: (len(topics[name]), len(name), name)):
        sections = [section for section in split_topic(topics[name]) if not _is_copied(section, seen)]
        seen.update(block for section in sections for block in map(_squeeze, section.blocks))
        shown = f'help("{help_names[name]}")' if name in help_names else f'pydoc_data.topics.topics["{name}"]'
        kept[name] = [_entry(name, section, shown) for section in sections]
    return [entry for name in sorted(kept) for entry in kept[name]]


def split_topic(text: str) -> Iterator[Section]:
    """Sections of one topic in reading order, without grammar rules, rulers and footnotes."""
    path: list[str] = []
    for level, title, body in _headed(text):
        path[level:] = [title]
        blocks = [block for block in text_blocks(_clean(body)) if not _is_grammar(block)]
        yield from _defined(blocks, tuple(path), _slug(title) if level else "")


def _headed(text: str) -> Iterator[tuple[int, str, str]]:
    """(level, title, text below) for every underlined title."""
    lines = text.strip("\n").splitlines()
    starts = [
        index
        for index, (line, below) in enumerate(itertools.pairwise(lines))
        if line.strip() and not line.startswith(" ") and _UNDERLINE.fullmatch(below)
    ]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        level = _LEVELS.index(lines[start + 1][0])
        yield level, lines[start].strip(), "\n".join(lines[start + 2 : end])


def _defined(blocks: Sequence[str], path: tuple[str, ...], anchor: str) -> Iterator[Section]:
    """The section's own blocks first, then each of its definitions as a section."""
    own: list[str] = []
    definitions: list[Section] = []
    position = 0
    while position < len(blocks):
        block = blocks[position]
        end = position + 1
        if _is_term(blocks, position):
            while end < len(blocks) and _indent(blocks[end]) > _indent(block):
                end += 1
            terms = [_SIGNATURE_PREFIX.sub("", line.strip()) for line in block.splitlines()]
            inner = [*_other_names(terms, _indent(block)), *blocks[position + 1 : end]]
            definitions.extend(_defined(inner, (*path, terms[0]), _slug(terms[0].split("(")[0])))
        else:
            own.append(block)
        position = end
    if own:
        yield Section(path=path, anchor=anchor, blocks=tuple(_dedent(own)))
    yield from definitions


def _is_term(blocks: Sequence[str], position: int) -> bool:
    """Whether the block is what the deeper block after it defines: a signature, or several."""
    if position + 1 == len(blocks):
        return False
    block, depth = blocks[position], _indent(blocks[position])
    return (
        _indent(blocks[position + 1]) == depth + _DEFINITION_INDENT
        and not block.endswith((".", ":", "!", "?", ","))
        and not _LIST_ITEM.match(block.lstrip())
        and all(_is_term_line(line, depth) for line in block.splitlines())
    )


def _is_term_line(line: str, depth: int) -> bool:
    is_whole = _indent(line) == depth and len(line) <= _MAX_TERM_CHARS and not line.endswith(".")
    return is_whole and _TERM.fullmatch(line.strip()) is not None


def _other_names(terms: Sequence[str], depth: int) -> list[str]:
    """`__add__`, `__sub__`, … that share one explanation, on a line of their own."""
    if len(terms) == 1:
        return []
    names = dict.fromkeys(term.split("(")[0].removeprefix("object.") for term in terms)
    return [" " * (depth + _DEFINITION_INDENT) + ", ".join(names)] if len(names) > 1 else []


def _entry(topic: str, section: Section, source: str) -> Entry:
    key = f"topic:{topic}/{section.anchor}" if section.anchor else f"topic:{topic}"
    return Entry(key=key, heading=" > ".join(section.path), source=source, blocks=section.blocks)


def _is_copied(section: Section, seen: set[str]) -> bool:
    blocks = [_squeeze(block) for block in section.blocks]
    total = sum(map(len, blocks))
    copied = sum(len(block) for block in blocks if len(block) >= _MIN_COPIED_CHARS and block in seen)
    return total < MIN_BODY_CHARS or copied >= _COPIED_SHARE * total


def _clean(text: str) -> str:
    """The text without footnotes and drawn lines; a table's rows become paragraphs."""
    lines = []
    for line in text.split(_FOOTNOTES)[0].splitlines():
        content = line.strip()
        if content.startswith("**Source code:**"):
            continue
        if _TABLE_BORDER.fullmatch(content):
            lines.append("")
        elif content.startswith("|") and content.endswith("|"):
            lines.append(_TABLE_CELL_EDGE.sub("  ", content).strip())
        else:
            lines.append(line)
    return "\n".join(lines)


def _is_grammar(block: str) -> bool:
    return "::=" in block and _indent(block) > 0


def _dedent(blocks: Sequence[str]) -> list[str]:
    margin = " " * min(map(_indent, blocks))
    return ["\n".join(line.removeprefix(margin) for line in block.splitlines()) for block in blocks]


def _indent(block: str) -> int:
    return len(block) - len(block.lstrip(" "))


def _squeeze(block: str) -> str:
    return " ".join(block.split())


def _slug(title: str) -> str:
    return re.sub(r"[^\w.]+", "-", title.lower()).strip("-.")
