"""What tasks and flows have in common: a function in its wrapping, bound as methods are, with hooks."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar, cast

from .binding import Shape
from .errors import ConfigurationError
from .hooks import checked_hooks
from .shown import Shown

AnyHook = TypeVar("AnyHook", bound=Callable[..., Any])

RESERVED = ("wait_for", "return_state")
"""Keywords of every call of a task or flow: no parameter of the function can have these names."""


class Decorated(Shown):
    """Base of `Task` and `Flow`. Subclasses set ``options`` from what was given."""

    shown_as = "callable"

    word: ClassVar[str]
    """``task`` or ``flow``, for messages."""
    options: Any
    fn: Any
    """The function itself; of a method that was looked up, bound."""

    def __init__(self, fn: Any, given: Mapping[str, Any]) -> None:
        self.kind: Literal["function", "class", "static"] = "function"
        if isinstance(fn, classmethod):
            self.kind, fn = "class", cast("Any", fn).__func__
        elif isinstance(fn, staticmethod):
            self.kind, fn = "static", cast("Any", fn).__func__
        if not callable(fn):
            raise TypeError(f"{self.word}() decorates functions, got {fn!r}")
        self.what = f"{self.word} {given.get('name') or getattr(fn, '__name__', fn)!r}"
        self.given: Any = dict(given)
        self.fn = fn
        self.shape = Shape.of(fn)
        for name in RESERVED:
            if name in self.shape.names:
                raise ConfigurationError(
                    f"{self.what}: {name!r} is a keyword of every call; rename the parameter"
                )
        self.isasync = inspect.iscoroutinefunction(fn)
        self.isgenerator = inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)
        functools.update_wrapper(cast("Any", self), fn, updated=())

    @property
    def name(self) -> str:
        """Its name: what its runs and nodes are called."""
        return self.options.name

    @property
    def description(self) -> str:
        """What it does; by default its docstring."""
        return self.options.description

    def undecorated(self) -> Any:
        """The function as it was given, under its ``classmethod`` or ``staticmethod``."""
        if self.kind == "class":
            return classmethod(self.fn)
        return staticmethod(self.fn) if self.kind == "static" else self.fn

    def bound(self, instance: Any, owner: type[Any] | None) -> Any:
        """As the attribute of an object (None: of its class): a copy with the function bound."""
        if self.kind == "static" or (self.kind == "function" and instance is None):
            return self
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.fn = self.fn.__get__(owner if self.kind == "class" else instance, owner)
        copy.shape = Shape.of(copy.fn)
        copy.kind = "function"
        return copy

    def on_running(self, fn: AnyHook) -> AnyHook:
        """Decorator: call ``fn(task or flow, run, state)`` when a run starts."""
        return self._hook("on_running", fn)

    def on_completion(self, fn: AnyHook) -> AnyHook:
        """Decorator: call ``fn(task or flow, run, state)`` when a run completed."""
        return self._hook("on_completion", fn)

    def on_failure(self, fn: AnyHook) -> AnyHook:
        """Decorator: call ``fn(task or flow, run, state)`` when a run failed."""
        return self._hook("on_failure", fn)

    def on_crashed(self, fn: AnyHook) -> AnyHook:
        """Decorator: call ``fn(task or flow, run, state)`` when a run's process died."""
        return self._hook("on_crashed", fn)

    def on_cancellation(self, fn: AnyHook) -> AnyHook:
        """Decorator: call ``fn(task or flow, run, state)`` when a run was cancelled."""
        return self._hook("on_cancellation", fn)

    def _hook(self, name: str, fn: AnyHook) -> AnyHook:
        hooks = (*getattr(self.options, name), *checked_hooks(self.what, name, fn))
        self.given = {**self.given, name: hooks}
        self.options = replace(self.options, **{name: hooks})
        return fn

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}{self.shape.signature}>"


def importable_name(thing: Any) -> str | None:
    """Name under which a module other than ``__main__`` holds the very object, or None."""
    home, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(home, str) or home == "__main__" or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(home)
    for part in name.split("."):
        found = getattr(found, part, None)
    return name if found is thing else None
