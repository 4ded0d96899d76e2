"""docs/server.md: its options, errors and snippets are those of the server."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from served import Served

from chroma_mlx.cli import make_parser
from chroma_mlx.server import app, gate, heads, problems
from chroma_mlx.server.options import PORT, Limits

PAGE = (Path(__file__).parents[2] / "docs/server.md").read_text(encoding="utf-8")
BLOCKS = PAGE.split("```")
SNIPPETS = [
    (code.removeprefix("python\n"), BLOCKS[place + 2])
    for place, code in enumerate(BLOCKS)
    if code.startswith("python\n")
]
CURLS = re.findall(r"^    curl (http\S+) .*\n      -d '(.*)'$", PAGE, re.MULTILINE)


def packages(code: str) -> set[str]:
    """What a snippet imports, by the name of the package."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    if "OpenAIEmbeddingFunction" in code:
        names.add("openai")  # Chroma imports it when the function is made
    return names


def serve_options() -> dict[str, argparse.Action]:
    [commands] = [each for each in make_parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return {
        each.option_strings[-1]: each
        for each in commands.choices["serve"]._actions
        if "--help" not in each.option_strings
    }


def test_every_option_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(--[\w-]+)(?: \w+)?` \| (.*?) \|", PAGE, re.MULTILINE))
    assert set(rows) == set(serve_options())
    limits = Limits()
    assert rows["--port"] == f"`{PORT}`" == f"`{serve_options()['--port'].default}`"
    assert rows["--host"] == f"`{serve_options()['--host'].default}`"
    assert [rows["--max-texts"], rows["--max-request-tokens"], rows["--timeout"], rows["--max-body-bytes"]] == [
        str(limits.texts),
        str(limits.tokens),
        f"{limits.seconds:.0f}",
        f"{limits.body_bytes // 2**20} MiB",
    ]


def test_every_error_code_is_in_the_table_with_its_status() -> None:
    source = "".join(map(inspect.getsource, (app, gate, heads, problems)))
    stated = {code: int(status) for status, code in re.findall(r'status=(\d+),\s*code="(\w+)"', source)}
    stated |= {code: status for status, code in app.HTTP_CODES.items()}
    rows: dict[str, int] = {}
    for names, statuses in re.findall(r"^\| (`[a-z_`, ]+`) \| ([\d, ]+) \| [\d, ]+ \|", PAGE, re.MULTILINE):
        found, numbers = re.findall(r"\w+", names), list(map(int, statuses.split(", ")))
        rows |= dict(zip(found, numbers * (len(found) // len(numbers)), strict=True))
    assert rows == stated


@pytest.mark.parametrize(("code", "following"), SNIPPETS, ids=[f"snippet {n}" for n in range(len(SNIPPETS))])
def test_a_snippet_runs_and_prints_what_the_page_shows(
    code: str, following: str, served: Served, tmp_path: Path
) -> None:
    assert "http://127.0.0.1:8200" in code
    for package in packages(code):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    code = code.replace("http://127.0.0.1:8200", served.url)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    if following.startswith("text\n"):
        assert done.stdout == following.removeprefix("text\n")


@pytest.mark.parametrize(("url", "body"), CURLS)
async def test_a_request_of_curl_gets_the_answer_of_the_page(served: Served, url: str, body: str) -> None:
    import httpx

    async with httpx.AsyncClient() as client:
        answer = await client.post(url.replace("http://127.0.0.1:8200", served.url), json=json.loads(body))
    assert answer.status_code == 200
    [shown] = [
        found
        for block in BLOCKS
        if block.startswith("json\n") and set(found := json.loads(block[5:].replace(", …", ""))) == set(answer.json())
    ]
    got = answer.json()
    assert shown["model"] == got["model"]
    assert set(shown["usage"]) == set(got["usage"])
    tokens = {name: count for name, count in shown["usage"].items() if "tokens" in name}
    assert tokens == {name: got["usage"][name] for name in tokens}
    first, own = (
        (each["embeddings"] if "embeddings" in each else [row["embedding"] for row in each["data"]])[0]
        for each in (shown, got)
    )
    assert first == pytest.approx(own[: len(first)], abs=2e-6)


def test_both_requests_of_the_page_are_tried() -> None:
    assert [url.rpartition(":8200")[2] for url, _ in CURLS] == ["/embed", "/v1/embeddings"]
