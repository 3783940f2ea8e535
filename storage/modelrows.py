"""Rows as pydantic models: one call of the task for each, and those that do not fit are set aside.

Rows are validated some thousands at a time. What a model refuses, and what makes the function raise
`pydantic.ValidationError`, goes to the partition's *quarantine*: an Arrow file with the rows as they
were read and the reason. It is put just before the partition whose name it has, so it counts when
that does, for a resume, the cache and an attempt that was adopted alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import GeneratorType
from typing import Any, cast

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ..core.context import TASK_RUN
from ..core.errors import UnstorableError
from .modelschemas import schema_of
from .quarantine import PREFIX, REASONS
from .streams import PickedRows

_CHUNK_ROWS = 4096
_PLAIN = frozenset(
    {int, float, str, bytes, bool, type(None), date, datetime, time, timedelta, Decimal, np.ndarray}
)
_CONTAINERS = frozenset({list, tuple, set, frozenset, dict})


class ModelRows:
    """The rows of a reader, for a task that takes a model at a time."""

    def __init__(self, reader: Any, model: type[BaseModel]) -> None:
        self.reader, self.model = reader, model

    def __headrace_rows__(
        self, call: Callable[[Any], Any], models: Sequence[type[BaseModel]] = ()
    ) -> RowStream:
        return RowStream(self.reader, self.model, call, models)


class RowStream(PickedRows):
    """What a function, which says that it gives some models, gives for each row."""

    def __init__(
        self,
        reader: Any,
        model: type[BaseModel],
        call: Callable[[Any], Any],
        models: Sequence[type[BaseModel]],
    ) -> None:
        super().__init__()
        self.declared = lambda: schema_of(models)
        self._model, self._call = model, call
        self._adapter = TypeAdapter[list[BaseModel]](cast(Any, list)[model])
        self._made = self._rows(reader)
        self.refused = 0
        self.first = ""

    def __next__(self) -> dict[str, Any]:
        return next(self._made)

    def _rows(self, reader: Any) -> Iterator[dict[str, Any]]:
        seen = 0
        for batch in reader:
            for at in range(0, batch.num_rows, _CHUNK_ROWS):
                chunk = batch.slice(at, _CHUNK_ROWS)
                refused: dict[int, tuple[str, str]] = {}
                for number, model in self._models(chunk.to_pylist(), refused):
                    try:
                        made = self._dicts(self._call(model))
                    except ValidationError as error:
                        refused[number] = _reason(cast("Any", error.errors(include_url=False)))
                        continue
                    yield from made
                if refused:
                    self._refuse(chunk, seen, dict(sorted(refused.items())))
                seen += chunk.num_rows
        if self.refused:
            self._tell(seen)

    def _models(
        self, rows: list[dict[str, Any]], refused: dict[int, tuple[str, str]]
    ) -> Iterator[tuple[int, BaseModel]]:
        """The rows that fit, by number; the reasons of the others."""
        numbers = list(range(len(rows)))
        try:
            models = self._adapter.validate_python(rows)
        except ValidationError as error:
            told: dict[int, list[Any]] = {}
            for each in error.errors(include_url=False):
                told.setdefault(int(each["loc"][0]), []).append({**each, "loc": each["loc"][1:]})
            refused.update((number, _reason(errors)) for number, errors in told.items())
            numbers = [number for number in numbers if number not in told]
            models = self._adapter.validate_python([rows[number] for number in numbers])
        yield from zip(numbers, models, strict=True)

    def _dicts(self, value: Any) -> list[dict[str, Any]]:
        """What the function gave for a row, as rows: of a model, of dicts, of several, of None."""
        if value is None:
            return []
        if isinstance(value, BaseModel):
            return [_dumped(value)]
        if type(value) is dict:
            return [cast("dict[str, Any]", value)]
        if isinstance(value, (list, GeneratorType)):
            return [row for each in cast("Iterator[Any]", value) for row in self._dicts(each)]
        raise UnstorableError(
            f"a task over rows of {self._model.__name__} gave a {type(value).__name__}: return a model, "
            "a dict, a list of these, or None to leave the row out"
        )

    def _refuse(self, chunk: Any, before: int, refused: dict[int, tuple[str, str]]) -> None:
        numbers = [before + number for number in refused]
        fields, reasons = (list(each) for each in zip(*refused.values(), strict=True))
        table = pa.Table.from_batches([chunk]).take(list(refused))
        table = table.select([n for n in table.column_names if not n.startswith(PREFIX)])
        for field, values in zip(REASONS, (numbers, fields, reasons), strict=True):
            table = table.append_column(field, pa.array(values, field.type))
        if not self.refused:
            self.first = f"row {numbers[0]}: {reasons[0]}"
        self.refused += len(refused)
        self.set_aside(table)

    def _tell(self, seen: int) -> None:
        item = TASK_RUN.get()
        if item is not None:
            item.log(
                logging.WARNING,
                "headrace",
                f"{self.refused} of {seen} rows are no {self._model.__name__} and are set aside (see "
                f".quarantined()); {self.first}",
            )


def _dumped(model: BaseModel) -> dict[str, Any]:
    """A model as a row of what Arrow has types for: its fields' values, else what JSON has of them."""
    row = model.model_dump()
    odd: set[str] = set()
    for name, value in row.items():
        if type(value) in _CONTAINERS:
            row[name] = _plain(value)
        elif type(value) not in _PLAIN:
            odd.add(name)
    return {**row, **model.model_dump(mode="json", include=odd)} if odd else row


def _plain(value: Any) -> Any:
    """The same at any depth, for what is within a field; tuples and sets are lists."""
    cls = type(value)
    if cls in _PLAIN:
        return value
    if cls is dict:
        return {_plain(key): _plain(each) for key, each in value.items()}
    if cls in _CONTAINERS:
        if cls is list and _PLAIN.issuperset(map(type, value)):
            return value
        return [_plain(each) for each in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    return to_jsonable_python(value, fallback=lambda other: other)


def _reason(errors: list[Any]) -> tuple[str, str]:
    """The first field that does not fit, and what is wrong with all that do not."""
    named = [(".".join(map(str, error["loc"])), str(error["msg"])) for error in errors]
    told = "; ".join(f"{name}: {text}" if name else text for name, text in named)
    return named[0][0], told
