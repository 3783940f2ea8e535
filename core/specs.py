"""From a call to what workers must know of it: the `StageSpec`, written once and shared."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import pickle
import types
from collections.abc import Callable
from typing import Any

from .calls import Call
from .errors import UnpicklableError
from .hints import plain
from .interfaces import RunStore, StageSpec, spec_path
from .livecode import Live
from .packing import Packed, pack_static
from .rowmodels import is_model, parameter_hints, returned_models
from .shipping import bundle, pickle_function

_NOTHING = pack_static({}, live=False)
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class SpecWriter:
    """Writes the specs of one run's calls. Thread-safe: writing twice is harmless."""

    def __init__(
        self,
        store: RunStore,
        *,
        flow_name: str,
        run_name: str,
        parameters: tuple[tuple[str, str], ...],
        log_level: int,
        live: bool,
    ) -> None:
        self.store = store
        self.flow_name, self.run_name, self.parameters = flow_name, run_name, parameters
        self.log_level, self.live = log_level, live
        self.written: set[str] = set()
        self.kept: dict[int, Live] = {}
        """Functions that stay in this process, by identity."""
        self.known: dict[tuple[Any, ...], str] = {}
        """Specs of single calls: a task's code is taken once per run."""

    def write(self, call: Call, tag_concurrency: int | None) -> tuple[str, Packed]:
        """The path of a call's spec, and its static arguments' dependencies.

        Raises
        ------
        UnpicklableError
            The function or an argument cannot travel; names it.
        """
        if not call.single:
            packed = pack_static(dict(call.static), live=self.live)
            return self._write(call, packed.data, tuple(call.mapped), tag_concurrency), packed
        # A single call's arguments travel as columns, so that equal calls share one spec.
        mapped = tuple(call.static)
        key = (call.fn, call.options, mapped, call.caller)
        if key not in self.known:
            path = self._write(call, _NOTHING.data, mapped, tag_concurrency)
            if not isinstance(call.fn, types.FunctionType):
                return path, _NOTHING  # made for this one call
            self.known[key] = path
        return self.known[key], _NOTHING

    def _write(
        self, call: Call, static: bytes, mapped: tuple[str, ...], tag_concurrency: int | None
    ) -> str:
        return self._stored(self._spec(call, static, mapped, tag_concurrency))

    def _stored(self, spec: StageSpec) -> str:
        data = pickle.dumps(spec)
        path = spec_path(hashlib.blake2b(data, digest_size=16).hexdigest())
        self._put(path, data)
        return path

    def _spec(
        self, call: Call, static: bytes, mapped: tuple[str, ...], tag_concurrency: int | None
    ) -> StageSpec:
        options = call.options
        parameters = _parameters(call.fn)
        of_kind = {p.kind: p.name for p in parameters}
        var_positional = of_kind.get(inspect.Parameter.VAR_POSITIONAL)
        concurrency = options.concurrency
        given = {*call.static, *call.mapped}
        hints = parameter_hints(call.fn)
        models = tuple((n, self._code(h, call)) for n, h in hints.items() if is_model(h))
        return StageSpec(
            task_name=options.name,
            function=self._code(call.fn, call),
            modules=self._modules(call.fn),
            mapped=mapped,
            static=static,
            var_positional=var_positional if var_positional in given else None,
            var_keyword=of_kind.get(inspect.Parameter.VAR_KEYWORD),
            positional=_positional(parameters, mapped, call),
            adapt=tuple((name, text) for name, hint in hints.items() if (text := plain(hint))),
            models=models,
            gives=tuple(self._code(model, call) for model in returned_models(call.fn))
            if models
            else (),
            is_async=is_async(call.fn),
            is_generator=is_generator(call.fn),
            concurrency=min(concurrency, tag_concurrency) if tag_concurrency else concurrency,
            log_prints=bool(options.log_prints),
            log_level=self.log_level,
            schema=schema_of(call),
            setup=self._code(options.setup, call) if options.setup else None,
            flow_name=self.flow_name,
            run_name=self.run_name,
            tags=tuple(sorted(options.tags)),
            parameters=self.parameters,
        )

    def _code(self, fn: Callable[..., Any], call: Call) -> bytes:
        """The function's pickle; where it runs in this process, a pickle that gives the very same."""
        if not (self.live or call.caller):
            return pickle_function(fn, call.options.name)
        if id(fn) not in self.kept:
            self.kept[id(fn)] = Live(fn)
        return pickle.dumps(self.kept[id(fn)])

    def _modules(self, fn: Callable[..., Any]) -> str | None:
        modules = bundle(fn)
        if modules is None:
            return None
        path = f"modules/{modules.digest}"
        self._put(path, modules.data)
        return path

    def portable(self, call: Call, spec: str) -> str:
        """The path of a spec of the same call that other processes can load, too, if there can be one."""
        if not (self.live or call.caller):
            return spec
        mapped = tuple(call.static if call.single else call.mapped)
        try:
            static = _NOTHING if call.single else pack_static(dict(call.static), live=False)
            function = pickle_function(call.fn, call.options.name)
            setup = call.options.setup and pickle_function(call.options.setup, call.options.name)
        except UnpicklableError:
            return spec
        made = self._spec(call, static.data, mapped, None)
        return self._stored(dataclasses.replace(made, function=function, setup=setup))

    def _put(self, path: str, data: bytes) -> None:
        if path not in self.written:
            self.store.write(path, data)
            self.written.add(path)


def is_generator(fn: Callable[..., Any]) -> bool:
    """Does calling it give an iterator that is yet to run?"""
    return inspect.isgeneratorfunction(fn)


def is_async(fn: Callable[..., Any]) -> bool:
    """Does calling it give an awaitable?"""
    return inspect.iscoroutinefunction(fn)


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # a built-in without a signature: bound as if it took anything
        kinds = {"args": inspect.Parameter.VAR_POSITIONAL, "kwargs": inspect.Parameter.VAR_KEYWORD}
        return [inspect.Parameter(name, kind) for name, kind in kinds.items()]


def _positional(
    parameters: list[inspect.Parameter], mapped: tuple[str, ...], call: Call
) -> tuple[str, ...]:
    """Which parameters go by position: those that must, or the mapped ones where they may."""
    names = [p.name for p in parameters if p.kind in _BY_POSITION]
    var_positional = next(
        (p.name for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None
    )
    if var_positional in call.static or var_positional in call.mapped:
        return tuple(names)
    must = tuple(p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY)
    if tuple(names[: len(mapped)]) == mapped and len(must) <= len(mapped):
        return mapped
    return must


def schema_of(call: Call) -> bytes | None:
    """The Arrow schema that a task states for its output, serialised."""
    schema = call.options.schema
    return None if schema is None else schema.serialize().to_pybytes()
