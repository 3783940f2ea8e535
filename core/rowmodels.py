"""Pydantic models that annotate a task's parameters: Arrow data comes to these row by row."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from .hints import annotated, hints_of

_MANY = frozenset({list, Sequence, Iterable, Iterator, Generator})


def parameter_hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the parameters; of those that do not resolve the text."""
    hints = {**getattr(annotated(fn), "__annotations__", {}), **hints_of(fn)}
    hints.pop("return", None)
    return hints


def is_model(annotation: Any) -> bool:
    """Whether it is a pydantic model. Who made one has imported pydantic; this does not."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not isinstance(annotation, type):
        return False
    return issubclass(annotation, pydantic.BaseModel)


def models_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The models that annotate a function's parameters, by parameter."""
    if "pydantic" not in sys.modules or not getattr(annotated(fn), "__annotations__", None):
        return {}
    return {name: hint for name, hint in parameter_hints(fn).items() if is_model(hint)}


def returned_models(fn: Callable[..., Any]) -> list[Any]:
    """The models of which its return annotation says that it gives one, some or none."""
    return list(dict.fromkeys(_models_in(hints_of(fn).get("return"))))


def _models_in(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if is_model(annotation):
        yield annotation
    elif origin is typing.Union or origin is types.UnionType:
        for member in typing.get_args(annotation):
            yield from _models_in(member)
    elif origin in _MANY:
        yield from _models_in(typing.get_args(annotation)[0])
