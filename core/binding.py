"""From a call's arguments to parameters by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """A function's parameters, as the calls of a task or flow need them."""

    signature: inspect.Signature
    names: frozenset[str]
    var_positional: str | None
    var_keyword: str | None

    @staticmethod
    def of(fn: Callable[..., Any]) -> Shape:
        """Shape of a function; one without a signature (some builtins) takes anything."""
        try:
            signature = inspect.signature(fn)
        except (TypeError, ValueError):
            signature = inspect.Signature(
                [
                    Parameter("args", Parameter.VAR_POSITIONAL),
                    Parameter("kwargs", Parameter.VAR_KEYWORD),
                ]
            )
        kinds = {p.kind: p.name for p in signature.parameters.values()}
        return Shape(
            signature,
            frozenset(signature.parameters),
            kinds.get(Parameter.VAR_POSITIONAL),
            kinds.get(Parameter.VAR_KEYWORD),
        )

    def bind(
        self, what: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, defaults: bool = True
    ) -> dict[str, Any]:
        """Arguments by parameter name; ``*args`` and ``**kwargs`` under their own names.

        Raises
        ------
        TypeError
            They do not fit; names ``what`` and the parameter.
        """
        __tracebackhide__ = True
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{what}{self.signature}: {error}") from None
        if defaults:
            bound.apply_defaults()
        return dict(bound.arguments)

    def defaults(self) -> dict[str, Any]:
        """Default values by name."""
        return {
            p.name: p.default
            for p in self.signature.parameters.values()
            if p.default is not Parameter.empty
        }

    def spread(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of a call, from arguments by parameter name."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        by_name = False
        for name, parameter in self.signature.parameters.items():
            if name not in arguments:
                by_name = True
                continue
            value = arguments[name]
            if parameter.kind is Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif parameter.kind is Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif parameter.kind is Parameter.KEYWORD_ONLY or by_name:
                kwargs[name] = value
            else:
                args.append(value)
        return tuple(args), kwargs
