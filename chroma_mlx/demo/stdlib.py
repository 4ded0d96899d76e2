"""The public names of the standard library and their docstrings, read from its source without importing it.

Running a module to read its documentation would open a browser (`antigravity`) or load a widget toolkit, so
the source is parsed instead.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# Folders and modules that hold no documentation of Python itself, or hold it a second time.
_FOREIGN = {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
_PROGRAMS = {"ensurepip", "idlelib", "lib2to3", "turtledemo"}
_DATA_AND_TWINS = {"encodings", "ntpath", "nturl2path", "pydoc_data"}

# No supported release after 3.12 ships these: an answer from them helps nobody who writes code today.
_REMOVED_NETWORK = {"asynchat", "asyncore", "cgi", "cgitb", "nntplib", "smtpd", "telnetlib", "xdrlib"}
_REMOVED_MEDIA = {"aifc", "audioop", "chunk", "imghdr", "ossaudiodev", "sndhdr", "sunau"}
_REMOVED_SYSTEM = {"crypt", "distutils", "imp", "mailcap", "msilib", "nis", "pipes", "spwd", "uu"}

# Window toolkits: many installations leave them out, and their hundreds of one-line docstrings ("Return the
# option of WIDGET") repeat Tk's words for people who know Tk. Without them, machines hold the same corpus.
_TOOLKITS = {"tkinter", "turtle"}

_REMOVED = _REMOVED_NETWORK | _REMOVED_MEDIA | _REMOVED_SYSTEM
_LEFT_OUT = _FOREIGN | _PROGRAMS | _DATA_AND_TWINS | _REMOVED | _TOOLKITS

# Where a module's names are known by another name, and no import statement says so.
_KNOWN_AS = {
    "_pyio": "io",
    "concurrent.futures.process": "concurrent.futures",
    "concurrent.futures.thread": "concurrent.futures",
    "genericpath": "os.path",
    "posixpath": "os.path",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A documented name.

    name: dotted, within its module until `public_definitions` puts the module before it; empty for a module.
    parameters: None where the name is not called: a module or a property.
    """

    name: str
    parameters: str | None
    doc: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """What one source file defines, and what it takes over from others.

    exports: the literal strings of `__all__`, None where the file has none.
    imports: (module, name) of every `from module import name`; the name may be `*`.
    """

    name: str
    is_package: bool
    definitions: tuple[Definition, ...]
    exports: frozenset[str] | None
    imports: tuple[tuple[str, str], ...]


def public_definitions(root: Path) -> list[Definition]:
    """Every documented public name below `root`, sorted, each once, under the name people import it by."""
    modules = [module for path in source_files(root) if (module := read_module(root, path))]
    homes = public_homes(modules)
    found: dict[str, Definition] = {}
    for module in modules:
        for definition in module.definitions:
            home = homes.get((module.name, definition.name.split(".")[0]))
            if home is None and not _is_private(module.name):
                home = _KNOWN_AS.get(module.name, module.name)
            if home is not None:
                name = f"{home}.{definition.name}" if definition.name else home
                found.setdefault(name, replace(definition, name=name))
    return [found[name] for name in sorted(found)]


def source_files(root: Path) -> Iterator[Path]:
    """Python files below `root` that can be imported by name, in a stable order."""
    if not root.is_dir():
        return
    for path in sorted(root.iterdir()):
        # lib-dynload and config-3.11-x86_64-linux-gnu are no packages.
        if path.stem in _LEFT_OUT or not path.stem.isidentifier():
            continue
        if path.is_dir():
            yield from source_files(path)
        elif path.suffix == ".py":
            yield path


def read_module(root: Path, path: Path) -> Module | None:
    """The module at `path`; None where its file cannot be read or parsed."""
    is_package = path.name == "__init__.py"
    parts = path.parent.parts if is_package else path.with_suffix("").parts
    name = ".".join(parts[len(root.parts) :])
    try:
        # A source with an outdated escape sequence is still worth reading.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    doc = ast.get_docstring(tree)
    definitions = [Definition(name="", parameters=None, doc=doc)] if doc else []
    definitions.extend(_definitions(tree.body))
    statements = list(_statements(tree.body))
    return Module(
        name=name,
        is_package=is_package,
        definitions=tuple(definitions),
        exports=_exports(statements),
        imports=tuple(_imports(statements, name, is_package)),
    )


def public_homes(modules: Iterable[Module]) -> dict[tuple[str, str], str]:
    """(module, name) to the public module that offers the name as its own, the shortest where several do.

    `asyncio` does `from .tasks import *`, so `asyncio.tasks.gather` is known as `asyncio.gather`.
    """
    by_name = {module.name: module for module in modules}
    homes: dict[tuple[str, str], str] = {}
    offering = sorted(by_name, key=lambda name: (name.count("."), name))
    for name in offering:
        module = by_name[name]
        for source, imported in module.imports:
            is_inner = source.startswith(f"{name}.") and module.is_package
            if _is_private(name) or source not in by_name or not (is_inner or _is_private(source)):
                continue
            for offered in _offered(module, by_name[source], imported, is_inner):
                homes.setdefault((source, offered), name)
    return homes


def _offered(module: Module, source: Module, imported: str, is_inner: bool) -> Iterable[str]:
    if imported == "*":
        return source.exports or {d.name for d in source.definitions if d.name and "." not in d.name}
    if module.exports is None:
        return {imported} if is_inner else set()
    return {imported} & module.exports


def _definitions(body: Iterable[ast.stmt], prefix: str = "") -> Iterator[Definition]:
    """Documented public functions, classes and methods, outermost first."""
    for node in _statements(body):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        name = f"{prefix}{node.name}"
        doc = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            initialiser = _initialiser(node)
            parameters = _parameters(initialiser, is_method=True) if initialiser else ""
            told = (ast.get_docstring(initialiser) or "") if initialiser else ""
            doc = "\n\n".join(filter(None, (doc, told)))
        elif _is_property(node):
            parameters = None
        else:
            parameters = _parameters(node, is_method=bool(prefix))
        if doc:
            yield Definition(name=name, parameters=parameters, doc=inspect.cleandoc(doc))
        if isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{name}.")


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a scope, those inside its `if` and `try` blocks included."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handled = [statement for handler in node.handlers for statement in handler.body]
            yield from _statements([*node.body, *handled, *node.orelse, *node.finalbody])


def _initialiser(node: ast.ClassDef) -> ast.FunctionDef | None:
    methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
    return next((child for child in methods if child.name == "__init__"), None)


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> str:
    """Names only: defaults and annotations take up the heading and say little about the purpose."""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    is_static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list)
    if is_method and not is_static:
        del names[:1]
    if node.args.vararg:
        names.append(f"*{node.args.vararg.arg}")
    names.extend(argument.arg for argument in node.args.kwonlyargs)
    if node.args.kwarg:
        names.append(f"**{node.args.kwarg.arg}")
    return ", ".join(names)


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    marks = node.decorator_list
    names = [mark.attr if isinstance(mark, ast.Attribute) else getattr(mark, "id", "") for mark in marks]
    return any(name.endswith(("property", "getter", "setter", "deleter")) for name in names)


def _exports(statements: Iterable[ast.stmt]) -> frozenset[str] | None:
    """Literal strings that the module puts into `__all__`, by assignment or by a method of the list."""
    names: set[str] = set()
    is_declared = False
    for node in statements:
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr) and "__all__" in _touched(node):
            is_declared = True
            values = (child.value for child in ast.walk(node) if isinstance(child, ast.Constant))
            names.update(value for value in values if isinstance(value, str))
    return frozenset(names) if is_declared else None


def _touched(node: ast.Assign | ast.AugAssign | ast.Expr) -> set[str]:
    """Names that the statement assigns to, or calls a method of."""
    if isinstance(node, ast.Assign):
        targets: list[ast.expr] = node.targets
    elif isinstance(node, ast.AugAssign):
        targets = [node.target]
    elif isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        targets = [node.value.func.value]
    else:
        targets = []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _imports(statements: Iterable[ast.stmt], name: str, is_package: bool) -> Iterator[tuple[str, str]]:
    for node in statements:
        if isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                # One dot means this package: the module's own name in an __init__, its parent elsewhere.
                parents = name.split(".")
                del parents[len(parents) - node.level + is_package :]
                source = ".".join([*parents, source] if source else parents)
            for alias in node.names:
                if alias.asname in (None, alias.name):
                    yield source, alias.name


def _is_private(module: str) -> bool:
    return any(part.startswith("_") for part in module.split("."))
