"""Each format's reader: what becomes a document, and what is refused with which reason."""

from __future__ import annotations

import datetime
import io
import json
import logging
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pypdf
import pytest

from chroma_mlx.errors import MissingPackage
from chroma_mlx.ingestion.passage import Document, Reject
from chroma_mlx.ingestion.readers import rows
from chroma_mlx.ingestion.readers.csv_table import read_csv
from chroma_mlx.ingestion.readers.documents import read_html, read_markdown, read_pdf, read_text
from chroma_mlx.ingestion.readers.formats import FORMATS, Format
from chroma_mlx.ingestion.readers.jsonl import read_jsonl
from chroma_mlx.ingestion.readers.parquet import read_parquet
from chroma_mlx.ingestion.readers.rows import Columns
from chroma_mlx.ingestion.sources import read_items

PLACE = Columns()
NAMED = Columns(id="id")


def read(reader: Any, content: bytes, columns: Columns = PLACE, **options: Any) -> list[Document | Reject]:
    return list(reader(io.BytesIO(content), "s", columns, **options))


def only_reject(found: list[Document | Reject]) -> Reject:
    [reject] = [each for each in found if isinstance(each, Reject)]
    return reject


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page."""
    writer = pypdf.PdfWriter()
    font = pypdf.generic.DictionaryObject(
        {
            pypdf.generic.NameObject("/Type"): pypdf.generic.NameObject("/Font"),
            pypdf.generic.NameObject("/Subtype"): pypdf.generic.NameObject("/Type1"),
            pypdf.generic.NameObject("/BaseFont"): pypdf.generic.NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): font})
        page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject(
            {pypdf.generic.NameObject("/Font"): fonts}
        )
        stream = pypdf.generic.DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[pypdf.generic.NameObject("/Contents")] = writer._add_object(stream)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_a_line_of_json_is_a_record_with_its_columns_as_metadata() -> None:
    line = {"id": "a", "text": "one", "n": 3, "x": 1.5, "ok": True, "tags": ["p", "q"], "none": None}
    [document] = read(read_jsonl, b"\xef\xbb\xbf" + json.dumps(line).encode() + b"\n\n", NAMED)
    assert isinstance(document, Document)
    assert (document.record_id, document.text, document.place) == ("a", "one", {"line": 1})
    assert document.columns == {"n": 3, "x": 1.5, "ok": True, "tags": ["p", "q"]}


def test_without_a_column_for_it_the_id_is_the_source_and_the_line() -> None:
    found = read(read_jsonl, b'{"text": "one"}\n\n{"text": "three", "id": 7}')
    assert [each.record_id for each in found if isinstance(each, Document)] == ["s:1", "s:3"]
    assert isinstance(found[1], Document)
    assert found[1].columns == {"id": 7}


def test_what_is_nested_becomes_json_and_a_column_named_as_our_own_gets_an_underscore() -> None:
    line = {"text": "one", "deep": {"a": [1, {"b": None}]}, "mixed": [1, "x"], "source": "elsewhere", "empty": []}
    [document] = read(read_jsonl, json.dumps(line).encode())
    assert isinstance(document, Document)
    assert document.columns == {
        "deep": '{"a": [1, {"b": null}]}',
        "mixed": '[1, "x"]',
        "source_": "elsewhere",
        "empty": "[]",
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "it is not JSON"),
        (b'{"text": "caf\xe9", "id": "a"}', "it is not UTF-8: invalid continuation byte at byte 13"),
        (b"[1, 2]", "it is no object with a column for the text, but list"),
        (b'{"id": "a"}', "it has no column 'text' for the text; its columns are 'id'"),
        (b'{"id": "a", "text": "  "}', "its text, column 'text', is empty"),
        (b'{"id": "a", "text": 5}', "its text, column 'text', is a int, not a text"),
        (b'{"id": "a", "text": null}', "is null"),
        (b'{"id": "a", "text": "\\ud800"}', "holds the lone surrogate"),
        (b'{"text": "one"}', "its id, column 'id', is missing"),
        (b'{"id": 1.5, "text": "one"}', "is a float, not a text or a whole number"),
        (b'{"id": "a", "text": "one", "n": NaN}', "has nan under 'n'"),
        (b'{"id": "a", "text": "one", "n": 99999999999999999999}', "which has more than 64 bits"),
        (b'{"id": "a", "text": "one", "chroma:x": 1}', "Chroma keeps the keys"),
        (b'{"id": "a", "text": "one", "line": 1, "line_": 2}', "has the columns 'line' and 'line_'"),
        (b"[" * 100_000, "it is not JSON"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason_and_the_next_is_read(line: bytes, reason: str) -> None:
    found = read(read_jsonl, line + b'\n{"id": "next", "text": "two"}\n', NAMED)
    reject = only_reject(found)
    assert reason in reject.reason
    assert reject.place == {"line": 1}
    assert [each.id for each in found if isinstance(each, Document)] == ["next"]


def test_of_a_refused_line_the_id_is_known_where_it_can_be() -> None:
    assert only_reject(read(read_jsonl, b'{"id": "a", "text": ""}', NAMED)).id == "a"
    assert only_reject(read(read_jsonl, b"{", NAMED)).id is None
    assert only_reject(read(read_jsonl, b"{", PLACE)).id == "s:1"


def test_a_line_that_is_too_long_is_refused_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rows", "jsonl"):
        monkeypatch.setattr(f"chroma_mlx.ingestion.readers.{module}.MAX_LINE_BYTES", 100)
    found = read(read_jsonl, b'{"text": "' + b"x" * 1000 + b'"}\n{"text": "two"}\n')
    assert "the line has 1,013 bytes, and the most is 100" in only_reject(found).reason
    assert [each.text for each in found if isinstance(each, Document)] == ["two"]
    assert max(len(line) for _, line, _ in rows.bounded_lines(io.BytesIO(b"x" * 1000))) == 101


def test_the_sizes_of_lines_add_up_to_the_file() -> None:
    content = b'{"text": "one"}\nbad\n{"text": "two"}'
    assert sum(each.size for each in read(read_jsonl, content)) == len(content)


def test_csv_rows_are_records_and_an_empty_value_is_none() -> None:
    content = '\ufeffid,text,note\na,"first\nline, and more",x\nb,second,\n'.encode()
    first, second = read(read_csv, content, NAMED)
    assert isinstance(first, Document)
    assert (first.id, first.text, first.columns) == ("a", "first\nline, and more", {"note": "x"})
    assert isinstance(second, Document)
    assert second.columns == {}


def test_tsv_is_csv_with_tabs() -> None:
    [document] = read(FORMATS["tsv"].read, b"text\tnote\none, two\tx\n")
    assert isinstance(document, Document)
    assert (document.text, document.columns, document.record_id) == ("one, two", {"note": "x"}, "s:1")


@pytest.mark.parametrize(
    ("content", "reason", "id"),
    [
        (b"text,a\none\n", "it has 1 values, and the header 2, at line 2", "s:1"),
        (b"text\ncaf\xe9\n", "it is not UTF-8, at line 2", "s:1"),
        (b'text\n"one" more\n', "it is no row of CSV, from line 2 to line 2: ',' expected after '\"'", "s:1"),
        (b'text\n"one\ntwo\n', "it is no row of CSV, from line 2 to line 3: unexpected end of data", None),
        (b'text,a\none,"1\ntwo,2\n"three",3\n', "from line 2 to line 4: ',' expected after '\"'", None),
        (b'text,a\n"one\ntwo,2"\n', "it has 1 values, and the header 2, at line 3", None),
        (b"body\none\n", "its header has no column 'text'; its columns are 'body'", None),
        (b"text,a,a\none,1,2\n", "its header names a column twice", None),
        (b"", "it is empty; its first line must name the columns", None),
    ],
)
def test_bad_csv_is_refused(content: bytes, reason: str, id: str | None) -> None:
    reject = only_reject(read(read_csv, content))
    assert reason in reject.reason
    assert reject.id == id


def test_a_bad_csv_row_does_not_end_the_file() -> None:
    found = read(read_csv, b'text\nx\xff\n"x"x\ntwo\n')
    assert [each.text for each in found if isinstance(each, Document)] == ["two"]


def test_parquet_rows_are_records(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "text": ["one", "two", None],
            "day": [datetime.date(2024, 5, 1), None, None],
            "deep": [{"a": 1}, None, None],
            "raw": [None, b"\x00", None],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    first, second, third = read(read_parquet, (tmp_path / "t.parquet").read_bytes())
    assert isinstance(first, Document)
    assert (first.record_id, first.columns) == ("s:1", {"day": "2024-05-01", "deep": '{"a": 1}'})
    assert isinstance(second, Reject)
    assert "a bytes, which Chroma cannot hold" in second.reason
    assert isinstance(third, Reject)
    assert "is null" in third.reason


def unchecked(values: list[Any], kind: Any) -> Any:
    """Bytes as text, as from a writer that does not look whether they are."""
    return pyarrow.array(values).cast(kind, safe=False)


@pytest.mark.parametrize(
    ("column", "values", "id"),
    [
        ("text", unchecked([b"one", b"caf\xe9", b"three"], pyarrow.string()), "b"),
        ("id", unchecked([b"a", b"\xff", b"c"], pyarrow.string()), None),
        ("deep", unchecked([[b"a"], [b"\xff"], []], pyarrow.list_(pyarrow.string())), "b"),
        ("day", pyarrow.array([0, 10**9, 1], pyarrow.date32()), "b"),
        ("time", pyarrow.array([0, 2**62, 1], pyarrow.timestamp("us")), "b"),
        ("there", pyarrow.array([None, 1, None], pyarrow.timestamp("us", tz="No/Where")), "b"),
    ],
)
def test_a_parquet_row_with_a_value_that_cannot_be_read_is_refused_alone(
    column: str, values: Any, id: str | None
) -> None:
    table = pyarrow.table({"id": ["a", "b", "c"], "text": ["one", "two", "three"], **{column: values}})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    first, bad, last = read(read_parquet, file.getvalue(), NAMED)
    assert isinstance(bad, Reject)
    assert f"its column {column!r} cannot be read: " in bad.reason
    assert (bad.place, bad.id) == ({"row": 2}, id)
    assert [each.record_id for each in (first, last) if isinstance(each, Document)] == ["a", "c"]


def test_what_is_no_parquet_or_lacks_the_column_is_refused(tmp_path: Path) -> None:
    assert "it cannot be read as Parquet behind row 0" in only_reject(read(read_parquet, b"nothing of the kind")).reason
    pyarrow.parquet.write_table(pyarrow.table({"body": ["one"]}), tmp_path / "t.parquet")
    reject = only_reject(read(read_parquet, (tmp_path / "t.parquet").read_bytes()))
    assert reject.reason == "it has no column 'text'; its columns are 'body'"


def test_a_text_is_one_document_whose_id_is_its_source() -> None:
    [document] = read(read_text, "\ufeffZwei — 二\n".encode())
    assert isinstance(document, Document)
    assert (document.record_id, document.text, document.markdown) == ("s", "Zwei — 二\n", False)


@pytest.mark.parametrize(
    ("reader", "content", "reason"),
    [
        (read_text, b"caf\xe9", "it is not UTF-8: unexpected end of data at byte 3"),
        (read_text, b" \n", "it is empty"),
        (read_markdown, b"\xff\xfe", "it is not UTF-8"),
        (read_html, b"<script>1</script>", "it is empty"),
        (read_pdf, b"nothing of the kind", "it cannot be read as PDF, behind page 0"),
        (read_pdf, pdf(""), "it holds no text; pages that were scanned need OCR first"),
    ],
)
def test_a_file_that_is_no_document_is_refused_and_known_by_its_source(
    reader: Any, content: bytes, reason: str
) -> None:
    reject = only_reject(read(reader, content))
    assert reason in reject.reason
    assert reject.id == "s"


def test_a_document_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chroma_mlx.ingestion.readers.documents.MAX_DOCUMENT_BYTES", 10)
    assert "it has more than 10 bytes; split it" in only_reject(read(read_text, b"x" * 11)).reason


def test_a_text_of_a_record_that_is_too_large_is_refused_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_DOCUMENT_BYTES", 10)
    found = list(read_items(["x" * 10, "é" * 5, "é" * 6, "x" * 11], "s", PLACE))
    assert [each.text for each in found if isinstance(each, Document)] == ["x" * 10, "é" * 5]
    reasons = [each.reason for each in found if isinstance(each, Reject)]
    assert reasons == ["its text, column 'text', has more than 10 bytes; split it"] * 2


@pytest.mark.parametrize("repeated", [False, True], ids=["distinct", "repeated"])
def test_of_large_parquet_rows_only_a_few_are_held(repeated: bool) -> None:
    file, peak = io.BytesIO(), 0
    table = pyarrow.table({"text": [f"{0 if repeated else number:0200000}" for number in range(300)]})
    pyarrow.parquet.write_table(table, file, use_dictionary=repeated, write_batch_size=5)  # pages of 1 MB
    del table
    # Arrow decodes a repeated text for all rows at once; as Python's texts they are to be few.
    tracemalloc.start()
    taken = (lambda: tracemalloc.get_traced_memory()[0]) if repeated else pyarrow.total_allocated_bytes
    before = taken()
    for each in read_parquet(file, "s", PLACE):
        assert isinstance(each, Document)
        peak = max(peak, taken() - before)
    tracemalloc.stop()
    assert each.place == {"row": 300}
    assert peak < 25 * 2**20, f"{peak:,} bytes were held, of 60,000,000"


def test_html_becomes_markdown_with_its_headings_and_nothing_that_is_not_shown() -> None:
    page = "<html><head><title>T</title><style>p{}</style></head><body><h1>Guide</h1><p>Gr&uuml;n &amp; <b>bold</b>"
    page += "<script>alert(1)</script><h2>Use</h2><ul><li>one</li></ul></body></html>"
    [document] = read(read_html, page.encode())
    assert isinstance(document, Document)
    assert document.text.startswith("# Guide\n\nGrün & **bold**")
    assert "## Use\n\n* one" in document.text
    assert "alert" not in document.text
    assert "p{}" not in document.text


def test_html_may_declare_its_encoding() -> None:
    [document] = read(read_html, '<meta charset="iso-8859-1"><p>café</p>'.encode("latin-1"))
    assert isinstance(document, Document)
    assert document.text == "café"


def test_a_pdf_is_one_document_that_knows_where_its_pages_begin() -> None:
    [document] = read(read_pdf, pdf("First page.", "Second page."))
    assert isinstance(document, Document)
    assert [document.text[start:].split("\n")[0] for start in document.pages] == ["First page.", "Second page."]


def test_what_pypdf_says_of_a_pdf_that_it_reads_goes_to_programs_with_logging_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = b"garbage before the header\n" + pdf("First page.")
    with caplog.at_level(logging.WARNING, logger="pypdf"):
        [document] = read(read_pdf, content)
    assert isinstance(document, Document)
    assert "invalid pdf header" in caplog.text
    (tmp_path / "a.pdf").write_bytes(content)
    code = (
        "import sys\n"
        "from chroma_mlx.ingestion.readers.documents import read_pdf\n"
        "print(next(read_pdf(open(sys.argv[1], 'rb'), 'a.pdf', None)).text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pdf")], capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("First page.", "")


def test_a_reader_that_is_missing_names_the_command_that_installs_it() -> None:
    missing = Format(endings=(), read=read_text, packages={"no_such_module": "no-such-package"})
    with pytest.raises(MissingPackage, match=r"pip install 'chroma-mlx\[ingest\]'"):
        missing.check()
