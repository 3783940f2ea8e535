import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

from headrace import Dataset, allow_failure, quote, unmapped
from headrace.core.binding import Shape
from headrace.core.errors import MappingError
from headrace.core.mapping import column, is_iterable, split


class Model(BaseModel):
    a: int = 1


@pytest.mark.parametrize(
    "value",
    [
        [1], (1,), {1}, range(3), iter([1]), np.arange(3), pa.array([1]), pd.Series([1]),
        pl.Series([1]), pa.chunked_array([[1]]), {1: 2}.keys(), (x for x in "ab"),
    ],
)  # fmt: skip
def test_what_is_mapped_over(value: object):
    assert is_iterable(value)


@pytest.mark.parametrize(
    "value",
    [
        1, None, "text", b"bytes", bytearray(b"x"), {"a": 1}, io.StringIO(), Model(), quote([1]),
        pa.table({"a": [1]}), pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]}),
        pa.record_batch({"a": pa.array([1])}),
    ],
)  # fmt: skip
def test_what_goes_whole(value: object):
    assert not is_iterable(value)


def taken(fn: Callable[..., Any], *args: Any, **kwargs: Any):
    shape = Shape.of(fn)
    return split(fn.__name__, shape, shape.bind(fn.__name__, args, kwargs, defaults=False))


def add(x: Any, y: Any = 5, *rest: Any, z: Any = (7, 8), **more: Any) -> Any: ...


def test_iterables_are_mapped_the_rest_is_static_and_defaults_are_never_mapped():
    parts = taken(add, [1, 2], 3)
    assert parts.mapped == {"x": [1, 2]}
    assert parts.static == {"y": 3, "z": (7, 8)}


def test_unmapped_and_allow_failure_in_either_order():
    parts = taken(add, [1], unmapped([1, 2, 3]), z=allow_failure([4]))
    assert (parts.mapped, parts.static) == ({"x": [1], "z": [4]}, {"y": [1, 2, 3]})
    assert parts.allow_failure == {"z"}
    assert taken(add, [1], unmapped(allow_failure([9]))).static["y"] == allow_failure([9])
    assert taken(add, [1], allow_failure(unmapped([9]))).static["y"] == allow_failure([9])


def test_extra_keywords_are_mapped_under_their_own_names():
    parts = taken(add, [1, 2], a=[3, 4], b=5)
    assert parts.mapped == {"x": [1, 2], "a": [3, 4]}
    assert parts.static["more"] == {"b": 5}


def test_extra_positionals_are_mapped_as_tuples():
    parts = taken(add, [1, 2], 0, [3, 4], "s", unmapped([9]))
    assert list(parts.mapped["rest"]) == [(3, "s", [9]), (4, "s", [9])]
    assert len(parts.mapped["rest"]) == 2
    with pytest.raises(MappingError, match=r"rest\[0\]: 3"):
        taken(add, [1, 2], 0, [3, 4, 5])


def test_nothing_is_consumed():
    pulled: list[int] = []

    def numbers() -> Iterator[int]:
        for k in range(10):
            pulled.append(k)
            yield k

    parts = taken(add, numbers(), [1, 2])
    assert pulled == []
    assert next(parts.mapped["x"]) == 0


def test_unequal_lengths_name_the_parameters():
    with pytest.raises(MappingError, match=r"x: 2, y: 3.*unmapped"):
        taken(add, [1, 2], [1, 2, 3])


def test_nothing_iterable_names_what_there_was():
    with pytest.raises(MappingError, match=r"add\.map: nothing to map over.*x: int, y: str"):
        taken(add, 1, "abc")
    with pytest.raises(MappingError, match=r"use list\(x\) for its keys"):
        taken(add, {"a": 1})
    with pytest.raises(MappingError, match=r"for x give the dataset's \.partitions\(\)"):
        taken(add, Dataset([]), 1)


def test_a_future_that_holds_no_iterable_goes_whole():
    assert list(zip([1, 2], column(5), strict=False)) == [(1, 5), (2, 5)]
    assert list(column([1, 2])) == [1, 2]
