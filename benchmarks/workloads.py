"""The texts that are embedded: always the same ones, of known numbers of tokens."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

SMALLEST, MEDIAN, LARGEST, SIGMA = 8, 120, 2_000, 0.9
SHORTEST_QUERY, LONGEST_QUERY = 5, 20
FULL = 512
CHANGED = 0.01  # of the documents, when they are ingested again
TITLES = {
    "short": "(a) short queries",
    "mix": "(b) log-normal mix",
    "full": f"(c) {FULL} tokens",
    "query": "(d) one query at a time",
}
SEEDS = {"short": 31, "mix": 32, "full": 33, "query": 34}  # of the words; lengths have their own
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
# Short ones of several lengths, so that a batch of them has padding: what vectors are compared on first.
CHECK_TOKENS = (12, 8, 10, 7, 9, 12, 8, 11)
# Of one text each, behind a call with all of them: short ones, since a long one takes a large model seconds.
LATENCY_CALLS, LATENCY_TOKENS = 20, 160
MANY = 1_024  # texts, for which the batches of a peer that sorts are computed beside those it was measured on


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Texts, and how they are handed over: all in one call, or one a call.

    `lengths` are the tokens of each text, the instruction and special tokens among them. `many` are the lengths
    of MANY texts of the same distribution, empty where there are as many texts, all are of one length or each has
    a call of its own.
    """

    name: str
    title: str
    texts: list[str]
    lengths: list[int]
    instruction: str = ""
    one_by_one: bool = False
    many: list[int] = field(default_factory=list)

    @property
    def alone(self) -> list[str]:
        """The texts that are embedded once more, alone, for the latency of a call: none above LATENCY_TOKENS."""
        pairs = [] if self.one_by_one else zip(self.texts, self.lengths, strict=True)
        return [text for text, length in pairs if length <= LATENCY_TOKENS][:LATENCY_CALLS]


def make_workloads(folder: str, counts: dict[str, int], limit: int) -> list[Workload]:
    """Workloads (a) to (d) for the tokenizer in `folder`, of `counts` texts by name; none beyond `limit` tokens."""
    lengths: dict[str, Callable[[int], list[int]]] = {
        "short": lambda n: query_lengths(n, seed=11),
        "mix": lambda n: log_normal_lengths(n, largest=min(LARGEST, limit), seed=0),
        "full": lambda n: [min(FULL, limit)] * n,
        "query": lambda n: query_lengths(n, seed=14),
    }
    works = []
    for name, count in counts.items():
        instruction = INSTRUCTION if name == "query" else ""
        texts = texts_of(folder, lengths[name](count), seed=SEEDS[name])
        work = Workload(
            name=name,
            title=TITLES[name],
            texts=texts,
            lengths=[len(row) for row in token_rows(folder, [instruction + text for text in texts])],
            instruction=instruction,
            one_by_one=name == "query",
            many=lengths[name](MANY) if name in ("short", "mix") and count < MANY else [],
        )
        works.append(work)
    return works


def write_workloads(file: Path, folder: str, workloads: Sequence[Workload]) -> None:
    """Writes what a fresh process of any environment reads with `read_workloads`."""
    check = texts_of(folder, CHECK_TOKENS, seed=1)
    file.write_text(json.dumps({"check": check, "workloads": [asdict(work) for work in workloads]}))


def read_workloads(file: str, names: Sequence[str]) -> tuple[list[str], list[Workload]]:
    """The texts to compare vectors on, and the workloads `names`."""
    data: dict[str, Any] = json.loads(Path(file).read_text())
    return data["check"], [Workload(**work) for work in data["workloads"] if work["name"] in names]


def change_some(texts: Sequence[str], share: float = CHANGED) -> list[str]:
    """The same texts with every so many of them edited, one at least: a later state of the same documents."""
    step = max(1, round(1 / share))
    return [f"{text} edited" if index % step == 0 else text for index, text in enumerate(texts)]


def log_normal_lengths(
    count: int, *, median: int = MEDIAN, smallest: int = SMALLEST, largest: int = LARGEST, seed: int = 0
) -> list[int]:
    """Lengths in tokens, log-normal around `median` and cut to `smallest` and `largest`."""
    chance = random.Random(seed)
    drawn = (round(chance.lognormvariate(math.log(median), SIGMA)) for _ in range(count))
    return [min(max(length, smallest), largest) for length in drawn]


def query_lengths(count: int, *, seed: int) -> list[int]:
    """Lengths in tokens of short queries, evenly distributed."""
    chance = random.Random(seed)
    return [chance.randint(SHORTEST_QUERY, LONGEST_QUERY) for _ in range(count)]


def make_texts(folder: str, count: int, *, median: int = MEDIAN, largest: int = LARGEST, seed: int = 0) -> list[str]:
    """Texts of log-normal lengths for the tokenizer in `folder`."""
    lengths = log_normal_lengths(count, median=median, largest=largest, seed=seed)
    return texts_of(folder, lengths, seed=seed)


def texts_of(folder: str, lengths: Sequence[int], *, seed: int) -> list[str]:
    """Texts of just so many tokens, special ones included: words of which each is one token."""
    words, special = _words(folder)
    chance = random.Random(seed)
    return [" ".join(chance.choices(words, k=max(1, length - special))) for length in lengths]


def token_rows(folder: str, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, special ones included, read from the checkpoint without this project."""
    return [encoding.ids for encoding in _tokenizer(folder).encode_batch(list(texts))]


@lru_cache
def _tokenizer(folder: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@lru_cache
def _words(folder: str) -> tuple[list[str], int]:
    """Words of one token each, whatever stands before them, and how many special tokens stand around a text."""
    tokenizer = _tokenizer(folder)
    # In byte-pair vocabularies Ġ stands for the space before a word.
    bare = {token.removeprefix("Ġ") for token in tokenizer.get_vocab()}
    words = sorted(word for word in bare if len(word) > 2 and word.isascii() and word.isalpha() and word.islower())
    special = len(tokenizer.encode("").ids)
    single = [
        word
        for word, alone, behind in zip(
            words, tokenizer.encode_batch(words), tokenizer.encode_batch([f"the {word}" for word in words]), strict=True
        )
        if len(alone.ids) == special + 1 and len(behind.ids) == special + 2
    ]
    return single, special
