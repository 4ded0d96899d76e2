"""Where a text may be cut, and the headings over its parts."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import Final

# How good a place to cut is, from the best.
HEADING, PARAGRAPH, SENTENCE, WORD = 3, 2, 1, 0
ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
UNDERLINE: Final = re.compile(r" {0,3}(=+|-+)[ \t]*$")
FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
# Chinese and Japanese put no space between words; a longer run of letters than this is no word.
WORDS: Final = re.compile(r"\s*(?:[぀-ヿ㐀-䶿一-鿿]|[^\s぀-ヿ㐀-䶿一-鿿]{1,48})|\s+$")
ENDS_SENTENCE: Final = (".", "!", "?", "…", "。", "！", "？", '."', ".'", ".)", "!)", "?)", ".”", ":", ";")


@dataclass(frozen=True, slots=True)
class Headings:
    """The headings of a text: where each begins, and its path ("Guide > Install"). `fences` are code, (start, end)."""

    starts: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    fences: tuple[tuple[int, int], ...] = ()

    def at(self, offset: int) -> str | None:
        """The path of the heading that the place stands under."""
        place = bisect.bisect_right(self.starts, offset) - 1
        return self.paths[place] if place >= 0 else None

    def in_fence(self, offset: int) -> bool:
        """Whether the place is within a block of code."""
        place = bisect.bisect_right(self.fences, (offset, 1 << 62)) - 1
        return place >= 0 and self.fences[place][0] < offset < self.fences[place][1]


def find_headings(text: str) -> Headings:
    """The headings of a Markdown text, both forms; a line within a block of code is none."""
    starts, paths, fences = list[int](), list[str](), list[tuple[int, int]]()
    titles: dict[int, str] = {}
    fence, fence_start, offset, before = "", 0, 0, (0, "")
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n")
        mark = FENCE.match(bare)
        if fence:
            if mark and mark[1].startswith(fence) and bare.strip() == mark[1]:
                fences.append((fence_start, offset + len(line)))
                fence = ""
            before = (offset, "")
        elif mark:
            fence, fence_start, before = mark[1], offset, (offset, "")
        else:
            level, title, start = _heading(bare, before, offset)
            if level:
                titles = {each: text for each, text in titles.items() if each < level} | {level: title}
                starts.append(start)
                paths.append(" > ".join(titles[each] for each in sorted(titles)))
            before = (offset, "" if level else bare)
        offset += len(line)
    if fence:
        fences.append((fence_start, offset + 1))
    return Headings(tuple(starts), tuple(paths), tuple(fences))


def _heading(line: str, before: tuple[int, str], offset: int) -> tuple[int, str, int]:
    """(level, title, where it begins) of a heading that ends in `line`; level 0 where none does."""
    if (found := ATX.match(line)) and (found[2] or "").strip():
        return len(found[1]), found[2].strip(), offset
    previous = before[1].strip()
    if (found := UNDERLINE.match(line)) and previous and not previous.startswith(("|", ">", "-", "*", "+")):
        return (1 if found[1][0] == "=" else 2), previous, before[0]
    return 0, "", offset


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a stretch of text, each with the white space before it: where each ends, and how good the cut
    before it would be."""

    texts: list[str]
    ends: list[int]
    strengths: list[int]


def find_words(text: str, start: int, end: int, headings: Headings) -> Words:
    """The words of text[start:end]."""
    texts, ends, strengths = list[str](), list[int](), list[int]()
    place = bisect.bisect_left(headings.starts, start)
    last = ""
    for found in WORDS.finditer(text, start, end):
        word = found[0]
        body = word.lstrip()
        offset = found.end() - len(body)
        strength = _strength(word[: len(word) - len(body)], last)
        if headings.starts:
            while place < len(headings.starts) and headings.starts[place] < found.start():
                place += 1
            if place < len(headings.starts) and headings.starts[place] <= offset:
                strength = HEADING
            elif strength == PARAGRAPH and headings.in_fence(offset):
                strength = SENTENCE
        texts.append(word)
        ends.append(found.end())
        strengths.append(strength)
        last = body
    return Words(texts, ends, strengths)


def _strength(space: str, last: str) -> int:
    if "\n" in space:
        return PARAGRAPH if space.count("\n") > 1 else SENTENCE
    return SENTENCE if last.endswith(ENDS_SENTENCE) and (space or last[-1] > "\xff") else WORD
