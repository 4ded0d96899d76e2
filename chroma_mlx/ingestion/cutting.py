"""Long texts into passages by tokens, by semantic-text-splitter: on structure where there is some, with overlap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import ConfigError, MissingPackage
from .headings import Headings

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    Splitter: TypeAlias = MarkdownSplitter | TextSplitter

# Texts to the tokens of each, without the special ones that stand around every text.
CountTokens: TypeAlias = Callable[[Sequence[str]], list[int]]
# Characters that are cut at a time, for every token of a passage: for each passage the splitter goes through all of
# the structure behind it.
AHEAD: Final = 64
# Parts of a text whose tokens are remembered: a quarter is asked for again, and counting is most of the work.
HELD: Final = 128
# Characters of a passage's end that its overlap is looked for in, for every token of it.
TAIL: Final = 8


@dataclass(frozen=True, slots=True)
class Span:
    """A passage's place in its text: text[start:end]."""

    start: int
    end: int


class Cutter:
    """Cuts texts into passages of at most `size` tokens, each beginning with up to `overlap` of the one before.

    The library overlaps only where what it cuts by is short enough, which is every other time in Markdown. So it cuts
    without, `overlap` tokens short of `size`, and finds the end of each passage that the next one begins with. Nothing
    but white space is left out.
    """

    def __init__(self, count: CountTokens, *, size: int, overlap: int) -> None:
        """Raises ConfigError unless 1 <= size and 0 <= overlap <= size / 2."""
        if size < 1 or not 0 <= overlap <= size // 2:
            raise ConfigError(
                f"Passages of {size} tokens with {overlap} of overlap cannot be. Set the size to 1 or more, and the "
                f"overlap to at most half of it."
            )
        self._count, self.size, self.overlap = count, size, overlap

    def fits(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is one passage. The bytes of a text are counted first: they are never fewer than tokens."""
        found = [len(text) <= self.size and len(text.encode()) <= self.size for text in texts]
        unsure = [place for place, fits in enumerate(found) if not fits and len(texts[place]) <= AHEAD * self.size]
        if unsure:
            counts = self._count([texts[place] for place in unsure])
            for place, tokens in zip(unsure, counts, strict=True):
                found[place] = tokens <= self.size
        return found

    def cut(self, text: str, headings: Headings, *, markdown: bool = False) -> list[Span]:
        """The passages of a text, in order; white space alone is none. Raises MissingPackage without the extra.

        Only a single character that is more tokens than `size` is a longer passage.
        """
        counted = functools.lru_cache(HELD)(lambda part: self._count([part])[0])
        tails = _splitter(counted, self.overlap) if self.overlap else None
        found = list[Span]()
        for span in self._spans(text, headings, _splitter(counted, self.size - self.overlap, markdown=markdown)):
            start = span.start
            if found and tails is not None:
                start = self._overlap(text, found[-1], span, headings, tails)
                if start < span.start and counted(text[start : span.end]) > self.size:
                    start = span.start
                if start <= found[-1].start:  # then all of it is in this one
                    found.pop()
            found.append(Span(start, span.end))
        return found

    def _overlap(self, text: str, before: Span, span: Span, headings: Headings, tails: Splitter) -> int:
        """Where the passage that is to hold `span` begins, if it is not too long then."""
        title = headings.last(before.end - 1)
        if title >= before.start and "\n" not in text[title : before.end]:
            return before.start  # a heading without what is below it says nothing
        if headings.last(span.end - len(text[span.start : span.end].lstrip())) >= before.end:
            return span.start
        first = max(before.start, before.end - TAIL * self.overlap)
        return first + tails.chunk_indices(text[first : before.end])[-1][0]

    def _spans(self, text: str, headings: Headings, splitter: Splitter) -> Iterable[Span]:
        start = 0
        while start < len(text):
            stop = min(len(text), start + AHEAD * self.size)
            heading = headings.last(stop)
            whole = stop == len(text) or heading > start
            if stop < len(text) and whole:
                stop = heading
            found = [
                Span(start + place, start + place + len(passage))
                for place, passage in splitter.chunk_indices(text[start:stop])
                if passage.strip()
            ]
            # What a stretch ends with that does not end at a heading may go on behind it.
            if not whole and len(found) > 1:
                stop = found.pop().start
            yield from found
            start = stop


def _splitter(count: Callable[[str], int], size: int, *, markdown: bool = False) -> Splitter:
    try:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
    except ImportError as error:
        raise MissingPackage("semantic-text-splitter", "'chroma-mlx[ingest]'") from error
    kind = MarkdownSplitter if markdown else TextSplitter
    return kind.from_callback(count, size)
