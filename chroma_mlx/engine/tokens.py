"""Texts to token ids, as the reference does it: never stripped, cut before the end token, never without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, ConfigError, CorruptCheckpoint, TextTooLong

TokenIds = npt.NDArray[np.int32]

# Characters that are counted at a time, and how many tokens a text may have more by being cut there: a word that is one
# token as it is too long for any (100 characters, in BERT's) may have as many as characters in two parts.
LOT_CHARACTERS: Final = 2**18
CUT_TOKENS: Final = 256


class Tokenizer:
    """A checkpoint's tokenizer, with its special tokens known apart from the text's own."""

    def __init__(self, checkpoint: Checkpoint, *, start_token: str | None, end_token: str | None) -> None:
        """Reads tokenizer.json. `start_token` and `end_token` are added where the tokenizer itself adds nothing.

        Raises CorruptCheckpoint when the file is no tokenizer, CheckpointError when it lacks one of them.
        """
        import tokenizers

        file = checkpoint.tokenizer_file
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise CorruptCheckpoint(f"{file} is no tokenizer: {error}. Fetch the model again.") from error
        # A file may carry limits of whoever saved it last; ours come from the settings.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if checkpoint.declared.lower_case:
            self._lower_case()
        self._cut_left = checkpoint.tokenizer_config.get("truncation_side") == "left"
        self._head, self._tail = self._find_special_ids()
        self._prepend = [] if self._head or start_token is None else [self._id_of(start_token, file)]
        self._append = [] if self._tail or end_token is None else [self._id_of(end_token, file)]
        self._head, self._tail = self._head or self._prepend, self._tail or self._append

    def _id_of(self, token: str, file: Path) -> int:
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(
                f"{file} has no token {token!r}, which must stand around every text of this architecture. The "
                "tokenizer is not the model's own; fetch the model again."
            )
        return found

    @property
    def special_tokens(self) -> int:
        """How many tokens stand around every text."""
        return len(self._head) + len(self._tail)

    @property
    def closing_tokens(self) -> int:
        """How many of them stand behind it."""
        return len(self._tail)

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def check_limit(self, max_tokens: int) -> None:
        """Raises ConfigError when not even one token of a text would be left."""
        if max_tokens <= self.special_tokens:
            raise ConfigError(
                f"max_tokens is {max_tokens}, but this model puts {self.special_tokens} special token(s) around a "
                f"text. Set it to {self.special_tokens + 1} or more."
            )

    def prompt_tokens(self, prompt: str) -> TokenIds:
        """Tokens of `prompt` and what stands before it, without what is appended; none for no prompt."""
        ids = self._ids([prompt])[0] if prompt else []
        return np.array(ids[: len(ids) - len(self._tail)], dtype=np.int32)

    def encode(
        self,
        texts: Sequence[str],
        *,
        prefix: str,
        max_tokens: int,
        refuse_long: bool,
        places: Sequence[int],
        cut: list[int] | None = None,
    ) -> list[TokenIds]:
        """Token ids of each text behind `prefix`, special tokens included: int32, 1 to `max_tokens` long.

        A longer text is cut before its closing special tokens, or with `refuse_long` raises TextTooLong
        (naming the text's place in the call, from `places`). The places of texts that were cut are added to `cut`.
        """
        encoded = []
        for place, ids in zip(places, self._ids([prefix + text for text in texts] if prefix else texts), strict=True):
            if len(ids) > max_tokens:
                if refuse_long:
                    raise TextTooLong(index=place, tokens=len(ids), limit=max_tokens)
                ids = self._cut(ids, max_tokens)
                if cut is not None:
                    cut.append(place)
            encoded.append(np.array(ids, dtype=np.int32))
        return encoded

    def count(self, texts: Sequence[str], most: int) -> int:
        """Tokens of all texts, special ones included, none cut; of texts with more than `most` some number beyond it.

        What is beyond it is not looked at, however much that is.
        """
        counted = 0
        for lot in _lots(texts):
            if len(lot[0]) > LOT_CHARACTERS:  # and so the only one: about, and only if that leaves it open to its end
                found = 0
                for start in range(0, len(lot[0]), LOT_CHARACTERS):
                    found += sum(self.lengths([lot[0][start : start + LOT_CHARACTERS]])) - CUT_TOKENS
                    if counted + found > most:
                        return counted + found
            counted += sum(self.lengths(lot)) + len(lot) * self.special_tokens
            if counted > most:
                break
        return counted

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without the special ones around it, none cut."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encoded]

    def text_of(self, ids: Sequence[int]) -> str | None:
        """The text that has exactly these token ids (special ones around it or not); None where there is none.

        So ids of another tokenizer are hardly ever taken for this one's.
        """
        own = list(ids)
        for head, tail in ((self._head, self._tail), ([], self._tail), (self._head, []), ([], [])):
            if own[: len(head)] == head and own[len(own) - len(tail) :] == tail:
                own = own[len(head) : len(own) - len(tail)]
                break
        text: str = self._tokenizer.decode(own, skip_special_tokens=False)
        return text if self._tokenizer.encode(text, add_special_tokens=False).ids == own else None

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            self._prepend + encoding.ids + self._append for encoding in self._tokenizer.encode_batch_fast(list(texts))
        ]

    def _cut(self, ids: list[int], max_tokens: int) -> list[int]:
        head, tail = len(self._head), len(self._tail)
        own, room = ids[head : len(ids) - tail], max_tokens - head - tail
        return self._head + (own[-room:] if self._cut_left else own[:room]) + self._tail

    def _find_special_ids(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after a text, by comparing one with and without it."""
        probe = "a"
        plain = self._tokenizer.encode(probe, add_special_tokens=False).ids
        ids = self._tokenizer.encode(probe).ids
        for start in range(len(ids) - len(plain) + 1):
            if ids[start : start + len(plain)] == plain:
                return ids[:start], ids[start + len(plain) :]
        return [], []

    def _lower_case(self) -> None:
        """do_lower_case of sentence-transformers: lower-case first, unless the tokenizer does so itself."""
        from tokenizers import normalizers

        own = self._tokenizer.normalizer
        if own is None:
            self._tokenizer.normalizer = normalizers.Lowercase()
        elif "Lowercase" not in repr(own) and "lowercase=True" not in repr(own):
            self._tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), own])


def _lots(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in lots of LOT_CHARACTERS; one that has more is one by itself."""
    lot: list[str] = []
    characters = 0
    for text in texts:
        if lot and characters + len(text) > LOT_CHARACTERS:
            yield lot
            lot, characters = [], 0
        lot.append(text)
        characters += len(text)
    if lot:
        yield lot
