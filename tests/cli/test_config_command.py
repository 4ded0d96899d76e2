"""`chroma-mlx config`: what is in force and why, and a file to begin with."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import platformdirs
import pytest
import yaml

from chroma_mlx import EmbeddingConfig
from chroma_mlx.cli import main

DEFAULTS = EmbeddingConfig().to_dict()["embedding"]
NAME = "embedding_config.yaml"


@pytest.fixture(autouse=True)
def _nothing_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CHROMA_MLX_")]:
        monkeypatch.delenv(name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))


def user_file() -> Path:
    return platformdirs.user_config_path("chroma-mlx") / NAME


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[object, str]]:
    """(value, source) of each key, as --json prints them, once the plain form was seen to say the same."""
    assert main(["config", "show", *arguments, "--json"]) == 0
    rows = {key: (row["value"], row["source"]) for key, row in json.loads(capsys.readouterr().out).items()}
    assert main(["config", "show", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(None, 1)[0] for line in lines] == list(rows)
    for line, (value, source) in zip(lines, rows.values(), strict=True):
        shown = line.split(None, 1)[1]
        assert shown.startswith(json.dumps(value, ensure_ascii=False))
        assert shown.endswith(f"  {source}")
    return rows


def test_show_prints_every_default_where_nothing_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(capsys) == {key: (value, "default") for key, value in DEFAULTS.items()}


def test_show_says_of_each_value_where_it_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path(NAME), "embedding: {batch_size: 7, batch_tokens: 8, query_instruction: 'Find — 日: '}")
    monkeypatch.setenv("CHROMA_MLX_BATCH_TOKENS", "9")
    rows = show(capsys)
    assert rows["batch_size"] == (7, f"{NAME} (working folder)")
    assert rows["batch_tokens"] == (9, "CHROMA_MLX_BATCH_TOKENS")
    assert rows["query_instruction"] == ("Find — 日: ", f"{NAME} (working folder)")
    assert rows["device"] == ("auto", "default")


def test_show_names_the_file_in_force(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write(user_file(), "embedding: {batch_size: 1}")
    assert show(capsys)["batch_size"] == (1, f"{user_file()} (user's configuration)")
    write(Path(NAME), "embedding: {batch_size: 2}")
    assert show(capsys)["batch_size"] == (2, f"{NAME} (working folder)")
    write(Path("named.yaml"), "embedding: {batch_size: 3}")
    monkeypatch.setenv("CHROMA_MLX_CONFIG", "named.yaml")
    assert show(capsys)["batch_size"] == (3, "named.yaml (CHROMA_MLX_CONFIG)")
    write(Path("given.yaml"), "embedding: {batch_size: 4}")
    assert show(capsys, "--config", "given.yaml")["batch_size"] == (4, "given.yaml (given)")


def test_show_keeps_every_value_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    write(Path(NAME), f'embedding: {{query_instruction: "{"a" * 90}\\nb"}}')
    assert show(capsys)["query_instruction"] == ("a" * 90 + "\nb", f"{NAME} (working folder)")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_show_prints_utf8_whatever_the_terminals_encoding(form: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_MLX_QUERY_INSTRUCTION", "日")
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="ascii", write_through=True))
    assert main(["config", "show", *form]) == 0
    assert '"日"' in printed.getvalue().decode()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode elsewhere")
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_show_prints_the_source_where_a_file_name_is_no_utf8(
    form: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"caf\xe9.yaml")
    write(Path(name), "embedding: {batch_size: 7}")
    assert main(["config", "show", "--config", name, *form]) == 0
    assert "caf" in capsys.readouterr().out


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_show_explains_every_problem_and_prints_no_values(
    form: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path(NAME), "embedding: {batch_sise: 3, normalize: 4}\nother: 1")
    monkeypatch.setenv("CHROMA_MLX_MODLE", "mock")
    assert main(["config", "show", *form]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "chroma-mlx: The configuration has errors:",
        f"  {NAME}: other: unknown key. The one known key is embedding.",
        f"  {NAME}: embedding.batch_sise: unknown key. Did you mean batch_size?",
        f"  {NAME}: embedding.normalize: 4 is not allowed. Set it to true or false.",
        "  CHROMA_MLX_MODLE: unknown variable. Did you mean CHROMA_MLX_MODE?",
    ]


def test_show_of_a_missing_file_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", "no.yaml"]) == 1
    assert "no.yaml cannot be read (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "name"), [([], NAME), (["other.yaml"], "other.yaml"), (["--force"], NAME)], ids=str
)
def test_init_writes_a_file_that_loads_to_the_defaults_and_explains_every_key(
    arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init", *arguments]) == 0
    assert capsys.readouterr().out == f"Wrote {name}\n"
    text = Path(name).read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {"embedding": DEFAULTS}
    assert EmbeddingConfig.from_yaml(name) == EmbeddingConfig()
    lines = text.splitlines()
    assert lines[0].startswith("# ")
    for key, line in zip(DEFAULTS, lines[2:], strict=True):
        assert line.startswith(f"  {key}: ")
        assert len(line.split(" # ", 1)[1]) > 10, f"{key} is not explained"


def test_a_file_of_init_is_in_force_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "init", "--user"]) == 0
    assert main(["config", "init"]) == 0
    capsys.readouterr()
    assert show(capsys) == {key: (value, f"{NAME} (working folder)") for key, value in DEFAULTS.items()}
    Path(NAME).unlink()
    assert show(capsys) == {key: (value, f"{user_file()} (user's configuration)") for key, value in DEFAULTS.items()}


@pytest.mark.parametrize("arguments", [[], [NAME], ["--user"]], ids=str)
def test_init_replaces_a_file_only_by_force(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    path = user_file() if arguments == ["--user"] else Path(NAME)
    write(path, "# mine\n" * 1000)
    assert main(["config", "init", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.err == (f"chroma-mlx: {path} is there already. Pass --force to replace it, or another name.\n")
    assert printed.out == ""
    assert path.read_text(encoding="utf-8") == "# mine\n" * 1000
    assert main(["config", "init", *arguments, "--force"]) == 0
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == {"embedding": DEFAULTS}
    assert "# mine" not in path.read_text(encoding="utf-8")


def test_init_for_the_user_makes_the_folder_and_leaves_the_working_folder_alone() -> None:
    assert not user_file().parent.exists()
    assert main(["config", "init", "--user"]) == 0
    assert yaml.safe_load(user_file().read_text(encoding="utf-8")) == {"embedding": DEFAULTS}
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="each platform has its own folder")
def test_on_linux_the_user_file_is_below_xdg_config_home(tmp_path: Path) -> None:
    assert main(["config", "init", "--user"]) == 0
    assert (tmp_path / "xdg" / "chroma-mlx" / NAME).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["other.yaml", "--user"], "Both a file and --user were given. Pass one or the other."),
        (["no-folder/c.yaml"], "no-folder"),
        ([".", "--force"], "Is a directory"),
        (["."], "is there already"),
    ],
    ids=str,
)
def test_what_init_cannot_write_is_explained_and_nothing_is_written(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init", *arguments]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Errno" not in printed.err
    assert printed.out == ""
    assert list(Path().iterdir()) == []


def test_init_helps_where_the_configuration_in_force_is_broken() -> None:
    write(Path(NAME), "embedding: [")
    assert main(["config", "init", "--force"]) == 0
    assert EmbeddingConfig.from_yaml() == EmbeddingConfig()


def test_config_without_an_action_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["config"])
    assert "ACTION" in capsys.readouterr().err
