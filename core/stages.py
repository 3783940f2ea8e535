"""A task's code on a worker: loaded once per process and node, called once per item."""

from __future__ import annotations

import functools
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from . import forks
from .checkpoints import Checkpoints
from .context import Cursor, CursorStage
from .identity import NOBODY, SIZE, item_ids
from .interfaces import Batch, Inputs, LogLine, RefColumn, RunStore, Stage, StageSpec
from .origins import inputs_of, origins_of
from .packing import MapArgument, unpack, unpack_static
from .shipping import install

_KEEP_SPECS = 256

SCALARS = frozenset({int, float, str, bytes, bool, type(None)})
"""Values of these exact types are never loaded, adapted, copied or read to their end."""


class ArgumentError(Exception):
    """An item's argument could not be loaded or brought into the form that was asked for."""


class LoadedStage:
    """One node's code and static arguments, ready to be called with an item's mapped arguments.

    ``spread`` takes an item's column values and returns what the function returns.
    """

    def __init__(
        self,
        spec: StageSpec,
        stage: Stage,
        batch: Batch,
        function: Callable[..., Any],
        state: Any,
        index: int = 0,
    ) -> None:
        self.spec, self.stage, self.store, self.state = spec, stage, batch.store, state
        self.batch = batch
        self.place = CursorStage(spec, stage, state, index)
        self.function = function
        models = {name: pickle.loads(model) for name, model in spec.models}
        self.annotations: dict[str, Any] = {**dict(spec.adapt), **models}
        self.gives = [pickle.loads(model) for model in spec.gives]
        self.by_row = bool(models)
        """Arguments may be rows, for each of which the function is called."""
        static = unpack_static(
            spec.static, stage.upstream, batch.live, batch.store, self.annotations
        )
        self.static = {name: self._form(name, value) for name, value in static.items()}
        self.origins = origins_of(stage.upstream, static.values(), batch.store)
        self.inputs = Inputs()
        if self.by_row and any(hasattr(v, "__headrace_rows__") for v in self.static.values()):
            raise TypeError(f"{spec.task_name!r} takes rows one by one: map over what has them")
        self.spread = self._caller()
        self.form: Callable[..., Any] = self._forming(self.spread)
        """``spread`` for values of any kind, which may have to be brought into the right form."""

    def _form(self, name: str, value: Any) -> Any:
        """The argument in the form that its annotation asks for."""
        if type(value) in SCALARS:
            return value
        if type(value) is MapArgument:
            value = value.load(self.batch.upstream, self.store, self.annotations.get(name))
        load = getattr(type(value), "__headrace_load__", None)
        if load is not None:
            return load(value, self.annotations.get(name))
        if name in self.annotations:
            return self.store.adapt(value, self.annotations[name])
        return value

    def _caller(self) -> Callable[..., Any]:
        function, static, mapped = self.function, self.static, self.spec.mapped
        positional = self.spec.positional
        plain = not self.spec.var_positional and not self.spec.var_keyword
        if plain and positional[: len(mapped)] == mapped and len(positional) == len(mapped):
            return functools.partial(function, **static) if static else function

        def call(*args: Any) -> Any:
            named = {**static, **dict(zip(mapped, args, strict=True))}
            by_position = [named.pop(name) for name in positional if name in named]
            if self.spec.var_positional:
                by_position.extend(named.pop(self.spec.var_positional, ()))
            if self.spec.var_keyword:
                named.update(named.pop(self.spec.var_keyword, {}))
            return function(*by_position, **named)

        return call

    def columns(self, batch: Batch) -> tuple[list[list[Any]], bytes]:
        """The batch's columns as lists of values, and the ids of its items.

        Handles are loaded item by item, when called. Ids are taken before an item can change its
        input; those of committed values are their items'.
        """
        raw: list[Any] = unpack(batch.payload, batch.upstream, batch.live, batch.store)
        self.inputs = inputs_of(batch, raw, self.origins)
        columns = [
            batch.store.load(column) if isinstance(column, RefColumn) else column for column in raw
        ]
        for name, column in zip(self.spec.mapped, columns, strict=True):
            types = set(map(type, column)) - SCALARS
            handles = MapArgument in types or any(hasattr(t, "__headrace_load__") for t in types)
            if name in self.annotations or handles:
                self.spread = self.form
                break
        ids = batch.ids
        if ids is None:
            ids = _ids_of(raw[0], batch.store) if _is_linked(raw) else item_ids(columns)
        return columns, ids

    def named(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        """An item's arguments by parameter name, in the form in which the function gets them."""
        mapped = zip(self.spec.mapped, arguments, strict=True)
        return {**self.static, **{name: self._form(name, value) for name, value in mapped}}

    def _forming(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def formed(*args: Any) -> Any:
            if SCALARS.issuperset(map(type, args)):
                return call(*args)
            try:
                named = zip(self.spec.mapped, args, strict=True)
                ready = tuple(self._form(name, value) for name, value in named)
                each = self._over_rows(call, ready) if self.by_row else None
            except Exception as error:
                raise ArgumentError from error
            return call(*ready) if each is None else each

        return formed

    def _over_rows(self, call: Callable[..., Any], ready: tuple[Any, ...]) -> Any:
        """What comes of calling the function for each row of an argument; None: none has rows."""
        found = [k for k, value in enumerate(ready) if hasattr(value, "__headrace_rows__")]
        if not found:
            return None
        if len(found) > 1 or self.spec.is_async:
            raise TypeError(
                f"{self.spec.task_name!r} is to be called for each row of {len(found)} arguments"
                f"{' and is async' if self.spec.is_async else ''}: rows come to a plain function, from "
                "one argument; take pa.Table or list[dict] instead"
            )
        (at,) = found
        before, after = ready[:at], ready[at + 1 :]
        return ready[at].__headrace_rows__(lambda row: call(*before, row, *after), self.gives)

    def cursor(self, logs: list[LogLine], checkpoints: Checkpoints | None = None) -> Cursor:
        """The run context of a batch's items, set to this stage."""
        return Cursor(self.batch.run_id, self.store, logs, self.place, checkpoints=checkpoints)


def _is_linked(columns: list[Any]) -> bool:
    return len(columns) == 1 and isinstance(columns[0], RefColumn)


def _ids_of(column: RefColumn, store: RunStore) -> bytes:
    """The ids that the items of committed values have."""
    known = store.ids(column.parts, column.inline)
    places = zip(column.part, column.index, strict=True)
    return b"".join([known[p][i * SIZE : (i + 1) * SIZE] or NOBODY for p, i in places])


def materialised(value: Any) -> Any:
    """A value that can be both committed and passed on: an iterator would be used up by the first."""
    if type(value) in SCALARS:
        return value
    read_all = getattr(value, "read_all", None)
    if read_all is not None and type(value).__module__.startswith("pyarrow"):
        return read_all()
    return list(value) if isinstance(value, Iterator) else value


class _Cache:
    """Code by spec and set-up state by spec, kept for the life of the process."""

    def __init__(self) -> None:
        self.lock = forks.own_lock(threading.RLock())
        self.specs: OrderedDict[tuple[str, str], tuple[StageSpec, Any, Any]] = OrderedDict()

    def load(self, store: RunStore, path: str, *, in_child: bool) -> tuple[StageSpec, Any, Any]:
        key = (store.run_id, path)
        with self.lock:
            if key in self.specs:
                self.specs.move_to_end(key)
                return self.specs[key]
            spec: StageSpec = pickle.loads(store.read(path))
            if spec.modules is not None and in_child:
                install(store.read(spec.modules))
            function = pickle.loads(spec.function)
            state = pickle.loads(spec.setup)() if spec.setup is not None else None
            self.specs[key] = (spec, function, state)
            while len(self.specs) > _KEEP_SPECS:
                self.specs.popitem(last=False)
            return self.specs[key]


_cache = _Cache()


def load_stage(batch: Batch, index: int, *, in_child: bool) -> LoadedStage:
    """Load one stage of a batch; code and ``setup`` state are cached in this process.

    Raises
    ------
    NotFoundError
        The store cannot be seen from here.
    StaleCodeError
        Other versions of the shipped modules are loaded.
    """
    stage = batch.stages[index]
    spec, function, state = _cache.load(batch.store, stage.spec, in_child=in_child)
    return LoadedStage(spec, stage, batch, function, state, index)
