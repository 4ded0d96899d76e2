"""Documented names of the modules that every interpreter has loaded and that have no Python source.

`zip`, `sorted` and `itertools.chain` are written in C, so their docstrings are read from the objects
themselves. Only modules that start no work of their own when imported are on the list.
"""

from __future__ import annotations

import builtins
import collections
import functools
import inspect
import itertools
import math
import os
import re
import sys
import time
import types
from collections.abc import Iterable, Iterator

from .stdlib import Definition

COMPILED_MODULES = (builtins, collections, functools, itertools, math, os, sys, time)

# The parameter that stands for the object itself, and the marks for "positional only" and "keyword only".
_IMPLIED = re.compile(r"^\$\w+$|^[*/]$")


def compiled_definitions(modules: Iterable[types.ModuleType]) -> list[Definition]:
    """Documented public functions, classes and methods of the modules, sorted by dotted name."""
    found = {definition.name: definition for module in modules for definition in _of_module(module)}
    return [found[name] for name in sorted(found)]


def _of_module(module: types.ModuleType) -> Iterator[Definition]:
    prefix = "" if module is builtins else f"{module.__name__}."
    if module.__doc__:
        yield Definition(name=module.__name__, parameters=None, doc=inspect.cleandoc(module.__doc__))
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not _is_own(module, name, value):
            continue
        yield from _documented(f"{prefix}{name}", value)
        if isinstance(value, type):
            for member, method in sorted(vars(value).items()):
                if not member.startswith("_"):
                    yield from _documented(f"{prefix}{name}.{member}", method)


def _is_own(module: types.ModuleType, name: str, value: object) -> bool:
    """Whether the module is where the function or class belongs, under this name."""
    if not isinstance(value, type | types.BuiltinFunctionType) or value.__name__ != name:
        return False  # IOError and os.error are second names of OSError
    # os.Mapping is only borrowed; os takes its functions from the system's own module, builtins open from io.
    homes = {"os": ("os", "posix", "nt"), "builtins": ("builtins", "io", "_io")}
    owner = value.__module__ or ""
    return owner in homes.get(module.__name__, (module.__name__, f"_{module.__name__}"))


def _documented(name: str, value: object) -> Iterator[Definition]:
    doc = getattr(value, "__doc__", None)
    # Data such as float_info carries the docstring of its type.
    if isinstance(doc, str) and doc != type(value).__doc__:
        yield Definition(name=name, parameters=_parameters(value), doc=inspect.cleandoc(doc))


def _parameters(value: object) -> str | None:
    signature = getattr(value, "__text_signature__", None)
    if not isinstance(signature, str):
        return None
    names = [part.split("=")[0].strip() for part in signature.strip("()").split(",")]
    return ", ".join(name for name in names if name and not _IMPLIED.match(name))
