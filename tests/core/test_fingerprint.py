"""Fingerprints: the same or different on purpose, in this process and in others."""

import dataclasses
import datetime as dt
import enum
import functools
import pickle
import subprocess
import sys
import textwrap
import zoneinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import cloudpickle
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest

from headrace.core.errors import FingerprintError
from headrace.core.fingerprint import SIZE, fingerprint, fingerprints


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Other(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Spot:
    x: float
    y: float = 0.0


class Pair(NamedTuple):
    a: int
    b: int


class Model(pydantic.BaseModel):
    name: str
    size: int = 3


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


class Marked:
    def __init__(self, mark: str, noise: object) -> None:
        self.mark, self.noise = mark, noise

    def __headrace_fingerprint__(self) -> str:
        return self.mark


def made(body: str, **names: Any) -> Any:
    """A function compiled from text, as a notebook cell makes one."""
    scope: dict[str, Any] = {"__name__": "__main__", **names}
    exec(textwrap.dedent(body), scope)
    return scope["f"]


cycle: list[Any] = [1]
cycle.append(cycle)
other_cycle: list[Any] = [1]
other_cycle.append(other_cycle)
table = pa.table({"a": [1, 2, 3, 4], "s": ["w", "x", None, "z"]})
chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 3)])
moment = dt.datetime(2026, 3, 1, 12, 0, 0)
berlin, paris = zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Europe/Paris")

SAME: dict[str, tuple[Any, Any]] = {
    "ints": (5, int("5")),
    "big ints": (2**200, 2**200),
    "nan": (float("nan"), -float("nan")),
    "strings": ("héllo", "h" + "éllo"),
    "lone surrogates": ("\ud800", "\ud800"),
    "lists": ([1, [2, "x"]], [1, [2, "x"]]),
    "sets in any order": ({"a", "b", "c", "d"}, {"d", "c", "b", "a"}),
    "frozen sets": (frozenset({1, 2}), frozenset({2, 1})),
    "dicts": ({"a": 1, "b": (2,)}, {"a": 1, "b": (2,)}),
    "shared or equal parts": ([[1]] * 2, [[1], [1]]),
    "cycles": (cycle, other_cycle),
    "enums": (Colour.RED, Colour["RED"]),
    "dataclasses": (Point(1.0), Point(1.0, 0.0)),
    "named tuples": (Pair(1, 2), Pair(1, 2)),
    "models": (Model(name="n"), Model(name="n", size=3)),
    "objects": (Plain([1]), Plain([1])),
    "own marks": (Marked("m", object()), Marked("m", lambda: 0)),
    "dates": (dt.date(2026, 3, 1), dt.date.fromisoformat("2026-03-01")),
    "zoned moments": (moment.replace(tzinfo=berlin), moment.replace(tzinfo=berlin)),
    "paths": (Path("a") / "b", Path("a/b")),
    "arrays": (np.arange(6).reshape(2, 3), np.arange(6).reshape(2, 3)),
    "arrays of another layout": (np.asfortranarray(np.eye(3)), np.eye(3)),
    "object arrays": (np.array(["x", None], object), np.array(["x", None], object)),
    "tables": (table, pa.table({"a": [1, 2, 3, 4], "s": ["w", "x", None, "z"]})),
    "tables in other chunks": (table, chunked),
    "slices": (table.slice(1, 2), chunked.slice(1, 2)),
    "frames": (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 2]})),
    "polars": (pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]})),
    "partials": (functools.partial(int, base=2), functools.partial(int, base=2)),
    "code but for comments": (
        made("def f(x):\n    return x + 1"),
        made("def f(x):\n    # adds one\n\n    return x + 1"),
    ),
    "a round trip": (Point(2.0), pickle.loads(pickle.dumps(Point(2.0)))),
    "a function's round trip": (
        made("def f(x):\n    return g(x)", g=made("def f(x): return x")),
        cloudpickle.loads(
            cloudpickle.dumps(made("def f(x):\n    return g(x)", g=made("def f(x): return x")))
        ),
    ),
}

DIFFERENT: dict[str, tuple[Any, Any]] = {
    "int and float": (1, 1.0),
    "int and bool": (1, True),
    "int and string": (1, "1"),
    "bytes and string": (b"a", "a"),
    "bytes and bytearray": (b"a", bytearray(b"a")),
    "negative zero": (0.0, -0.0),
    "none and its name": (None, "None"),
    "list and tuple": ([1, 2], (1, 2)),
    "nesting": ([[1], 2], [[1, 2]]),
    "strings run together": (["ab", "c"], ["a", "bc"]),
    "set and list": ({1}, [1]),
    "order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "keys of a dict": ({1: "x"}, {"1": "x"}),
    "empty ones": ([], ()),
    "enums of another class": (Colour.RED, Other.RED),
    "enum and its value": (Colour.RED, 1),
    "dataclasses of another class": (Point(1.0), Spot(1.0)),
    "dataclass and dict": (Point(1.0), {"x": 1.0, "y": 0.0}),
    "named tuple and tuple": (Pair(1, 2), (1, 2)),
    "models": (Model(name="n"), Model(name="n", size=4)),
    "objects": (Plain([1]), Plain([2])),
    "own marks": (Marked("m", 0), Marked("n", 0)),
    "zones": (moment.replace(tzinfo=berlin), moment.replace(tzinfo=paris)),
    "zone or none": (moment, moment.replace(tzinfo=dt.UTC)),
    "fold": (moment, moment.replace(fold=1)),
    "date and moment": (dt.date(2026, 3, 1), dt.datetime(2026, 3, 1)),
    "decimals": (Decimal("1.0"), Decimal("1.00")),
    "fraction and decimal": (Fraction(1, 2), Decimal("0.5")),
    "uuid and bytes": (UUID(int=5), UUID(int=5).bytes),
    "path and string": (PurePosixPath("a"), "a"),
    "shapes": (np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2)),
    "dtypes": (np.arange(3, dtype="i4"), np.arange(3, dtype="i8")),
    "byte order": (np.arange(3, dtype="<i4"), np.arange(3, dtype=">i4")),
    "array and scalar": (np.array(1), np.int64(1)),
    "array and list": (np.arange(3), [0, 1, 2]),
    "column names": (table, table.rename_columns(["a", "t"])),
    "column types": (table, table.set_column(0, "a", pa.array([1, 2, 3, 4], pa.int32()))),
    "nulls": (pa.array([1, None]), pa.array([1, 0])),
    "rows": (table, table.slice(0, 3)),
    "table of no columns": (pa.table({}), table.select([])),
    "frame and table": (pd.DataFrame({"a": [1]}), pa.table({"a": [1]})),
    "index": (pd.DataFrame({"a": [1]}, index=[0]), pd.DataFrame({"a": [1]}, index=[1])),
    "frame and polars": (pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]})),
    "series name": (pd.Series([1], name="a"), pd.Series([1], name="b")),
    "constants of code": (made("def f(x): return x + 1"), made("def f(x): return x + 2")),
    "defaults of code": (made("def f(x, y=1): return x"), made("def f(x, y=2): return x")),
    "names in code": (made("def f(x): return x.a"), made("def f(x): return x.b")),
    "globals of code": (made("def f(x): return x + k", k=1), made("def f(x): return x + k", k=2)),
    "helpers of code": (
        made("def f(x): return g(x)", g=made("def f(x): return x")),
        made("def f(x): return g(x)", g=made("def f(x): return -x")),
    ),
    "nested code": (
        made("def f(x): return [y + k for y in x]", k=1),
        made("def f(x): return [y + k for y in x]", k=2),
    ),
    "partials": (functools.partial(int, base=2), functools.partial(int, base=3)),
    "bound methods": (Plain(1).__init__, Plain(2).__init__),
    "built-in methods": ([1].append, [2].append),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME)
def test_the_same(pair: tuple[Any, Any]) -> None:
    assert fingerprint(pair[0]) == fingerprint(pair[1])


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_different(pair: tuple[Any, Any]) -> None:
    assert fingerprint(pair[0]) != fingerprint(pair[1])


def test_many_are_as_each_alone() -> None:
    values = [each for pair in (SAME | DIFFERENT).values() for each in pair]
    many = fingerprints(values)
    assert many == [fingerprint(value) for value in values]
    assert {len(one) for one in many} == {SIZE}


@pytest.mark.parametrize(
    "value",
    [(x for x in [1]), iter([1]), sys.stdin, sys._getframe(), [{"k": (x for x in [])}]],
)
def test_what_cannot_be_recognised_is_an_error(value: Any) -> None:
    with pytest.raises(FingerprintError, match="has no fingerprint"):
        fingerprint(value)


ELSEWHERE = """
import sys
sys.path.insert(0, {folder!r})
import test_fingerprint as t
for name, (one, other) in t.SAME.items():
    print(name, t.fingerprint(one).hex())
"""


def test_in_other_processes_with_other_hash_seeds() -> None:
    def run(seed: str) -> str:
        script = ELSEWHERE.format(folder=str(Path(__file__).parent))
        return subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    first = run("1")
    assert len(first.splitlines()) == len(SAME)
    assert first == run("2")
