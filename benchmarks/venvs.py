"""A virtual environment for each family of peers, made once and kept in a cache folder."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from common import HERE

REQUIREMENTS = HERE / "requirements"
MARK = "made-by-chroma-mlx-benchmarks"  # the file that says so, with a hash of the requirements
LIST_PACKAGES = (
    "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
)


@dataclass(frozen=True)
class Environment:
    """Its interpreter and versions, or in `reason` why there is none."""

    python: str = ""
    packages: dict[str, str] | None = None
    reason: str = ""


def default_folder() -> Path:
    """Where environments are kept."""
    return Path.home() / ".cache" / "chroma-mlx-benchmarks"


def prepare(name: str, where: Path) -> Environment:
    """The environment `name` of `where`, with what requirements/`name`.txt pins.

    One that is there is used if it has these versions, made again if this script made it for others, and
    otherwise left alone. Says in `reason` when there is none, such as where pip finds no index.
    """
    requirements, folder = REQUIREMENTS / f"{name}.txt", (where / name).absolute()
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    mark = folder / MARK
    # Not resolved: a link to the system's interpreter would lead out of the environment.
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if folder.exists() and not mark.exists():
        if problem := _differs(python, requirements):
            return Environment(reason=f"{folder} was not made by this script, and {problem}")
    elif not (mark.exists() and mark.read_text() == digest) and (problem := _make(folder, python, requirements)):
        return Environment(reason=problem)
    return Environment(python=str(python), packages=_installed(python))


def _make(folder: Path, python: Path, requirements: Path) -> str | None:
    """Makes the environment. Returns what pip says when it cannot."""
    print(f"making {folder} with {requirements.name}; this is done once", file=sys.stderr, flush=True)
    venv.EnvBuilder(clear=True, with_pip=True, symlinks=sys.platform != "win32").create(folder)
    (folder / MARK).write_text("unfinished")
    done = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        (folder / MARK).write_text(hashlib.sha256(requirements.read_bytes()).hexdigest())
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
    return f"pip could not install {requirements.name}: {errors[-1] if errors else 'it did not say why'}"


def _differs(python: Path, requirements: Path) -> str | None:
    """Which pinned requirement an environment lacks, in words; None when it has them all."""
    found = _installed(python)
    if found is None:
        return "has no interpreter that runs"
    for line in requirements.read_text().splitlines():
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if not requirement or requirement.startswith("#") or "==" not in requirement:
            continue
        if marker and sys.platform not in marker:
            continue
        name, version = requirement.split("==")
        name = name.partition("[")[0].lower()
        # A build for one kind of machine has a suffix, as in 2.13.0+cpu.
        if found.get(name, "").partition("+")[0] != version:
            return f"has {name} {found.get(name, 'not at all')}, not {version}"
    return None


def _installed(python: Path) -> dict[str, str] | None:
    """Versions by package; None when the interpreter does not run."""
    try:
        output = subprocess.check_output([str(python), "-c", LIST_PACKAGES], text=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    packages: dict[str, str] = json.loads(output)
    return packages
