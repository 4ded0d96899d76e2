"""How long a call may take: fractions of a second, and nothing that cannot be waited for."""

from __future__ import annotations

import re
from typing import Any

import pytest

from chroma_mlx import MLXEmbeddingFunction
from chroma_mlx.cli import make_parser
from chroma_mlx.engine.encoder import Encoder
from chroma_mlx.errors import ConfigError

NONE: list[Any] = [True, "5", 0, -1, -0.5, float("nan"), float("inf"), 1e6, 10**400, [1.0], 1j]


@pytest.mark.parametrize("timeout_s", NONE, ids=lambda value: str(value)[:9])
async def test_a_time_that_cannot_be_waited_for_is_refused_before_anything_is_queued(
    timeout_s: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, asked = MLXEmbeddingFunction("builtin"), list[str]()
    monkeypatch.setattr(Encoder, "encode", lambda *arguments, **others: asked.append("encode"))
    monkeypatch.setattr(Encoder, "aembed", lambda *arguments, **others: asked.append("aembed"))
    said = re.compile("timeout_s is .*, which is not allowed. Set it to a number of seconds above 0, and below 1000000")
    with pytest.raises(ConfigError, match=said):
        await function.aembed(["a"], timeout_s=timeout_s)
    with pytest.raises(ConfigError, match=said):
        function.encode(["a"], timeout_s=timeout_s)
    assert asked == []


@pytest.mark.parametrize("timeout_s", [None, 60, 60.5, 999_999])
async def test_a_time_is_a_number_of_any_kind_or_none(timeout_s: float | None) -> None:
    function = MLXEmbeddingFunction("builtin")
    assert (await function.aembed(["a"], timeout_s=timeout_s)).shape == (1, 256)
    assert function.encode(["a"], timeout_s=timeout_s).shape == (1, 256)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["serve", "--timeout"], "timeout"),
        (["ingest", "x", "--collection", "notes", "--retry-seconds"], "retry_seconds"),
    ],
)
def test_options_take_fractions_of_a_second(command: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--path", "db"] if command[0] == "ingest" else []
    for given, number in (("0.25", 0.25), ("1e-3", 0.001), ("60", 60.0)):
        assert getattr(make_parser().parse_args([*command, given, *where]), name) == number
    for given in ("-1", "nan", "inf", "soon", ""):
        with pytest.raises(SystemExit, match="2"):
            make_parser().parse_args([*command[:-1], f"{command[-1]}={given}", *where])
        assert f"{given!r} is not a number of seconds" in capsys.readouterr().err


def test_a_server_gives_a_request_some_time_and_a_database_may_have_none() -> None:
    with pytest.raises(SystemExit, match="2"):
        make_parser().parse_args(["serve", "--timeout", "0"])
    arguments = ["ingest", "x", "--collection", "notes", "--path", "db", "--retry-seconds", "0"]
    assert make_parser().parse_args(arguments).retry_seconds == 0
