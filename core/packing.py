"""How arguments travel: one pickle, in which futures become numbered placeholders.

The pickler is the visitor: it meets every future at any depth at C speed, so nobody walks through
the user's containers. What a placeholder stands for (`Upstream`) travels beside the pickle, because
it is known only when the upstream has ended; it is resolved while the worker unpickles.

On in-process pools an argument that cannot be pickled passes as itself, by number.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from .annotations import allow_failure, quote, unmapped
from .errors import UnpicklableError
from .futures import Future, MapFuture
from .interfaces import MapRef, Raised, RefColumn, RunStore, Upstream
from .states import State


@dataclass(frozen=True, slots=True, eq=False)
class Dependency:
    """A future met among arguments. ``position`` None: all items of the node."""

    node: Any
    position: int | None
    allow_failure: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A pickle, the futures that it stands on, and what could not be pickled."""

    data: bytes
    dependencies: tuple[Dependency, ...] = ()
    live: tuple[Any, ...] = ()


class SecretError(Exception):
    """What was to be written holds a secret, at whatever depth."""


def refuse_secret(value: Any) -> None:
    """For picklers of what is written to a store and outlives the run.

    Raises
    ------
    SecretError
        It is a secret, or a location with its credentials (``__headrace_secret__`` is true).
    """
    kind = type(value)
    located = hasattr(kind, "__headrace_secret__") and value.__headrace_secret__
    if located or "Secret" in kind.__name__:
        raise SecretError


class _Whole:
    """A map future as one top-level argument."""

    def __init__(self, future: Any) -> None:
        self.future = future


class MapArgument:
    """On the worker: stands for a whole map's values as one top-level argument, whose annotation decides its form."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def load(self, upstream: tuple[Upstream, ...], store: RunStore, annotation: Any) -> Any:
        """The map's values in the form that the annotation asks for."""
        entry = upstream[self.number]
        assert isinstance(entry, MapRef), "a whole map is referred to as one"
        return (entry.run or store).load_all(entry.manifest, annotation)


class _Packer(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.dependencies: list[Dependency] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, allow_failure):
            dependency = dependency_of(obj.value, allow_failure=True)
            return self._placeholder(dependency) if dependency else (_identity, (obj.value,))
        if isinstance(obj, (unmapped, quote)):
            return _identity, (obj.value,)
        if isinstance(obj, _Whole):
            _, number = self._placeholder(Dependency(obj.future.node, None))
            return MapArgument, number
        if (dependency := dependency_of(obj)) is not None:
            return self._placeholder(dependency)
        return super().reducer_override(obj)

    def _placeholder(self, dependency: Dependency) -> Any:
        self.dependencies.append(dependency)
        return _resolve, (len(self.dependencies) - 1,)


def dependency_of(value: Any, *, allow_failure: bool = False) -> Dependency | None:
    """The dependency that a future, a map future or a future's state stands for, or None."""
    if isinstance(value, State):
        value = value.origin
    if isinstance(value, Future):
        return Dependency(value.node, value.position, allow_failure)
    if isinstance(value, MapFuture):
        return Dependency(value.node, None, allow_failure)
    return None


class _Keeper(_Packer):
    def reducer_override(self, obj: Any) -> Any:
        refuse_secret(obj)
        return super().reducer_override(obj)


def pack(value: Any, *, secrets: bool = True) -> Packed:
    """Pickle a value whose futures become placeholders.

    Raises
    ------
    SecretError
        It holds a secret, and ``secrets`` is false.
    Exception
        Whatever pickling raised; see `pack_values` for who was to blame.
    """
    file = io.BytesIO()
    packer = _Packer(file) if secrets else _Keeper(file)
    packer.dump(value)
    return Packed(file.getvalue(), tuple(packer.dependencies))


def whole(value: Any) -> Any:
    """A top-level argument as it is packed: a whole map keeps its place for an annotation."""
    return _Whole(value) if isinstance(value, MapFuture) else value


def pack_static(arguments: dict[str, Any], *, live: bool) -> Packed:
    """Pickle static arguments by name; whole maps among them keep their place for an annotation.

    Raises
    ------
    UnpicklableError
        Names the argument and its type.
    """
    marked = {name: whole(value) for name, value in arguments.items()}
    try:
        return pack(marked)
    except Exception:  # noqa: BLE001 - a class may raise anything when it is pickled: find out which one did
        names = list(marked)
        values, objects = pack_values(
            list(marked.values()), live=live, label=lambda i: f"argument {names[i]!r}"
        )
        packed = pack(dict(zip(names, values, strict=True)))
        return Packed(packed.data, packed.dependencies, tuple(objects))


def pack_values(
    values: Sequence[Any], *, live: bool, label: Callable[[int], str], first: int = 0
) -> tuple[list[Any], list[Any]]:
    """Values of which each can be pickled, and the objects that stand aside, numbered from ``first``.

    Raises
    ------
    UnpicklableError
        A value cannot be pickled and ``live`` is false; names it by ``label`` of its index.
    """
    kept: list[Any] = []
    objects: list[Any] = []
    for index, value in enumerate(values):
        try:
            pack(value)
        except Exception as error:  # see above: user classes may raise anything
            if not live:
                raise unpicklable(label(index), value, error) from error
            objects.append(value)
            kept.append(_Live(first + len(objects) - 1))
        else:
            kept.append(value)
    return kept, objects


def unpicklable(what: str, value: Any, error: BaseException) -> UnpicklableError:
    """The error that names what cannot travel, its type, and the reason."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return UnpicklableError(
        f"{what} of type {kind} cannot be pickled, so it cannot travel to a worker ({error}). "
        "Build it inside the task, or once per worker with setup=, or use the threads executor."
    )


class _Live:
    """A number in place of an object that passes as itself."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _live, (self.number,)


def _identity(value: Any) -> Any:
    return value


class _Resolving(threading.local):
    upstream: tuple[Upstream, ...] = ()
    live: tuple[Any, ...] = ()
    store: RunStore | None = None


_resolving = _Resolving()


def _resolve(number: int) -> Any:
    entry = _resolving.upstream[number]
    if isinstance(entry, Raised):
        return pickle.loads(entry.exception)
    store = entry.run or _resolving.store
    assert store is not None
    if isinstance(entry, MapRef):
        return store.load_all(entry.manifest)
    column = RefColumn(
        (entry.part,), [0], [entry.index], [entry.first_row], [entry.rows], (entry.inline,)
    )
    return store.load(column)[0]


def _live(number: int) -> Any:
    return _resolving.live[number]


def unpack(
    data: bytes, upstream: tuple[Upstream, ...], live: tuple[Any, ...], store: RunStore
) -> Any:
    """Unpickle on the worker; placeholders become the values of what they stand for."""
    _resolving.upstream, _resolving.live, _resolving.store = upstream, live, store
    try:
        return pickle.loads(data)
    finally:
        _resolving.upstream, _resolving.live, _resolving.store = (), (), None


def unpack_static(
    data: bytes,
    upstream: tuple[Upstream, ...],
    live: tuple[Any, ...],
    store: RunStore,
    annotations: dict[str, Any],
) -> dict[str, Any]:
    """Static arguments by name; a whole map comes in the form that its annotation asks for."""
    arguments: dict[str, Any] = unpack(data, upstream, live, store)
    for name, value in arguments.items():
        if isinstance(value, MapArgument):
            arguments[name] = value.load(upstream, store, annotations.get(name))
    return arguments
