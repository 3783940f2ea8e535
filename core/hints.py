"""What a function's annotations stand for, each by itself as far as its names can be found.

Forms of Arrow data are recognised by module and name, also in the text of an annotation whose names cannot
be found (``if TYPE_CHECKING: import polars as pl``), so nobody imports pandas or polars for it.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any

FRAMES = {
    ("pyarrow", "Table"): "table",
    ("pyarrow", "RecordBatch"): "batch",
    ("pyarrow", "RecordBatchReader"): "reader",
    ("pandas", "DataFrame"): "pandas",
    ("polars", "DataFrame"): "polars",
    ("polars", "LazyFrame"): "lazy",
    ("headrace", "Dataset"): "dataset",
}
_TEXTS = {
    "pa.Table": "table",
    "pa.RecordBatch": "batch",
    "pa.RecordBatchReader": "reader",
    "pd.DataFrame": "pandas",
    "pl.DataFrame": "polars",
    "pl.LazyFrame": "lazy",
    "Dataset": "dataset",
}
_NAMES = {form: ".".join(name) for name, form in FRAMES.items()} | {"rows": "list[dict]"}


def hints_of(fn: Callable[..., Any], *, include_extras: bool = False) -> dict[str, Any]:
    """Annotations by name; one that does not resolve is left out, alone.

    Names are those of the function's module, and those of the functions around it that its body
    uses, too.
    """
    fn = annotated(fn)
    around = _around(inspect.unwrap(fn))
    try:
        return typing.get_type_hints(fn, localns=around or None, include_extras=include_extras)
    except Exception:  # noqa: BLE001 - annotations are user code and may raise anything
        found: dict[str, Any] = {}
        scope = {**getattr(inspect.unwrap(fn), "__globals__", {}), **around}
        for name, hint in getattr(fn, "__annotations__", {}).items():
            probe: Any = type("Probe", (), {"__annotations__": {name: hint}})
            try:
                found |= typing.get_type_hints(probe, scope, scope, include_extras=include_extras)
            except Exception:  # noqa: BLE001, S112 - see above
                continue
        return found


def annotated(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose annotations count: of a callable object its class's ``__call__``.

    An object that wraps a function, as `functools.wraps` makes it, speaks for that one.
    """
    if isinstance(fn, type) or inspect.isroutine(fn) or hasattr(fn, "__wrapped__"):
        return fn
    call = getattr(type(fn), "__call__", None)  # noqa: B004 - the function itself, not whether it is there
    return call if isinstance(call, FunctionType) else fn


def _around(fn: Any) -> dict[str, Any]:
    """What the function takes from those around it, by name."""
    if not isinstance(fn, FunctionType):
        return {}
    found: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    return found


def form_of(annotation: Any) -> str | None:
    """The form that an annotation asks for, or None where it asks for none.

    Of a union the first member that asks for one counts.
    """
    if isinstance(annotation, str):
        return _form_of_text(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return form_of(typing.get_args(annotation)[0])
    if origin is typing.Union or origin is types.UnionType:
        found = (form_of(member) for member in typing.get_args(annotation))
        return next((form for form in found if form is not None), None)
    if origin in (list, typing.Sequence) or (
        origin is not None and getattr(origin, "__name__", "") in ("Sequence", "Iterable")
    ):
        inner = typing.get_args(annotation)
        return "rows" if inner and _is_dict(inner[0]) else None
    if isinstance(annotation, type):
        root = annotation.__module__.partition(".")[0]
        return FRAMES.get((root, annotation.__qualname__))
    return None


def plain(annotation: Any) -> str | None:
    """The shortest annotation that asks for the same form; it holds nothing of the user's, as unions may."""
    form = form_of(annotation)
    return None if form is None else _NAMES[form]


def _is_dict(annotation: Any) -> bool:
    return annotation is dict or typing.get_origin(annotation) is dict


@lru_cache(maxsize=1024)
def _form_of_text(text: str) -> str | None:
    plain = text.replace(" ", "").strip("'\"")
    for part in plain.split("|"):
        if part in _TEXTS:
            return _TEXTS[part]
        root, _, name = part.rpartition(".")
        if (root.partition(".")[0], name) in FRAMES:
            return FRAMES[root.partition(".")[0], name]
        if part == "list[dict]" or part.startswith("list[dict["):
            return "rows"
    return None
