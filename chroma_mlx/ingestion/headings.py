"""The headings over the parts of a Markdown text."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import Final

ATX: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
UNDERLINE: Final = re.compile(r" {0,3}(=+|-+)[ \t]*$")
FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,})")
# YAML before the text, whose last key and end look like a heading that is underlined.
FRONT: Final = re.compile(r"---[ \t\r]*\n(?=\w[^\n]*:)(?:[^\n]*\n)*?(?:---|\.\.\.)[ \t\r]*(?:\n|$)")


@dataclass(frozen=True, slots=True)
class Headings:
    """The headings of a text: where each begins, and its path ("Guide > Install")."""

    starts: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()

    def at(self, offset: int) -> str | None:
        """The path of the heading that the place stands under."""
        place = bisect.bisect_right(self.starts, offset) - 1
        return self.paths[place] if place >= 0 else None

    def last(self, offset: int) -> int:
        """Where the last heading that begins at the place or before begins; -1 where none does."""
        place = bisect.bisect_right(self.starts, offset) - 1
        return self.starts[place] if place >= 0 else -1


def find_headings(text: str) -> Headings:
    """The headings of a Markdown text, both forms; a line within a block of code or the front matter is none."""
    starts, paths = list[int](), list[str]()
    titles: dict[int, str] = {}
    fence, offset, before = "", 0, (0, "")
    front = FRONT.match(text)
    begin = front.end() if front else 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n")
        mark = FENCE.match(bare)
        if offset < begin:
            pass
        elif fence:
            if mark and mark[1].startswith(fence) and bare.strip() == mark[1]:
                fence = ""
            before = (offset, "")
        elif mark:
            fence, before = mark[1], (offset, "")
        else:
            level, title, start = _heading(bare, before, offset)
            if level:
                titles = {each: text for each, text in titles.items() if each < level} | {level: title}
                starts.append(start)
                paths.append(" > ".join(titles[each] for each in sorted(titles)))
            before = (offset, "" if level else bare)
        offset += len(line)
    return Headings(tuple(starts), tuple(paths))


def _heading(line: str, before: tuple[int, str], offset: int) -> tuple[int, str, int]:
    """(level, title, where it begins) of a heading that ends in `line`; level 0 where none does."""
    if (found := ATX.match(line)) and (found[2] or "").strip():
        return len(found[1]), found[2].strip(), offset
    previous = before[1].strip()
    if (found := UNDERLINE.match(line)) and previous and not previous.startswith(("|", ">", "-", "*", "+")):
        return (1 if found[1][0] == "=" else 2), previous, before[0]
    return 0, "", offset
