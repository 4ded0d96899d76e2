"""The files of docs/deploy can be read, agree with each other, and start what there is to start."""

from __future__ import annotations

import json
import plistlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from chroma_mlx.cli import make_parser
from chroma_mlx.cli.serve import PACKAGES
from chroma_mlx.config.embedding import DEFAULTS
from chroma_mlx.models.known import find_known

DEPLOY = Path(__file__).parent.parent / "docs/deploy"


def agent() -> dict[str, Any]:
    found: dict[str, Any] = plistlib.loads((DEPLOY / "dev.chroma-mlx.serve.plist").read_bytes())
    return found


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return found


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction of the Dockerfile."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name} +(.+)$", text, re.MULTILINE)


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def drain_seconds() -> int:
    run = pytest.importorskip("chroma_mlx.server.run", reason="the extra `server` is not installed")
    return int(run.DRAIN_SECONDS)


def test_the_agent_starts_the_server() -> None:
    found = agent()
    assert found["Label"] == "dev.chroma-mlx.serve"
    program, *arguments = found["ProgramArguments"]
    assert Path(program).name == "chroma-mlx"
    options = make_parser().parse_args(arguments)
    assert (options.host, options.port) == ("127.0.0.1", 8200)
    assert [find_known(name) is not None for name in options.model] == [True]
    assert found["KeepAlive"] == {"SuccessfulExit": False}


def test_paths_of_the_agent_are_whole() -> None:
    found = agent()
    for path in (found["ProgramArguments"][0], found["WorkingDirectory"], found["StandardErrorPath"]):
        assert Path(path).is_absolute()


def test_the_image_starts_the_server_with_a_key() -> None:
    [entry], [command] = map(instructions, ("ENTRYPOINT", "CMD"))
    program, *arguments = json.loads(entry) + json.loads(command)
    options = make_parser().parse_args(arguments)
    assert program == "chroma-mlx"
    assert (options.host, options.port, options.insecure) == ("0.0.0.0", 8200, False)
    assert options.api_key_file == Path("/run/secrets/chroma_mlx_key")
    assert instructions("EXPOSE") == ["8200"]
    assert instructions("USER") == ["serve"]
    assert "127.0.0.1:8200/health" in instructions("HEALTHCHECK")[0]
    assert "[server]" in instructions("RUN")[1]


def test_the_image_starts_a_server_that_its_healthcheck_finds(tmp_path: Path) -> None:
    served = pytest.importorskip("served", reason="the extra `server` is not installed")
    [entry], [command], [check] = map(instructions, ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
    _, _, *arguments = json.loads(entry) + json.loads(command)
    port, key = arguments.index("--port"), tmp_path / "key"
    key.write_text("a-secret\n")
    arguments[arguments.index("--api-key-file") + 1] = str(key)
    del arguments[port : port + 2]
    environment = dict(re.findall(r"(CHROMA_MLX_\w+)=(\S+)", instructions("ENV")[0]))
    environment |= {"CHROMA_MLX_MODEL_NAME": "builtin", "CHROMA_MLX_CACHE_DIR": str(tmp_path / "models")}

    def healthy() -> bool:
        _, flag, code = json.loads(check.partition("CMD ")[2])
        asked = [sys.executable, flag, code.replace(":8200", f":{server.port}")]
        return subprocess.run(asked, capture_output=True, timeout=60).returncode == 0

    with served.serve(tmp_path, *arguments, model=None, **environment) as server:
        assert healthy()
        assert httpx.get(f"{server.url}/models").status_code == 401
        [model] = httpx.get(f"{server.url}/models", headers={"authorization": "Bearer a-secret"}).json()
        assert (model["name"], model["loaded"]) == ("builtin", True)
        assert server.stop() == 0
        assert not healthy()


def test_the_command_checks_for_every_package_of_the_extra() -> None:
    project = (DEPLOY.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    [extra] = re.findall(r"^server = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert sorted(re.findall(r'^ +"([\w-]+)', extra, re.MULTILINE)) == sorted(PACKAGES.values())


def test_variables_are_keys_of_the_configuration() -> None:
    set_there = [*re.findall(r"CHROMA_MLX_(\w+)=", instructions("ENV")[0])]
    set_there += [name.removeprefix("CHROMA_MLX_") for name in compose()["services"]["chroma-mlx"]["environment"]]
    assert {name.lower() for name in set_there} <= set(DEFAULTS)


def test_the_composition_builds_that_image_and_gives_it_the_key() -> None:
    found = compose()
    service = found["services"]["chroma-mlx"]
    context = (DEPLOY / service["build"]["context"]).resolve()
    assert (context / service["build"]["dockerfile"]).resolve() == (DEPLOY / "Dockerfile").resolve()
    assert (context / "pyproject.toml").is_file()
    assert service["secrets"] == list(found["secrets"]) == ["chroma_mlx_key"]
    assert {mount.split(":")[0] for mount in service["volumes"]} == set(found["volumes"])
    assert service["ports"] == ["127.0.0.1:8200:8200"]


def test_nobody_kills_it_before_it_has_answered() -> None:
    assert seconds(compose()["services"]["chroma-mlx"]["stop_grace_period"]) > drain_seconds()
    assert agent()["ExitTimeOut"] > drain_seconds()


def test_the_image_is_built_of_what_the_package_needs() -> None:
    kept = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"
    ]
    assert kept == ["chroma_mlx", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]
    assert all((DEPLOY.parent.parent / name).exists() for name in kept)


def test_the_key_is_in_no_commit() -> None:
    ignored = (DEPLOY / ".gitignore").read_text(encoding="utf-8").split()
    secret = compose()["secrets"]["chroma_mlx_key"]["file"]
    assert Path(secret).name in ignored
