"""Pydantic models that annotate a task's parameters: Arrow data comes to these row by row."""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable
from typing import Any


def parameter_hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the parameters, as far as they can be told."""
    try:
        hints = typing.get_type_hints(fn)
    except Exception:  # noqa: BLE001 - annotations are user code: those that fail ask for nothing
        hints = dict(getattr(fn, "__annotations__", {}))
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
    if "pydantic" not in sys.modules or not getattr(fn, "__annotations__", None):
        return {}
    return {name: hint for name, hint in parameter_hints(fn).items() if is_model(hint)}
