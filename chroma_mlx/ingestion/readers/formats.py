"""The formats by name: their files' endings, their readers, and the packages that these need."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, Final, TypeAlias

from ...errors import MissingPackage
from ..passage import Document, Reject
from .csv_table import read_csv
from .documents import read_html, read_markdown, read_pdf, read_text
from .jsonl import read_jsonl
from .parquet import read_parquet
from .rows import Columns

Reader: TypeAlias = Callable[[BinaryIO, str, Columns], Iterator[Document | Reject]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How files of a format are known and read. `packages` are modules, and what installs each.

    `records`: a file has many, whose columns are named; else it is one document.
    """

    endings: tuple[str, ...]
    read: Reader
    records: bool = False
    packages: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises MissingPackage unless what it needs is installed."""
        for module, package in self.packages.items():
            if importlib.util.find_spec(module) is None:
                raise MissingPackage(package, "'chroma-mlx[ingest]'")


FORMATS: Final[dict[str, Format]] = {
    "jsonl": Format(endings=(".jsonl", ".ndjson"), read=read_jsonl, records=True),
    "csv": Format(endings=(".csv",), read=read_csv, records=True),
    "tsv": Format(endings=(".tsv",), read=partial(read_csv, delimiter="\t"), records=True),
    "parquet": Format(endings=(".parquet",), read=read_parquet, records=True, packages={"pyarrow": "pyarrow"}),
    "text": Format(endings=(".txt", ".text"), read=read_text),
    "markdown": Format(endings=(".md", ".markdown"), read=read_markdown),
    "html": Format(
        endings=(".html", ".htm"),
        read=read_html,
        packages={"bs4": "beautifulsoup4", "markdownify": "markdownify"},
    ),
    "pdf": Format(endings=(".pdf",), read=read_pdf, packages={"pypdf": "pypdf"}),
}
BY_ENDING: Final = {ending: name for name, each in FORMATS.items() for ending in each.endings}
