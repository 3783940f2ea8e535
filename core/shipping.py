"""Code that travels: the user's own modules to the workers, and functions as pickles.

On the driver `bundle` finds the modules of the user's project that a function needs, and
`pickle_function` makes the function's pickle. On a worker `install` serves those modules from
memory, ahead of anything on disk, so that an edited helper never runs in an old version.

The user's own are modules with a ``.py`` file that is neither in the standard library, nor in
``site-packages``/``dist-packages``, nor headrace's. Data files and extension modules do not travel.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from . import forks
from .errors import HeadraceError, UnpicklableError

_bundled_here: set[str] = set()
"""Digests of what this very process bundled: its modules are the original."""


class StaleCodeError(HeadraceError, ImportError):
    """This process has imported another version of a shipped module: it needs a fresh one."""


class Source(NamedTuple):
    """One shipped module."""

    is_package: bool
    text: str
    origin: str
    """Path of its file on the driver, for tracebacks."""


@dataclass(frozen=True)
class Modules:
    """The user's own modules that a function needs, by name."""

    sources: dict[str, Source]

    @cached_property
    def digest(self) -> str:
        """Content hash: equal for equal names and sources, wherever the files lie."""
        digest = hashlib.blake2b(digest_size=16)
        for name, source in sorted(self.sources.items()):
            digest.update(f"{name}\0{source.is_package:d}{len(source.text)}\0".encode())
            digest.update(source.text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @cached_property
    def data(self) -> bytes:
        """What `install` takes."""
        return pickle.dumps(
            (self.digest, {name: tuple(source) for name, source in self.sources.items()})
        )


def bundle(target: Any) -> Modules | None:
    """The user's own modules that a function or object references, directly or through others.

    Sources are read from the files, and again when a file's time or size has changed. None if
    there are no such modules.
    """
    from .references import own_modules  # parsing is for drivers only: workers start faster

    sources = own_modules(target)
    if not sources:
        return None
    modules = Modules(sources)
    _bundled_here.add(modules.digest)
    return modules


# ------------------------------------------------------------------------------------- functions


def pickle_function(function: Callable[..., Any], name: str | None = None) -> bytes:
    """Pickle a plain function for workers.

    By reference where a worker can import it, also when a decorated object with an attribute
    ``fn`` has taken its name in the module; by value (cloudpickle) for ``__main__``, notebooks,
    standard input, lambdas and nested functions.

    Parameters
    ----------
    function
        The function itself, not the task that wraps it.
    name
        The task's name, for the error.

    Raises
    ------
    UnpicklableError
        Names the task, and the offending part and its type.
    """
    import cloudpickle

    reference = _reference(function)
    if reference is not None:
        return pickle.dumps(_ByReference(*reference))
    home = sys.modules.get(getattr(function, "__module__", None) or "__main__")
    by_value = home is not None and home.__name__ != "__main__" and not _on_disk(home)
    try:
        if by_value:
            cloudpickle.register_pickle_by_value(home)
        try:
            return cloudpickle.dumps(function)
        finally:
            if by_value:
                cloudpickle.unregister_pickle_by_value(home)
    except Exception as error:  # whatever a user's __reduce__ raises
        task = name or getattr(function, "__qualname__", repr(function))
        part = _offender(function, cloudpickle.dumps)
        raise UnpicklableError(
            f"task {task!r} cannot be pickled for a worker: {part or error}. Make it inside the"
            " task, or once per child with setup=."
        ) from error


class _ByReference:
    """Pickles as a function's place; unpickles as the function."""

    def __init__(self, module: str, qualname: str) -> None:
        self.place = module, qualname

    def __reduce__(self) -> tuple[Callable[[str, str], Any], tuple[str, str]]:
        return resolve, self.place


def resolve(module: str, qualname: str) -> Any:
    """Import a function by its place, from within the task object that may stand there."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return _plain(found)


def _plain(found: Any) -> Any:
    while not isinstance(found, FunctionType | type) and callable(getattr(found, "fn", None)):
        found = found.fn
    return found


def _reference(function: Any) -> tuple[str, str] | None:
    module, qualname = (
        getattr(function, "__module__", None),
        getattr(function, "__qualname__", None),
    )
    if not isinstance(module, str) or not isinstance(qualname, str) or module == "__main__":
        return None
    home = sys.modules.get(module)
    if home is None or "<" in qualname or not _on_disk(home):
        return None
    try:
        return (module, qualname) if resolve(module, qualname) is function else None
    except (AttributeError, ImportError):
        return None


def _on_disk(module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.origin in ("built-in", "frozen"):
        return True
    file = getattr(module, "__file__", None)
    return (bool(file) and Path(file).exists()) or module.__name__ in sys.builtin_module_names


def _offender(value: Any, dumps: Callable[[Any], bytes]) -> str:
    """Which part of a function cannot be pickled, in words; empty if none alone is to blame."""
    from .references import referenced

    for where, part in referenced(value):
        try:
            dumps(part)
        except Exception as error:  # noqa: BLE001 - whatever a user's __reduce__ raises
            deeper = _offender(part, dumps) if isinstance(part, FunctionType) else ""
            kind = f"{type(part).__module__}.{type(part).__qualname__}"
            return deeper or f"its {where} is a {kind}, which does not pickle ({error})"
    return ""


# --------------------------------------------------------------------------------- on the worker


class _Shipped:
    """Finds and loads shipped modules: a meta path finder and an inspect loader by their methods.

    (Their base classes in ``importlib.abc`` would cost each child a quarter of its imports.)
    """

    def __init__(self) -> None:
        self.lock = forks.own_lock(threading.Lock())
        self.sources: dict[str, Source] = {}
        self.installed: set[str] = set()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        source = self.sources.get(fullname)
        if source is None:
            return None
        loader: Any = self  # the checkers ask for the deprecated load_module
        spec = spec_from_loader(
            fullname, loader, origin=source.origin or None, is_package=source.is_package
        )
        if spec is not None and source.origin:
            spec.has_location = True  # sets __file__
            if source.is_package:  # what was not shipped (data, extensions) may lie there
                spec.submodule_search_locations = [str(Path(source.origin).parent)]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code in it."""
        exec(self.get_code(module.__name__), vars(module))  # noqa: S102 - as any loader does

    def is_package(self, fullname: str) -> bool:
        return self.sources[fullname].is_package

    def get_source(self, fullname: str) -> str:
        return self.sources[fullname].text

    def get_code(self, fullname: str) -> CodeType:
        source = self.sources[fullname]
        name = source.origin or f"<shipped {fullname}>"
        # Without a time linecache never looks at the disk, where another version may lie.
        linecache.cache[name] = (len(source.text), None, source.text.splitlines(True), name)
        return compile(source.text, name, "exec", dont_inherit=True)


_shipped = _Shipped()


def install(data: bytes) -> None:
    """Serve shipped modules to this process from now on; what is on disk comes second.

    In the process that bundled them it does nothing. Thread-safe.

    Raises
    ------
    StaleCodeError
        A module of the same name with other contents is already imported here. Nothing has
        changed then.
    """
    digest, plain = pickle.loads(data)
    if digest in _bundled_here or digest in _shipped.installed:
        return
    sources = {name: Source(*fields) for name, fields in plain.items()}
    with _shipped.lock:
        for name, source in sources.items():
            known = _imported_text(name)
            if known is not None and known != source.text:
                raise StaleCodeError(f"this process has imported another version of {name!r}")
        # A module that another node shipped and that nothing imported yet may change.
        _shipped.sources.update(sources)
        _shipped.installed = {digest}
        if _shipped not in sys.meta_path:
            finder: Any = _shipped
            sys.meta_path.insert(0, finder)
        importlib.invalidate_caches()


def _imported_text(name: str) -> str | None:
    """Source of a module that is imported here; None if it is not imported."""
    module = sys.modules.get(name)
    if module is None:
        return None
    if name in _shipped.sources:
        return _shipped.sources[name].text
    file = getattr(module, "__file__", None)
    if not file:
        return ""  # a namespace package
    from .references import read_source

    try:
        return read_source(file)
    except (OSError, SyntaxError, UnicodeError):
        return "\0 not to be read"
