"""The columns that rows of pydantic models have, as far as the models' annotations tell.

They count only where there are no rows: else the values themselves say what their columns hold.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from typing import Any
from uuid import UUID

import pyarrow as pa
from pydantic import AnyUrl, BaseModel

from .forms import SCALARS

_TYPES: Mapping[type, Any] = {
    **{cls: form.type for cls, form in SCALARS.items()},
    datetime: pa.timestamp("us"),
    date: pa.date32(),
    time: pa.time64("us"),
    timedelta: pa.duration("us"),
    AnyUrl: pa.string(),
    IPv4Address: pa.string(),
    IPv6Address: pa.string(),
    PurePath: pa.string(),
    UUID: pa.string(),
}
_LISTS = (Sequence, AbstractSet)


def schema_of(models: Iterable[type[BaseModel]]) -> Any:
    """`pyarrow.Schema` of what rows of these models have; null where a model does not say."""
    kinds: dict[str, Any] = {}
    for model in models:
        for name, kind in _columns(model):
            kinds[name] = kind if kinds.get(name, kind) == kind else pa.null()
    return pa.schema(list(kinds.items()))


def _columns(model: type[BaseModel]) -> list[tuple[str, Any]]:
    own = {
        name: field.annotation for name, field in model.model_fields.items() if not field.exclude
    }
    made = {name: field.return_type for name, field in model.model_computed_fields.items()}
    return [(name, _kind(annotation)) for name, annotation in {**own, **made}.items()]


def _kind(annotation: Any) -> Any:
    """The Arrow type of an annotation's values, null where that is not told."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is typing.Literal:
        return _one(map(type, inner))
    if origin is typing.Union or origin is types.UnionType:
        return _one(inner)
    if isinstance(origin, type) and issubclass(origin, _LISTS):
        return pa.list_(_one(each for each in inner if each is not ...))
    if not isinstance(annotation, type):
        return pa.null()
    if issubclass(annotation, BaseModel):
        return pa.struct(_columns(annotation))
    if issubclass(annotation, Enum):
        return _one(type(member.value) for member in annotation)
    return next((_TYPES[each] for each in annotation.__mro__ if each in _TYPES), pa.null())


def _one(annotations: Iterable[Any]) -> Any:
    kinds = {_kind(each) for each in annotations if each is not types.NoneType}
    return kinds.pop() if len(kinds) == 1 else pa.null()
