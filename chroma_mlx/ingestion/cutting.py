"""Long texts into passages by tokens: on structure where there is some, with overlap, in time that grows with the
length alone."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..errors import ConfigError
from .structure import HEADING, WORD, Headings, Words, find_words

# Texts to the tokens of each, without the special ones that stand around every text.
CountTokens: TypeAlias = Callable[[Sequence[str]], list[int]]
# Characters read ahead, for every token of a passage.
AHEAD: Final = 64
# Of a passage that a good cut may leave empty, and of the size asked for that one which came out too long is cut by.
LEAST_FULL: Final = 0.5
SHRINK: Final = 0.9
WORDS_KEPT: Final = 50_000


@dataclass(frozen=True, slots=True)
class Span:
    """A passage's place in its text: text[start:end]."""

    start: int
    end: int


class Cutter:
    """Cuts texts into passages of at most `size` tokens, each beginning with up to `overlap` of the one before.

    A cut is made before the best place in the second half of a passage: a heading (behind which nothing
    overlaps), a paragraph, a sentence, a word. No token is left out. Not safe from several threads.
    """

    def __init__(self, count: CountTokens, *, size: int, overlap: int) -> None:
        """Raises ConfigError unless 1 <= size and 0 <= overlap <= size / 2."""
        if size < 1 or not 0 <= overlap <= size // 2:
            raise ConfigError(
                f"Passages of {size} tokens with {overlap} of overlap cannot be. Set the size to 1 or more, and the "
                f"overlap to at most half of it."
            )
        self._count, self.size, self.overlap = count, size, overlap
        self._known: dict[str, int] = {}

    def fits(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is one passage. The bytes of a text are counted first: they are never fewer than tokens."""
        found = [len(text) <= self.size and len(text.encode()) <= self.size for text in texts]
        unsure = [place for place, fits in enumerate(found) if not fits and len(texts[place]) <= AHEAD * self.size]
        if unsure:
            counts = self._count([texts[place] for place in unsure])
            for place, tokens in zip(unsure, counts, strict=True):
                found[place] = tokens <= self.size
        return found

    def cut(self, text: str, headings: Headings) -> list[Span]:
        """The passages of a text, in order; white space alone is none, and none begins or ends with it."""
        spans = _trimmed(text, self._pack(text, 0, len(text), headings, self.size))
        # Words counted one by one may have fewer tokens than together, by a few.
        while True:
            counts = self._count([text[span.start : span.end] for span in spans])
            if all(tokens <= self.size for tokens in counts):
                return spans
            spans = [
                part
                for span, tokens in zip(spans, counts, strict=True)
                for part in ([span] if tokens <= self.size else self._smaller(text, span, tokens, headings))
            ]

    def _smaller(self, text: str, span: Span, tokens: int, headings: Headings) -> list[Span]:
        size = max(1, int(self.size * self.size / tokens * SHRINK))
        parts = _trimmed(text, self._pack(text, span.start, span.end, headings, size))
        if len(parts) > 1 or span.end - span.start == 1:
            return parts
        middle = (span.start + span.end) // 2  # a word without white space, whose tokens are many
        return _trimmed(text, [Span(span.start, middle), Span(middle, span.end)])

    def _pack(self, text: str, start: int, stop: int, headings: Headings, size: int) -> Iterable[Span]:
        """Passages of text[start:stop], read ahead a window at a time so that memory does not grow with the text."""
        window = AHEAD * size
        overlap = min(self.overlap, size // 2)
        while start < stop:
            end = min(stop, start + window)
            words = find_words(text, start, end, headings)
            sums = [0, *itertools.accumulate(self._tokens_of(words.texts))]
            place, count = 0, len(words.texts)
            while place < count:
                full = max(place + 1, bisect.bisect_right(sums, sums[place] + size) - 1)
                if full >= count:
                    break
                cut = _best_cut(words, sums, place, full, size)
                yield Span(words.ends[place - 1] if place else start, words.ends[cut - 1])
                place = _next_start(words, sums, place, cut, overlap)
            begin = words.ends[place - 1] if place else start
            if end == stop:
                yield Span(begin, stop)
                return
            # A window that holds no whole passage is widened; else the next one begins where this one is used up.
            window = window * 2 if begin == start else AHEAD * size
            start = begin

    def _tokens_of(self, words: Sequence[str]) -> Iterable[int]:
        known = self._known
        if len(known) > WORDS_KEPT:
            known.clear()
        new = [word for word in dict.fromkeys(words) if word not in known]
        if new:
            known.update(zip(new, (max(1, tokens) for tokens in self._count(new)), strict=True))
        return (known[word] for word in words)


def _best_cut(words: Words, sums: Sequence[int], place: int, full: int, size: int) -> int:
    """The word to cut before: the last of the best places in the second half; `full` is the last possible one."""
    least = bisect.bisect_left(sums, sums[place] + size * LEAST_FULL, place + 1, full)
    best, strength = full, words.strengths[full]
    for candidate in range(full - 1, least - 1, -1):
        if words.strengths[candidate] > strength:
            best, strength = candidate, words.strengths[candidate]
            if strength == HEADING:
                break
    return best


def _next_start(words: Words, sums: Sequence[int], place: int, cut: int, overlap: int) -> int:
    """Where the next passage begins: so many tokens back, at a sentence if one begins there, behind `place`."""
    if overlap == 0 or words.strengths[cut] == HEADING:
        return cut
    first = max(place + 1, bisect.bisect_left(sums, sums[cut] - overlap))
    for candidate in range(first, cut):
        if words.strengths[candidate] > WORD:
            return candidate
    return min(first, cut)


def _trimmed(text: str, spans: Iterable[Span]) -> list[Span]:
    """Without the white space around them, and without those that add nothing else to the one before."""
    found = list[Span]()
    for span in spans:
        part = text[span.start : span.end]
        body = part.strip()
        start = span.start + len(part) - len(part.lstrip())
        if body and (not found or start + len(body) > found[-1].end):
            found.append(Span(start, start + len(body)))
    return found
