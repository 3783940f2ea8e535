"""Values come back exactly: same type, same value, whatever their neighbours and batches were."""

import dataclasses
import datetime as dt
import enum
import math
import struct
from collections import OrderedDict
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage.batches import commit, encoder

from headrace.core.errors import UnstorableError, UntrustedStoreError
from headrace.core.interfaces import Manifest
from headrace.storage.store import ArrowRunStore, ArrowStore


def same(a: Any, b: Any) -> bool:
    """Exact equality, written apart from the one under test."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return all(map(same, a, b)) and len(a) == len(b) and all(map(same, a.values(), b.values()))
    if isinstance(a, np.ndarray) and a.dtype == object:
        return b.dtype == object and a.shape == b.shape and same(a.tolist(), b.tolist())
    if isinstance(a, (pd.Series, pl.Series)):
        return bool(a.equals(b)) and a.dtype == b.dtype
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (pa.Table, pa.RecordBatch)):
        return bool(a.equals(b, check_metadata=True))
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_freq=True, check_flags=True)
        return True
    if isinstance(a, pl.DataFrame):
        return a.schema == b.schema and a.equals(b)
    if isinstance(a, Decimal):
        return str(a) == str(b)
    if isinstance(a, (dt.datetime, dt.time)):
        return repr(a) == repr(b) and a.fold == b.fold
    return bool(a == b)


def assert_same(got: Any, expected: Any) -> None:
    assert same(got, expected), f"{got!r} is not {expected!r}"


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Pair(NamedTuple):
    a: int
    b: int


BERLIN = ZoneInfo("Europe/Berlin")
RNG = np.random.default_rng(0)

EXAMPLES: list[Any] = [
    0,
    -(2**63),
    2**63 - 1,
    2**63,
    -(2**200),
    True,
    False,
    1.5,
    0.0,
    -0.0,
    math.nan,
    math.inf,
    "",
    "ä\0😀",
    "\ud800 lone",
    b"",
    b"\0\xff",
    bytearray(b"x"),
    None,
    ...,
    (),
    (1, 2),
    (1, "a", None),
    ((1,), [2]),
    [],
    [1, 2, 3],
    [1, 2.5],
    [1, True],
    [None],
    [[1], [], None],
    [2**70],
    ["a", "\ud800"],
    [{"a": 1}, {"b": 2}],
    [{"a": 1}, {"a": 1.5}],
    [{}, {"a": None}],
    [{"a": [1]}, {"a": []}],
    [{"a": []}, {"a": [{}]}],
    [{"a": None}, {"a": [{"b": [None]}]}, {"a": [{"b": [(1,)]}]}],
    [{"a": 1}, 2],
    [{1: 2}],
    {},
    {"a": 1},
    {"b": 1, "a": 2},
    {"a": {}},
    {"a": {"b": [1, {"c": None}]}},
    {"a": (1, 2)},
    {"a": {1, 2}},
    {"a": 2**64, "b": "x"},
    {"a": "\ud800"},
    {"\ud800": 1},
    {"a\0b": 1},
    {"": 1},
    {"ä": -0.0},
    {1: "a"},
    {"a": 1, 2: 3},
    {f"column {i}": i for i in range(600)},
    {"a": {f"key {i}": i for i in range(100)}},
    OrderedDict(a=1),
    {Text("a"): 1},
    {np.str_("a"): 1},
    {True: 1},
    {"a": Number.ONE, "b": Text("t")},
    {"a": np.float32(1.5), "b": np.arange(3.0), "c": np.zeros((2, 2), "i1")},
    {1, 2},
    frozenset({1}),
    Colour.RED,
    Number.ONE,
    Text("sub"),
    Point(1, [2]),
    Pair(1, 2),
    range(3),
    3 + 4j,
    dt.date(2026, 1, 31),
    dt.datetime(1, 1, 1),
    dt.datetime(2026, 10, 25, 2, 30, fold=1),
    dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=dt.timezone(dt.timedelta(hours=-3))),
    dt.time(1, 2, 3),
    dt.time(1, 2, 3, tzinfo=dt.UTC),
    dt.timedelta(days=-1, microseconds=1),
    {"t": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "d": dt.date(1, 1, 1)},
    Decimal("1.50"),
    Decimal("-0"),
    Decimal("NaN"),
    Decimal("1E+50"),
    {"d": Decimal("1.5")},
    UUID("09c1adaa-7f5a-4438-b292-026165540245"),
    int,
    len,
    np.int8(1),
    np.uint64(2**64 - 1),
    np.float16(0.1),
    np.bool_(True),
    np.str_("x"),
    np.datetime64("2026-01-01"),
    np.longdouble(1),
    np.array(5),
    np.arange(3, dtype=">i4"),
    np.array([True, False]),
    np.array([1.5, np.nan], "f2"),
    np.zeros((0, 3)),
    np.asfortranarray(RNG.random((3, 4))),
    RNG.random((2, 3, 4))[:, ::2],
    np.array(["a", "bc"]),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.array([1, "a", None], object),
    np.array(["2026-01-01"], "M8[D]"),
    np.array([1 + 2j]),
    np.ma.array([1, 2], mask=[True, False]),
    pa.table({"a": [1, None], "b": [["x"], []]}),
    pa.table({"a": [1]}).replace_schema_metadata({"k": "v"}),
    pa.table({}),
    pa.table({"a": pa.array(["x", "y", "x"]).dictionary_encode()}),
    pa.table([pa.array([1]), pa.array([2])], names=["same", "same"]),
    pa.table({"a": pa.array([], pa.int8())}),
    pa.table({"a": pa.array([1, 2], pa.time32("s")), "b": pa.nulls(2)}),
    pa.record_batch({"a": [1, 2]}),
    pa.record_batch({"a": pa.array([], pa.string())}),
    pa.array([1, 2]),
    pa.scalar(1),
    pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, np.nan]}),
    pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="key")),
    pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2026-01-01", periods=2, freq="D")),
    pd.DataFrame({"a": [1, 2]}, index=[5, 3]),
    pd.DataFrame({"a": pd.Categorical(["x", "y"], categories=["z", "y", "x"], ordered=True)}),
    pd.DataFrame({"a": [1, "x", None, (1, 2)]}),
    pd.DataFrame({"a": [[1], [2, 3]]}),
    pd.DataFrame(
        {"a": pd.array([1, None], "Int64"), "t": pd.to_datetime(["2026-01-01"] * 2, utc=True)}
    ),
    pd.DataFrame([[1, 2]], columns=["same", "same"]),
    pd.DataFrame({0: [1]}),
    pd.DataFrame(),
    pd.DataFrame({"a": [1]}).iloc[:0],
    pd.Series([1, 2]),
    pl.DataFrame({"a": [1, 2], "b": ["x", None], "c": [[1], []]}),
    pl.DataFrame({"a": ["x", "y"]}, schema={"a": pl.Categorical}),
    pl.DataFrame(),
    pl.Series([1, 2]),
]


@pytest.fixture(scope="module")
def module_run() -> ArrowRunStore:
    return ArrowStore(f"memory://{uuid4()}").run("run-1")


@pytest.mark.parametrize(
    "value", EXAMPLES, ids=lambda v: f"{type(v).__name__}-{v!r}".partition(" object at ")[0][:50]
)
def test_a_value_alone(tmp_path: Any, value: Any):
    run = ArrowStore(tmp_path).run("run-1")
    manifest = commit(run, [value])
    (got,) = run.load_all(manifest)
    assert_same(got, value)


def test_all_values_together_on_every_scheme(run: ArrowRunStore):
    manifest = commit(run, EXAMPLES, [7, 50], inline_bytes=0)
    assert all(receipt.inline is None for receipt in manifest.receipts)
    for got, value in zip(run.load_all(manifest), EXAMPLES, strict=True):
        assert_same(got, value)
    assert run.receipts(0) == sorted(manifest.receipts, key=lambda r: r.part.path)


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_all_values_together_in_every_format(tmp_path: Any, format: str):
    run = ArrowStore(tmp_path, format=format).run("run-1")
    manifest = commit(run, EXAMPLES, inline_bytes=0)
    for got, value in zip(run.load_all(manifest), EXAMPLES, strict=True):
        assert_same(got, value)
    if format == "arrow":
        assert {receipt.part.format for receipt in manifest.receipts} == {"arrow"}


@pytest.mark.parametrize("format", ["arrow", "parquet"])
@pytest.mark.parametrize("metadata", [None, {"by": "me"}])
def test_a_table_s_schema_comes_back_to_the_byte(tmp_path: Any, format: str, metadata: Any):
    run = ArrowStore(tmp_path, format=format).run("run-1")
    table = pa.table({"a": [1, 2]}).replace_schema_metadata(metadata)
    (got,) = run.load_all(commit(run, [table], inline_bytes=0))
    assert got.schema.serialize().equals(table.schema.serialize())


# ------------------------------------------------------------------------- random values, random cuts

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**63) - 2, 2**63 + 2),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.binary(max_size=5),
    st.dates(),
    st.datetimes(timezones=st.sampled_from([None, dt.UTC, BERLIN])),
    st.timedeltas(),
    st.decimals(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from(["a", "b", "c", "\ud800", "d\0"]), inner, max_size=3),
        st.dictionaries(st.one_of(st.integers(0, 2), st.sampled_from("ab")), inner, max_size=2),
        st.lists(st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_size=3),
    ),
    max_leaves=8,
)


@st.composite
def cut_twice(draw: Any, values: Any) -> tuple[list[Any], list[int], list[int]]:
    items = draw(st.lists(values, max_size=12))
    cuts = st.lists(st.integers(0, len(items)), max_size=4).map(sorted)
    return items, draw(cuts), draw(cuts)


@given(cut_twice(VALUES), st.booleans())
@settings(max_examples=150)
def test_results_do_not_depend_on_batches(
    module_run: ArrowRunStore, case: tuple[list[Any], list[int], list[int]], inline: bool
):
    items, one, other = case
    for cuts in (one, other):
        manifest = commit(module_run, items, cuts, inline_bytes=4 << 20 if inline else 0)
        got = module_run.load_all(manifest)
        assert len(got) == len(items)
        for a, b in zip(got, items, strict=True):
            assert_same(a, b)


CELLS = st.one_of(
    st.none(), st.integers(0, 3), st.floats(0, 1), st.lists(st.integers(0, 2), max_size=2)
)
ROWS = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from("abcd"), CELLS, max_size=3),
    st.lists(st.dictionaries(st.sampled_from("abcd"), CELLS, max_size=3), max_size=3),
    st.sampled_from(
        [pa.table({"b": [1, 2]}), pa.table({"e": ["x"]}), pa.table({"a": pa.array([], pa.int8())})]
    ),
)
NUMBERS = st.one_of(st.none(), st.integers(-5, 5), st.floats(0, 1), st.just(np.float32(2)))


@given(cut_twice(ROWS) | cut_twice(NUMBERS))
@settings(max_examples=150)
def test_datasets_do_not_depend_on_batches(
    module_run: ArrowRunStore, case: tuple[list[Any], list[int], list[int]]
):
    items, one, other = case
    outcomes = []
    for cuts in (one, other):
        try:
            dataset = module_run.dataset(commit(module_run, items, cuts))
            table = dataset.to_table()
            assert dataset.num_rows == table.num_rows or not table.column_names
            outcomes.append((table.schema, table.to_pylist()))
        except ValueError as error:
            outcomes.append(str(error).splitlines()[0])
    assert outcomes[0] == outcomes[1]


# --------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ({"a": 1}, lambda v: v.update(a=2, b=3)),
        ({"a": [1], "b": {"c": 1}}, lambda v: (v["a"].append(2), v["b"].update(c=9))),
        ({"a": np.zeros(3)}, lambda v: v["a"].fill(7)),
        ([1, 2], lambda v: v.append(3)),
        ([{"a": 1}], lambda v: (v[0].update(a=2), v.append({}))),
        ({1: [2]}, lambda v: v[1].append(3)),
        (np.zeros(3), lambda v: v.fill(7)),
        (np.zeros((2, 2)), lambda v: v.fill(7)),
        (pd.DataFrame({"a": [1.0, 2.0]}), lambda v: v.iloc.__setitem__((0, 0), 5.0)),
        (pd.DataFrame({"a": [1.0, 2.0]}), lambda v: v.isetitem(0, v["a"] + 1)),
        (bytearray(b"ab"), lambda v: v.extend(b"c")),
    ],
    ids=range(11),
)
def test_what_changes_after_add_does_not_change_the_value(
    local_run: ArrowRunStore, value: Any, change: Any
):
    import copy

    before = copy.deepcopy(value)
    one = encoder(local_run)
    one.add(0, value, 1, 2)
    change(value)
    (got,) = local_run.load_all(Manifest(0, "task-0", one.flush(), 1))
    assert_same(got, before)


def test_arrays_that_come_back_can_be_written_to(local_run: ArrowRunStore):
    manifest = commit(local_run, [np.zeros(3), {"a": np.zeros((2, 2))}], inline_bytes=0)
    flat, row = local_run.load_all(manifest)
    flat[0] = row["a"][0, 0] = 1


# ----------------------------------------------------------------------------------- pickles


def test_what_cannot_be_stored_names_its_type(local_run: ArrowRunStore):
    import threading

    one = encoder(local_run)
    one.add(0, 1, 1, 2)
    odd = pl.DataFrame({"a": [Colour.RED]}, schema={"a": pl.Object})
    for value in (threading.Lock(), {"a": threading.Lock()}, [threading.Lock()], odd):
        with pytest.raises(UnstorableError, match=r"_thread\.lock|list|DataFrame"):
            one.add(1, value, 1, 2)
    (receipt,) = one.flush()
    assert list(receipt.positions) == [0]


def test_a_value_for_which_there_is_no_room_is_no_odd_value(local_run: ArrowRunStore):
    class Large:
        def __reduce__(self):
            raise MemoryError

    with pytest.raises(MemoryError):
        encoder(local_run).add(0, Large(), 1, 2)


def test_functions_and_local_classes_are_stored_by_value(local_run: ArrowRunStore):
    class Local:
        pass

    made = Local()
    made.x = lambda y: y + 1  # type: ignore[attr-defined]
    (got,) = local_run.load_all(commit(local_run, [made]))
    assert got.x(1) == 2


def test_pickles_are_loaded_from_trusted_stores_alone(tmp_path: Any):
    manifest = commit(ArrowStore(tmp_path).run("r"), [1, {1}, {"a": {1}}, "x"])
    wary = ArrowStore(tmp_path, trust=False).run("r")
    kinds = {receipt.part.kind: receipt for receipt in manifest.receipts}
    for kind in ("pickled", "row"):
        with pytest.raises(UntrustedStoreError, match="not trusted"):
            wary.load_all(Manifest(0, "k", (kinds[kind],), 1))
    assert wary.load_all(Manifest(0, "k", (kinds["int"],), 1)) == [1]
