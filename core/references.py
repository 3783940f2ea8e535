"""Which of the user's own modules a function needs, found without importing anything."""

from __future__ import annotations

import ast
import dis
import functools
import os
import site
import sys
import sysconfig
import threading
import tokenize
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from itertools import islice
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast

from . import forks
from .rowmodels import models_of
from .shipping import Source

_PACKAGE = __name__.partition(".")[0]
_WIDTH = 1000
"""Elements of a container that are looked at: code rarely hides behind more."""
_lock = forks.own_lock(threading.Lock())
_files: dict[str, tuple[tuple[int, int], str, tuple[str, ...]]] = {}
"""Per file and module: (time, size), source, and what it imports."""


def own_modules(target: Any) -> dict[str, Source]:
    """The user's own modules that ``target`` needs, directly or through others, by name."""
    return own_sources(_names_in(target))


def own_sources(names: Iterable[str]) -> dict[str, Source]:
    """Those of the named modules, and of all that they import, which are the user's own."""
    found: dict[str, Source] = {}
    todo = list(names)
    seen: set[str] = set()
    with _lock:
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            parent = name.rpartition(".")[0]
            if parent:
                todo.append(parent)
            place = _locate(name)
            if place is None:
                continue
            file, is_package = place
            if not file:
                found[name] = Source(True, "", "")
                continue
            text, imports = _read(name, file, is_package)
            found[name] = Source(is_package, text, file)
            todo.extend(imports)
    # A parent without a file of its own is shipped only for the sake of what lies within.
    return {
        name: source
        for name, source in found.items()
        if source.origin
        or any(other.startswith(name + ".") and found[other].origin for other in found)
    }


# ------------------------------------------------------------------------------- from an object


def referenced(value: Any) -> Iterator[tuple[str, Any]]:
    """What a function, method, partial, class or object holds on to: (where, object) pairs."""
    if isinstance(value, functools.partial):
        partial = cast("functools.partial[Any]", value)
        yield "partial's function", partial.func
        yield from ((f"partial argument {i}", item) for i, item in enumerate(partial.args))
        yield from ((f"partial argument {key!r}", item) for key, item in partial.keywords.items())
    elif isinstance(value, MethodType):
        yield "object", value.__self__
        yield "function", value.__func__
    elif isinstance(value, FunctionType):
        yield from _function_parts(value)
    elif isinstance(value, type):
        yield from ((f"base {base.__name__!r}", base) for base in value.__bases__)
        yield from ((f"attribute {key!r}", item) for key, item in vars(value).items())
    elif isinstance(value, property | staticmethod | classmethod):
        parts = (getattr(value, name, None) for name in ("fget", "fset", "__func__"))
        yield from (("function", part) for part in parts if part is not None)
    elif isinstance(value, dict):
        items = islice(cast("dict[Any, Any]", value).items(), _WIDTH)
        yield from ((f"value of {key!r}", item) for key, item in items)
    elif isinstance(value, list | tuple | set | frozenset):
        elements = islice(cast("list[Any]", value), _WIDTH)
        yield from ((f"element {i}", item) for i, item in enumerate(elements))
    elif not isinstance(value, ModuleType | CodeType):
        yield from _object_parts(value)


def _function_parts(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for code in _codes(function.__code__):
        for name in code.co_names:
            if name in function.__globals__:
                yield f"global {name!r}", function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f"closure variable {name!r}", cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from ((f"annotation of {k!r}", model) for k, model in models_of(function).items())
    yield from ((f"default {i}", item) for i, item in enumerate(function.__defaults__ or ()))
    yield from ((f"default of {k!r}", v) for k, v in (function.__kwdefaults__ or {}).items())
    yield from ((f"attribute {k!r}", v) for k, v in vars(function).items())


def _object_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, str | bytes | int | float | complex | bool) or value is None:
        return
    yield "type", type(value)
    inner = getattr(value, "fn", None)
    if inner is not None:
        yield "function", inner
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict):
        attributes = islice(cast("dict[str, Any]", state).items(), _WIDTH)
        yield from ((f"attribute {key!r}", item) for key, item in attributes)


def _names_in(target: Any) -> set[str]:
    """Names of modules that an object leads to, in as far as its code is not in a module of its own."""
    names: set[str] = set()
    seen: set[int] = set()
    keep: list[Any] = []
    todo = [target]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        keep.append(value)  # ids stay taken while we walk
        if isinstance(value, ModuleType):
            names.add(value.__name__)
            continue
        home = getattr(value, "__module__", None)
        if isinstance(home, str):
            names.add(home)
        if isinstance(value, FunctionType):
            names.update(imports_of(value))
        inner = getattr(value, "fn", None)
        if callable(inner):  # a task that another one calls
            todo.append(inner)
        # What a library made is followed no further; the target is, whoever decorated it.
        if value is target or not isinstance(home, str) or _walks(home):
            todo.extend(part for _, part in referenced(value))
    return names


def _walks(module: str) -> bool:
    return module == "__main__" or module not in sys.modules or _locate(module) is not None


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def imports_of(function: FunctionType) -> Iterator[str]:
    """Modules that the import statements in a function's body name."""
    for code in _codes(function.__code__):
        yield from _imports_of_code(code, function.__globals__.get("__package__") or "")


def _imports_of_code(code: CodeType, package: str) -> Iterator[str]:
    """Modules that ``import`` statements inside a function name."""
    base, history = "", []
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            level = history[-2] if len(history) > 1 and isinstance(history[-2], int) else 0
            base = _absolute(str(step.argval), level, package)
            if base:
                yield base
        elif step.opname == "IMPORT_FROM" and base:
            yield f"{base}.{step.argval}"
        history = [*history[-1:], step.argval]


# ------------------------------------------------------------------------------- from a module


def read_source(file: str) -> str:
    """A Python file's text, in the encoding it declares."""
    with tokenize.open(file) as stream:
        return stream.read()


def _read(name: str, file: str, is_package: bool) -> tuple[str, tuple[str, ...]]:
    status = os.stat(file)
    stamp = status.st_mtime_ns, status.st_size
    known = _files.get(f"{name}\0{file}")
    if known is not None and known[0] == stamp:
        return known[1], known[2]
    text = read_source(file)
    package = name if is_package else name.rpartition(".")[0]
    try:
        imports = tuple(_imports_of_source(ast.parse(text, file), package))
    except SyntaxError:  # half edited: the worker will say so with its line
        imports = ()
    _files[f"{name}\0{file}"] = stamp, text, imports
    return text, imports


def _imports_of_source(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(name: str, level: int, package: str) -> str:
    if level == 0:
        return name
    parts = package.split(".")
    if not package or level > len(parts):
        return ""
    base = ".".join(parts[: len(parts) - level + 1])
    return f"{base}.{name}" if name else base


def _locate(name: str) -> tuple[str, bool] | None:
    """(file, is it a package) of one of the user's own modules; no file: a bare parent."""
    top = name.partition(".")[0]
    if top in (_PACKAGE, "__main__") or top in sys.stdlib_module_names:
        return None
    module = sys.modules.get(name)
    if module is not None and module.__name__ == name:
        file, is_package = getattr(module, "__file__", None), hasattr(module, "__path__")
    else:
        spec = _spec(name)
        if spec is None:
            return None
        file, is_package = spec.origin, spec.submodule_search_locations is not None
    if file is None:
        return ("", True) if is_package or module is not None else None
    if not file.endswith(".py") or not _is_own(file):
        return None
    return os.path.abspath(file), is_package


def _spec(name: str) -> ModuleSpec | None:
    """Where a module that is not imported lies; imports nothing, not even its parents."""
    parent = name.rpartition(".")[0]
    path: list[str] | None = None
    if parent:
        home = sys.modules.get(parent)
        if home is not None:
            path = list(getattr(home, "__path__", ()))
        else:
            above = _spec(parent)
            path = list(above.submodule_search_locations or ()) if above else []
        if not path:
            return None
    try:
        return PathFinder.find_spec(name, path)
    except (ImportError, AttributeError, ValueError):  # odd path hooks
        return None


@functools.cache
def _library_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots.update(site.getsitepackages() if hasattr(site, "getsitepackages") else ())
    roots.add(site.getusersitepackages())
    return tuple(os.path.realpath(root) + os.sep for root in roots)


@functools.lru_cache(4096)
def is_own_module(name: str) -> bool:
    """Whether an imported module is the user's own, or cannot be told from it (a notebook's)."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name == "__main__" or module is None:
        return True
    if name.partition(".")[0] == __name__.partition(".")[0]:
        return False  # headrace's, also where it is installed from a checkout
    return file is not None and _is_own(file)


def _is_own(file: str) -> bool:
    real = os.path.realpath(file)
    parts = Path(real).parts
    if "site-packages" in parts or "dist-packages" in parts:
        return False
    return os.path.exists(real) and not real.startswith(_library_roots())
