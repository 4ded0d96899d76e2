"""Questions a programmer asks about Python, and where the corpus answers them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

# Shown to a first visitor; apart from the measured set, so that nobody tunes one by looking at the other.
DEMO_QUESTIONS = (
    "how do I loop over two lists at once?",
    "why can't I use a list as a dictionary key?",
    "how do I put a list into random order?",
    "what does a star in front of an argument do when I call a function?",
    "how do I print a date the way people write it?",
    "how do I look inside a zip file without unpacking it?",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, and every place of the corpus that answers it.

    answers: `doc:shutil.copytree` or `topic:with` for the passage of that id and all its numbered parts,
        `topic:booleans#1` for one part. Each of them exists on Python 3.10 to 3.13.
    """

    text: str
    answers: tuple[str, ...]

    def is_answered_by(self, passage_id: str) -> bool:
        """Whether the passage is one of the answers, or a numbered part of one."""
        return passage_id in self.answers or passage_id.partition("#")[0] in self.answers


def load_questions(*, reworded: bool = False) -> tuple[Question, ...]:
    """The questions that a model's search is measured by: worded as people type them.

    With `reworded`, 40 others that avoid the words of their answers: what is hard for a small model.
    """
    name = "questions_reworded.json" if reworded else "questions.json"
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return tuple(Question(text=row["text"], answers=tuple(row["answers"])) for row in json.loads(text))


def hit_at_k(ranked_ids: Sequence[Sequence[str]], k: int, asked: Sequence[Question] | None = None) -> float:
    """Share of the questions with an answer among the first `k` passages found.

    ranked_ids: for each question, in its order, passage ids with the best first.
    asked: the questions; `load_questions()` where left out.
    """
    asked = load_questions() if asked is None else asked
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}. It counts the passages a reader looks at.")
    if not asked or len(ranked_ids) != len(asked):
        raise ValueError(
            f"There are {len(ranked_ids)} rankings for {len(asked)} questions. "
            "Each question needs its own list of passage ids, in the same order; an empty list is a miss."
        )
    hits = sum(
        any(question.is_answered_by(passage_id) for passage_id in ranking[:k])
        for question, ranking in zip(asked, ranked_ids, strict=True)
    )
    return hits / len(asked)
