"""What the documentation says of names and values is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chroma_mlx.config.embedding import DEFAULTS, PURPOSES

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "benchmarks/README.md",
]


def test_the_table_of_keys_is_that_of_the_configuration() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(.*)` \| (.*) \|$", page, re.MULTILINE)
    expected = [
        (key, value if isinstance(value, str) else json.dumps(value), PURPOSES[key]) for key, value in DEFAULTS.items()
    ]
    assert rows == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_is_left_to_fill_in(page: Path) -> None:
    assert re.findall(r"\b(?:OVERHEAD|TODO|TBD|XXX|FIXME)\w*", page.read_text(encoding="utf-8")) == []
