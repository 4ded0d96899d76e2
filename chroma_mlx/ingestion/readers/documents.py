"""Files that are one document each: text, Markdown, HTML and PDF."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import BinaryIO, Final

from ..passage import Document, Reject
from .rows import MAX_DOCUMENT_BYTES, Columns, text_problem

BETWEEN_PAGES: Final = "\n\n"
SILENT: Final = logging.NullHandler()  # one, since the same is added but once


def read_text(file: BinaryIO, source: str, columns: Columns, *, markdown: bool = False) -> Iterator[Document | Reject]:
    """The file as one document, UTF-8."""
    content = _read_all(file, source)
    if isinstance(content, Reject):
        yield content
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield _refuse(source, f"it is not UTF-8: {error.reason} at byte {error.start}", len(content))
        return
    yield _document(source, text, len(content), markdown=markdown)


def read_markdown(file: BinaryIO, source: str, columns: Columns) -> Iterator[Document | Reject]:
    """The file as one document with headings."""
    return read_text(file, source, columns, markdown=True)


def read_html(file: BinaryIO, source: str, columns: Columns) -> Iterator[Document | Reject]:
    """A page as Markdown, by markdownify: what is shown of it, its headings kept. It may declare its encoding."""
    import bs4
    import markdownify

    content = _read_all(file, source)
    if isinstance(content, Reject):
        yield content
        return
    try:
        text: str | None = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None
    try:
        page = bs4.BeautifulSoup(content if text is None else text, "html.parser")
        if page.contains_replacement_characters:
            yield _refuse(source, "it is neither UTF-8 nor in an encoding that it declares", len(content))
            return
        for hidden in page(["script", "style", "template", "noscript", "head"]):
            hidden.decompose()
        shown = markdownify.MarkdownConverter(heading_style="ATX").convert_soup(page)
    except (RecursionError, ValueError, bs4.exceptions.ParserRejectedMarkup) as error:
        yield _refuse(source, f"it cannot be read as HTML: {error}", len(content))
        return
    yield _document(source, shown.strip(), len(content), markdown=True)


def read_pdf(file: BinaryIO, source: str, columns: Columns) -> Iterator[Document | Reject]:
    """The text of a PDF, by pypdf: its pages one after another, and where each begins."""
    import pypdf

    # What it says of a file that it reads all the same is for a program that has set up logging. Python itself would
    # print it on standard error.
    logging.getLogger("pypdf").addHandler(SILENT)
    content = _read_all(file, source)
    if isinstance(content, Reject):
        yield content
        return
    pages: list[str] = []
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            yield _refuse(source, "it is encrypted; save it without a password", len(content))
            return
        pages += [page.extract_text() for page in reader.pages]
    except Exception as error:  # a damaged file makes pypdf raise nearly anything
        yield _refuse(source, f"it cannot be read as PDF, behind page {len(pages)}: {error!r}", len(content))
        return
    # A font may name half a pair.
    pages = [page.encode("utf-8", "replace").decode() for page in pages]
    starts = [0]
    for page in pages[:-1]:
        starts.append(starts[-1] + len(page) + len(BETWEEN_PAGES))
    text = BETWEEN_PAGES.join(pages)
    if not text.strip():
        yield _refuse(source, "it holds no text; pages that were scanned need OCR first", len(content))
        return
    yield _document(source, text, len(content), pages=tuple(starts))


def _read_all(file: BinaryIO, source: str) -> bytes | Reject:
    content = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        return _refuse(source, f"it has more than {MAX_DOCUMENT_BYTES:,} bytes; split it", len(content))
    return content


def _document(
    source: str, text: str, size: int, *, markdown: bool = False, pages: tuple[int, ...] = ()
) -> Document | Reject:
    if problem := text_problem(text):
        return _refuse(source, f"it {problem}", size)
    return Document(source=source, text=text, markdown=markdown, pages=pages, size=size)


def _refuse(source: str, reason: str, size: int) -> Reject:
    return Reject(source=source, id=source, reason=reason, size=size)
