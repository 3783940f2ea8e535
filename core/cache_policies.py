"""Cache policies: which parts of a task's call say that its value is the same as before.

Names and meanings are Prefect 3's. Policies are added with ``+``; ``-`` leaves a parameter out by
its name: ``INPUTS + TASK_SOURCE - "debug"``. The task itself always counts, by the name of its
function and of the module that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from .errors import ConfigurationError

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "CachePolicy",
]

READ_COMMITTED = "READ_COMMITTED"
SERIALIZABLE = "SERIALIZABLE"
KeyFunction: TypeAlias = "Callable[[Any, dict[str, Any]], str | None]"


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """A set of parts of a cache key. Without any, nothing is cached.

    Made from the constants of this module by ``+`` and ``-``, or by `from_cache_key_fn`.
    """

    parts: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    """Parameters that do not count among the inputs."""
    key_fns: tuple[KeyFunction, ...] = ()
    serializable: bool = False
    """One run computes a key, others wait for it; it is no part of the key. See `configure`."""

    @staticmethod
    def from_cache_key_fn(fn: KeyFunction) -> CachePolicy:
        """The policy of a function ``(context, parameters) -> key``; None: do not cache this call."""
        return CachePolicy(key_fns=(fn,))

    def configure(self, *, isolation_level: str = READ_COMMITTED) -> CachePolicy:
        """The same policy with another rule for calls with equal keys at the same time.

        Parameters
        ----------
        isolation_level
            ``"READ_COMMITTED"``, the default: each computes the value, and one commit counts.
            ``"SERIALIZABLE"``: one run computes it; the others wait until it is committed, or until
            that run's task has ended without it or its driver is gone, and then one of them does.
            Claims are kept in the store (`core.claims`), so a lock manager is not needed.

        Raises
        ------
        ConfigurationError
            There is no such level.
        """
        level = str(getattr(isolation_level, "value", isolation_level)).upper()
        if level not in (READ_COMMITTED, SERIALIZABLE):
            raise ConfigurationError(
                f"isolation_level={isolation_level!r}: use {READ_COMMITTED!r} or {SERIALIZABLE!r}"
            )
        return replace(self, serializable=level == SERIALIZABLE)

    @property
    def inputs(self) -> bool:
        """Do the arguments count?"""
        return "INPUTS" in self.parts

    def __bool__(self) -> bool:
        return bool(self.parts or self.key_fns)

    def __add__(self, other: CachePolicy) -> CachePolicy:
        if not isinstance(other, CachePolicy):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"a cache policy can be added to another one, not to {other!r}"
            )
        if self.inputs and other.inputs:
            without = self.without & other.without
        else:
            without = self.without | other.without
        fns = self.key_fns + tuple(fn for fn in other.key_fns if fn not in self.key_fns)
        serializable = self.serializable or other.serializable
        return CachePolicy(self.parts | other.parts, without, fns, serializable)

    def __sub__(self, parameter: str) -> CachePolicy:
        if not isinstance(parameter, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"what is taken from a cache policy is a parameter's name, not {parameter!r}"
            )
        if not self:
            return self
        return replace(self, parts=self.parts | {"INPUTS"}, without=self.without | {parameter})

    def __repr__(self) -> str:
        named = [name for name in _NAMES if name in self.parts]
        named += [f"key by {getattr(fn, '__qualname__', repr(fn))}" for fn in self.key_fns]
        return "".join(
            [" + ".join(named) or "NO_CACHE", *(f" - {p!r}" for p in sorted(self.without))]
        )


_NAMES = ("INPUTS", "TASK_SOURCE", "FLOW_PARAMETERS", "RUN_ID")

INPUTS = CachePolicy(frozenset({"INPUTS"}))
"""The arguments of the call."""
TASK_SOURCE = CachePolicy(frozenset({"TASK_SOURCE"}))
"""The task's code, and what it refers to: helpers, globals, closures, modules of the user's own."""
FLOW_PARAMETERS = CachePolicy(frozenset({"FLOW_PARAMETERS"}))
"""The parameters of the flow run."""
RUN_ID = CachePolicy(frozenset({"RUN_ID"}))
"""The flow run: what was computed in another one does not count."""
NO_CACHE = CachePolicy()
"""Nothing is cached, as where no policy is given."""
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID
"""Prefect's default policy."""
