"""Values that are the same, or different, on purpose: printed as cache keys, by a process of its own.

    python pairs.py FOLDER

FOLDER holds two Parquet files and a module, see `test_keys`.
"""

import dataclasses
import datetime as dt
import enum
import functools
import json
import re
import sys
import textwrap
import uuid
import zoneinfo
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic

from headrace import open_dataset
from headrace.core.fingerprint import source_parts
from headrace.core.identity import NOBODY, item_ids

SAME, DIFFERENT = True, False
FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Count(enum.IntEnum):
    ONE = 1


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
    tags: set[str] = set()


class Plain:
    def __init__(self, **state: Any) -> None:
        vars(self).update(state)


class Text(str):
    __slots__ = ()


def grown(point: Point) -> Point:
    point.more = 1  # type: ignore[attr-defined]
    return point


def code(text: str, **names: Any) -> Callable[[], bytes]:
    """What the last function of a text, with these globals, is made of."""

    def parts() -> bytes:
        home: dict[str, Any] = {"__name__": "__main__", **names}
        exec(textwrap.dedent(text), home)
        return b"".join(source_parts(home["f"]).values())

    return parts


def adder(number: int) -> Callable[[int], int]:
    def add(value: int) -> int:
        return value + number

    return add


def masked(*mask: bool) -> Any:
    return np.ma.MaskedArray([1, 2], list(mask))


F = "def f(x):\n    return x + 1\n"
HELPER = "def g(x):\n    return x {}\ndef f(x):\n    return g(x)\n"
WORDS = [f"word {i}" for i in range(50)]
RED, GREEN = pd.Categorical(["a"], ["a", "b"]), pd.Categorical(["a"], ["a", "c"])
BERLIN, PARIS = zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Europe/Paris")
NOON = dt.datetime(2026, 1, 1, 12)
NUMBERS = pa.table({"a": [1, 2, 3]})

PAIRS: list[tuple[bool, Callable[[], Any], Callable[[], Any]]] = [
    # scalars
    (SAME, lambda: 10**30, lambda: 10**30),
    (DIFFERENT, lambda: 1, lambda: 1.0),
    (DIFFERENT, lambda: 1, lambda: True),
    (DIFFERENT, lambda: 0, lambda: None),
    (DIFFERENT, lambda: 0.0, lambda: -0.0),
    (SAME, lambda: float("nan"), lambda: float("nan")),
    (DIFFERENT, lambda: "a", lambda: b"a"),
    (DIFFERENT, lambda: "a", lambda: Text("a")),
    (DIFFERENT, lambda: b"a", lambda: bytearray(b"a")),
    (DIFFERENT, lambda: 1, lambda: "1"),
    (DIFFERENT, lambda: 2**63, lambda: -(2**63)),
    (DIFFERENT, lambda: Decimal("1.0"), lambda: Decimal("1.00")),
    (SAME, lambda: Fraction(2, 4), lambda: Fraction(1, 2)),
    # containers
    (SAME, lambda: set(WORDS), lambda: {*WORDS[::-1]}),
    (SAME, lambda: {"a": frozenset(WORDS)}, lambda: {"a": frozenset(WORDS[::-1])}),
    (DIFFERENT, lambda: {1, 2}, lambda: frozenset({1, 2})),
    (DIFFERENT, lambda: (1, 2), lambda: [1, 2]),
    (DIFFERENT, lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
    (DIFFERENT, lambda: [["a"], "b"], lambda: ["a", ["b"]]),
    (DIFFERENT, lambda: ["ab"], lambda: ["a", "b"]),
    (DIFFERENT, lambda: {"a": 1}, lambda: OrderedDict(a=1)),
    (SAME, lambda: Counter("aab"), lambda: Counter("aab")),
    (DIFFERENT, lambda: deque([1]), lambda: deque([1], 5)),
    (DIFFERENT, lambda: [1], lambda: [True]),
    (DIFFERENT, lambda: range(3), lambda: [0, 1, 2]),
    # standard types
    (DIFFERENT, lambda: Colour.RED, lambda: Colour.BLUE),
    (DIFFERENT, lambda: Count.ONE, lambda: 1),
    (DIFFERENT, lambda: NOON.replace(tzinfo=BERLIN), lambda: NOON.replace(tzinfo=PARIS)),
    (DIFFERENT, lambda: NOON, lambda: NOON.replace(tzinfo=dt.UTC)),
    (DIFFERENT, lambda: dt.timedelta(1), lambda: dt.timedelta(0, 1)),
    (SAME, lambda: uuid.UUID(int=5), lambda: uuid.UUID(int=5)),
    (SAME, lambda: Path("a/b"), lambda: Path("a") / "b"),
    (DIFFERENT, lambda: Path("a"), lambda: "a"),
    (DIFFERENT, lambda: re.compile("a"), lambda: re.compile("a", re.IGNORECASE)),
    # records and objects
    (SAME, lambda: Point(1.0), lambda: Point(1.0, 0.0)),
    (DIFFERENT, lambda: Point(1.0), lambda: Spot(1.0)),
    (DIFFERENT, lambda: Point(1.0), lambda: grown(Point(1.0))),
    (DIFFERENT, lambda: Pair(1, 2), lambda: (1, 2)),
    (SAME, lambda: Model(name="a", tags=set(WORDS)), lambda: Model(name="a", tags={*WORDS[::-1]})),
    (DIFFERENT, lambda: Model(name="a"), lambda: Model(name="a", tags={"b"})),
    (SAME, lambda: Plain(a=1, b={"c"}), lambda: Plain(a=1, b={"c"})),
    (DIFFERENT, lambda: Plain(a=1), lambda: Plain(a=1, b=None)),
    # numpy
    (DIFFERENT, lambda: np.int64(1), lambda: 1),
    (DIFFERENT, lambda: np.arange(3), lambda: np.arange(3, dtype=np.int32)),
    (DIFFERENT, lambda: np.zeros((2, 3)), lambda: np.zeros((3, 2))),
    (SAME, lambda: np.zeros((2, 3)), lambda: np.zeros((2, 3), order="F")),
    (SAME, lambda: np.arange(10)[::2], lambda: np.array([0, 2, 4, 6, 8])),
    (DIFFERENT, lambda: masked(False, True), lambda: masked(True, False)),
    (SAME, lambda: np.array(["a", None, {1}], object), lambda: np.array(["a", None, {1}], object)),
    (DIFFERENT, lambda: np.array(["a", 1], object), lambda: np.array(["a", True], object)),
    # Arrow
    (SAME, lambda: NUMBERS, lambda: pa.concat_tables([NUMBERS[:1], NUMBERS[1:]])),
    (SAME, lambda: NUMBERS[1:], lambda: pa.table({"a": [2, 3]})),
    (DIFFERENT, lambda: NUMBERS, lambda: NUMBERS.cast(pa.schema([("a", pa.int32())]))),
    (DIFFERENT, lambda: NUMBERS, lambda: NUMBERS.rename_columns(["b"])),
    (DIFFERENT, lambda: pa.array([1, None]), lambda: pa.array([None, 1])),
    (DIFFERENT, lambda: pa.scalar(1), lambda: pa.scalar(1, pa.int8())),
    # pandas and polars
    (SAME, lambda: pd.DataFrame({"a": WORDS}), lambda: pd.DataFrame({"a": list(WORDS)})),
    (DIFFERENT, lambda: pd.DataFrame({"a": [1]}), lambda: pd.DataFrame({"a": [1]}, index=[5])),
    (DIFFERENT, lambda: pd.Series([1], name="a"), lambda: pd.Series([1], name="b")),
    (DIFFERENT, lambda: pd.DataFrame({"a": RED}), lambda: pd.DataFrame({"a": GREEN})),
    (DIFFERENT, lambda: pd.Timestamp(1, unit="ns"), lambda: pd.Timestamp(2, unit="ns")),
    (DIFFERENT, lambda: pd.Timedelta(1, unit="ns"), lambda: pd.Timedelta(2, unit="ns")),
    (SAME, lambda: pl.DataFrame({"a": [1, 2]}), lambda: pl.concat([pl.DataFrame({"a": [i]}) for i in (1, 2)])),
    (DIFFERENT, lambda: pl.DataFrame({"a": [1]}), lambda: pl.DataFrame({"a": [1.0]})),
    (DIFFERENT, lambda: pl.DataFrame({"a": [1]}), lambda: pa.table({"a": [1]})),
    # partitions of files
    (SAME, lambda: open_dataset(FOLDER / "a.parquet"), lambda: open_dataset(FOLDER / "a.parquet")),
    (DIFFERENT, lambda: open_dataset(FOLDER / "a.parquet"), lambda: open_dataset(FOLDER / "b.parquet")),
    # functions
    (SAME, code(F), code("# told\ndef f(x):\n    # and told\n\n    return x + 1\n")),
    (DIFFERENT, code(F), code(F.replace("1", "2"))),
    (DIFFERENT, code(F), code(F.replace("(x)", "(x, y=0)"))),
    (DIFFERENT, code("def f(x):\n    return x + N\n", N=1), code("def f(x):\n    return x + N\n", N=2)),
    (DIFFERENT, code(HELPER.format("+ 1")), code(HELPER.format("+ 2"))),
    (SAME, code(HELPER.format("+ 1")), code(HELPER.format("+   1"))),
    (DIFFERENT, lambda: adder(1), lambda: adder(2)),
    (SAME, lambda: adder(1), lambda: adder(1)),
    (DIFFERENT, lambda: functools.partial(adder, 1), lambda: functools.partial(adder, number=1)),
    (DIFFERENT, lambda: len, lambda: max),
    (DIFFERENT, lambda: np.sin, lambda: np.cos),
    (SAME, code("def f(x):\n    return x in {'a', 'b', 'c'}\n"), code("def f(x):\n    return x in {'c', 'b', 'a'}\n")),
    (DIFFERENT, code("class C:\n    n = 1\ndef f(x):\n    return C.n\n"), code("class C:\n    n = 2\ndef f(x):\n    return C.n\n")),
    (
        DIFFERENT,
        code("class C:\n    @property\n    def n(self):\n        return 1\ndef f(x):\n    return C().n\n"),
        code("class C:\n    @property\n    def n(self):\n        return 2\ndef f(x):\n    return C().n\n"),
    ),
    (DIFFERENT, code("import helper_a as h\ndef f(x):\n    return h.g(x)\n"), code("import helper_b as h\ndef f(x):\n    return h.g(x)\n")),
    (DIFFERENT, code("def f(x):\n    import helper_a\n    return helper_a\n"), code("def f(x):\n    import helper_b\n    return helper_b\n")),
]  # fmt: skip


def key(value: Any) -> str:
    found = item_ids([[value]])
    assert found != NOBODY, f"{value!r} has no fingerprint"
    return found.hex()


def made(value: Callable[[], Any]) -> Any:
    return value()


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))
    print(json.dumps([(key(made(left)), key(made(right))) for _, left, right in PAIRS]))
