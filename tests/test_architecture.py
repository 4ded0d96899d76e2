"""The package in layers: imports point one way, lazy ones included, and every part can be read at one sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import chroma_mlx

PACKAGE: Final = Path(chroma_mlx.__file__).parent
# From the top down: a layer imports those after it and itself, never those before it.
LAYERS: Final = (
    "plugins",
    "__main__",
    "cli",
    "server",
    "demo",
    "__init__",
    "model_cache",
    "diagnosis",
    "collections",
    "ray",
    "ingestion",
    "router",
    "functions",
    "metrics",
    "engine",
    "models.architectures",
    "checkpoint",
    "disk",
    "database",
    "pages",
    "config",
    "texts",
    "settings",
    "models.known",  # tables of data, which the settings and the checkpoints read
    "models.defaults",
    "rules",
    "progress",
    "blas",
    "errors",
)
MAX_MODULE_LINES: Final = 400
MAX_FUNCTION_LINES: Final = 60

MODULES: Final = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    """The module's dotted name below the package; a folder's own module is the folder."""
    parts = list(file.relative_to(PACKAGE).with_suffix("").parts)
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


NAMES: Final = {name_of(file) for file in MODULES}


def layer_of(module: str) -> str:
    if module in LAYERS:
        return module
    first = module.partition(".")[0]
    return "models.architectures" if first == "models" else first


def imports_of(file: Path) -> set[str]:
    return set(imports_in(file.read_text(encoding="utf-8"), file.relative_to(PACKAGE).parent.parts))


def imports_in(source: str, folder: tuple[str, ...]) -> Iterator[str]:
    """The module below the package of every import of our own, wherever in the source it stands."""
    package = ["chroma_mlx", *folder]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "chroma_mlx":
                yield resolve(target.removeprefix("chroma_mlx").removeprefix("."))


def resolve(target: str) -> str:
    """The module that a dotted name lies in: `errors.ConfigError` is in `errors`."""
    while target and target not in NAMES:
        target = target.rpartition(".")[0]
    return target or "__init__"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_no_import_points_upward(file: Path) -> None:
    own = layer_of(name_of(file))
    layers = {layer_of(module) for module in imports_of(file)}
    upward = {layer for layer in layers if LAYERS.index(layer) < LAYERS.index(own)}
    assert not upward, f"{file.relative_to(PACKAGE)} reaches up to {upward}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges = {name_of(file): imports_of(file) - {name_of(file), "__init__"} for file in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle of imports: {' → '.join([*path, module])}"
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from ..functions import NAME", "functions"),
        ("def late():\n    from ..functions import NAME", "functions"),
        ("if TYPE_CHECKING:\n    from .. import functions", "functions"),
        ("import chroma_mlx.engine.plan as p", "engine.plan"),
        ("from chroma_mlx import MLXEmbeddingFunction", "__init__"),
        ("from .plan import Kind", "engine.plan"),
        ("from ..checkpoint import Checkpoint", "checkpoint"),
    ],
)
def test_imports_are_found_in_every_form(source: str, found: str) -> None:
    assert list(imports_in(f"import numpy\n{source}\nfrom pathlib import Path", ("engine",))) == [found]


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_every_module_and_function_is_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MAX_MODULE_LINES, f"{file.relative_to(PACKAGE)} has {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{file.relative_to(PACKAGE)}: {node.name} has {length} lines"


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_every_module_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{file} has no docstring"
