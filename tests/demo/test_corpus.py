"""The corpus of the demo: what it reads, how it is cut, and what it leaves out."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from chroma_mlx.demo.compiled import COMPILED_MODULES, compiled_definitions
from chroma_mlx.demo.corpus import EmptyCorpus, collect_passages, docstring_entries, read_passages, spread
from chroma_mlx.demo.manual import load_topics, manual_entries, split_topic
from chroma_mlx.demo.passage import MAX_CHARS, Entry, Passage, cut_passages, pack_blocks, text_blocks
from chroma_mlx.demo.stdlib import Definition, public_definitions

WITH_TOPIC = """
The "with" statement
********************

The "with" statement wraps a block in what a context manager defines.

   with_stmt ::= "with" with_item ":" suite

The following code:

   with open("notes") as notes:
       notes.read()

closes the file.

object.__enter__(self)
object.__aenter__(self)

   Called before the block runs.

-[ Footnotes ]-

[1] A footnote about nothing that anybody asks for.
"""


@pytest.fixture(scope="module")
def passages() -> list[Passage]:
    return read_passages()


def by_id(passages: list[Passage]) -> dict[str, Passage]:
    return {passage.id: passage for passage in passages}


def write(root: Path, name: str, source: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def names(root: Path) -> list[str]:
    return [definition.name for definition in public_definitions(root)]


# What a reader of the whole corpus may rely on.


def test_the_corpus_has_a_few_thousand_passages(passages: list[Passage]) -> None:
    assert 3_000 <= len(passages) <= 6_000


def test_every_id_and_every_text_is_unique(passages: list[Passage]) -> None:
    assert len({passage.id for passage in passages}) == len(passages)
    assert len({passage.text for passage in passages}) == len(passages)


def test_every_passage_opens_with_its_heading_and_fits_the_model(passages: list[Passage]) -> None:
    for passage in passages:
        assert passage.text.startswith(f"{passage.heading}\n"), passage.id
        assert len(passage.text) <= MAX_CHARS, passage.id
        assert "\n" not in passage.heading, passage.id


def test_manual_source_and_compiled_modules_are_all_read(passages: list[Passage]) -> None:
    found = by_id(passages)
    assert found["topic:with#1"].source == 'help("with")'
    assert found["topic:string-methods/str.strip"].heading == "String Methods > str.strip([chars])"
    assert found["doc:shutil.rmtree"].source == "shutil.rmtree"
    assert "iterables" in found["doc:itertools.chain"].text
    assert found["doc:zip"].source == "zip"


def test_names_are_those_that_people_import(passages: list[Passage]) -> None:
    found = {passage_id.partition("#")[0] for passage_id in by_id(passages)}
    assert {"doc:asyncio.gather", "doc:datetime.date.today", "doc:collections.abc.Mapping"} <= found
    assert {"doc:os.path.commonpath", "doc:concurrent.futures.ThreadPoolExecutor"} <= found
    inner = ("doc:_", "doc:asyncio.tasks.gather", "doc:posixpath")
    assert [name for name in found if name.startswith(inner)] == []


def test_reading_imports_none_of_the_documented_modules() -> None:
    code = (
        "import sys; from chroma_mlx.demo.corpus import read_passages; before = set(sys.modules); "
        "read_passages(); "
        "print([m for m in ('antigravity', 'this', 'shelve', 'telnetlib', 'unittest.mock', 'turtle') "
        "if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# limit


def test_a_second_reading_with_a_limit_is_an_even_sample_of_the_first(passages: list[Passage]) -> None:
    assert read_passages(limit=50) == spread(passages, 50)


def test_a_sample_spreads_evenly_and_keeps_the_order(passages: list[Passage]) -> None:
    places = [passages.index(passage) for passage in spread(passages, 10)]
    gaps = {later - earlier for earlier, later in itertools.pairwise(places)}
    assert places[0] == 0
    assert min(gaps) > 0
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("limit", [3, 7, 100])
def test_a_limit_is_met_or_everything_is_returned(passages: list[Passage], limit: int) -> None:
    assert len(spread(passages[:7], limit)) == min(limit, 7)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        read_passages(limit=0)


def test_nothing_to_read_is_a_value_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no documented source in '.*absent'.*full Python") as caught:
        collect_passages({}, {}, tmp_path / "absent", [])
    assert isinstance(caught.value, EmptyCorpus)


def test_compiled_modules_alone_make_a_corpus(tmp_path: Path) -> None:
    assert "doc:math.isclose" in by_id(collect_passages({}, {}, tmp_path, [math]))


# The manual


def test_grammar_and_footnotes_are_left_out() -> None:
    text = "\n".join(block for section in split_topic(WITH_TOPIC) for block in section.blocks)
    assert "::=" not in text
    assert "footnote" not in text
    assert "wraps a block" in text


def test_a_definition_gets_its_own_section_with_all_its_names() -> None:
    own, definition = split_topic(WITH_TOPIC)
    assert own.path == ('The "with" statement',)
    assert own.anchor == ""
    assert definition.path[-1] == "object.__enter__(self)"
    assert definition.anchor == "object.__enter__"
    assert definition.blocks == ("__enter__, __aenter__", "Called before the block runs.")


def test_code_after_a_half_sentence_is_no_definition() -> None:
    code = "The loop\n\n   for x in y: pass\n\nis equivalent to\n\n   while z: pass\n"
    assert "is-equivalent-to" not in [section.anchor for section in split_topic(f"Loops\n*****\n\n{code}")]


def test_what_two_topics_share_is_kept_in_the_smaller_one() -> None:
    shared = "The statement is explained here at such length that it cannot be a coincidence."
    topics = {
        "compound": f"Compound statements\n***\n\nSome of them are long.\n\nWith\n===\n\n{shared}\n",
        "with": f"With\n***\n\n{shared}\n",
    }
    entries = manual_entries(topics, {"with": "with"})
    assert [entry.key for entry in entries if shared in entry.blocks] == ["topic:with"]


def test_an_interpreter_without_its_manual_has_no_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert load_topics() == {}


# Docstrings


def test_public_names_are_read_and_private_ones_are_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        "tools.py",
        '"""About tools."""\n'
        'def cut(cloth, *, deep=True):\n    """Cut the cloth."""\n'
        'def _hone():\n    """Private."""\n'
        'try:\n    pass\nexcept ImportError:\n    def saw():\n        """Saw wood."""\n'
        'class Knife:\n    def __init__(self, length):\n        """Forge it."""\n'
        '    @property\n    def edge(self):\n        """How sharp it is."""\n',
    )
    definitions = {definition.name: definition for definition in public_definitions(tmp_path)}
    assert set(definitions) == {"tools", "tools.cut", "tools.saw", "tools.Knife", "tools.Knife.edge"}
    assert definitions["tools.cut"].parameters == "cloth, deep"
    assert definitions["tools.Knife"] == Definition(name="tools.Knife", parameters="length", doc="Forge it.")
    assert definitions["tools.Knife.edge"].parameters is None


def test_a_name_goes_by_the_module_that_offers_it(tmp_path: Path) -> None:
    write(tmp_path, "box/__init__.py", "from .lid import *\nfrom ._hinge import turn\n")
    lid = 'def shut():\n    """Shut."""\ndef bolt():\n    """Bolt."""\n__all__ = ["shut"]\n'
    write(tmp_path, "box/lid.py", lid)
    write(tmp_path, "box/_hinge.py", 'def turn():\n    """Turn."""\ndef oil():\n    """Oil."""\n')
    assert names(tmp_path) == ["box.lid.bolt", "box.shut", "box.turn"]


def test_a_module_that_only_uses_a_private_name_does_not_offer_it(tmp_path: Path) -> None:
    write(tmp_path, "_core.py", 'def spin():\n    """Spin."""\n')
    write(tmp_path, "user.py", "from _core import spin\n__all__ = ['other']\n")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["test/a.py", "idlelib/a.py", "site-packages/a.py", "turtle.py", "imp.py"])
def test_foreign_removed_and_toolkit_modules_are_left_out(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, '"""Documentation that nobody looks for here."""\n')
    assert names(tmp_path) == []


def test_a_source_that_cannot_be_parsed_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, "broken.py", "def (:\n")
    (tmp_path / "binary.py").write_bytes(b"\x00\xff")
    write(tmp_path, "good.py", '"""A module that can be read."""\n')
    assert names(tmp_path) == ["good"]


def test_a_missing_library_folder_has_no_definitions(tmp_path: Path) -> None:
    assert public_definitions(tmp_path / "absent") == []


def test_an_outdated_escape_sequence_warns_nobody(tmp_path: Path) -> None:
    write(tmp_path, "old.py", '"""An old module with \\d in its text."""\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names(tmp_path) == ["old"]


def test_short_and_repeated_docstrings_are_dropped() -> None:
    text = "A docstring that is long enough to be kept."
    definitions = [
        Definition(name="a.B.c", parameters="", doc=text),
        Definition(name="a.c", parameters="x", doc=text.replace(" ", "\n")),
        Definition(name="a.d", parameters="", doc="Too short."),
    ]
    assert [(entry.key, entry.heading) for entry in docstring_entries(definitions)] == [("doc:a.c", "a.c(x)")]


def test_compiled_modules_document_only_what_is_their_own() -> None:
    found = {definition.name for definition in compiled_definitions(COMPILED_MODULES)}
    assert {"zip", "str.split", "itertools.chain.from_iterable", "os.listdir"} <= found
    assert not {"IOError", "os.error", "os.Mapping", "functools.GenericAlias"} & found


# Packing


def test_packing_keeps_every_block_whole_and_in_order() -> None:
    blocks = [f"Paragraph {number} " + "word " * number for number in range(1, 40)]
    packed = pack_blocks([block.strip() for block in blocks], room=400)
    assert [part for text in packed for part in text.split("\n\n")] == [block.strip() for block in blocks]
    assert max(map(len, packed)) <= 400


def test_packing_leaves_no_crumb_at_the_end() -> None:
    packed = pack_blocks(["a" * 300, "b" * 300, "c" * 300, "d" * 20], room=700)
    assert min(map(len, packed)) >= 300


def test_only_a_block_that_is_too_long_is_cut_and_between_lines() -> None:
    lines = [f"line {number:03d}" for number in range(100)]
    packed = pack_blocks(["Short one.", "\n".join(lines)], room=200)
    assert "\n".join(packed).replace("Short one.", "").split() == " ".join(lines).split()
    assert all(len(text) <= 200 for text in packed)


def test_an_example_stays_with_the_line_that_introduces_it() -> None:
    packed = pack_blocks(["x" * 80, "For example:", "   call()", "y" * 80], room=120)
    assert any("For example:\n\n   call()" in text for text in packed)


def test_parts_are_numbered_only_where_there_are_several() -> None:
    short = Entry(key="doc:a", heading="a", source="a", blocks=("b" * 40,))
    long = Entry(key="doc:c", heading="c", source="c", blocks=("d" * 700, "e" * 700))
    assert [passage.id for passage in cut_passages([short, long])] == ["doc:a", "doc:c#1", "doc:c#2"]


def test_a_long_heading_is_cut_to_leave_room_for_the_text() -> None:
    entry = Entry(key="doc:a", heading="a(" + "argument, " * 60 + ")", source="a", blocks=("b" * 880,))
    (passage,) = cut_passages([entry])
    assert passage.heading.endswith("argument…")
    assert len(passage.text) <= MAX_CHARS


def test_indentation_of_the_first_line_survives_the_cut_into_blocks() -> None:
    assert text_blocks("one\n\n   two\n   three\n\n\nfour\n") == ["one", "   two\n   three", "four"]
