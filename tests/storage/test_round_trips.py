"""Whatever Arrow types rows have, they come back from the formats that headrace writes and reads."""

import datetime as dt
import json
import tempfile
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow.csv import write_csv

from headrace.storage.datasets import dataset_of_table, open_dataset
from headrace.storage.shares import plain_schema
from headrace.storage.store import ArrowStore

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
INSTANTS = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1))
FLAT: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()),
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.string(), TEXT),
    (pa.large_string(), TEXT),
    (pa.binary(), st.binary(max_size=5)),
    (pa.large_binary(), st.binary(max_size=5)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.decimal128(20, 3), st.integers(-(10**19), 10**19).map(lambda n: Decimal(n).scaleb(-3))),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (
        pa.duration("ms"),
        st.integers(-(10**12), 10**12).map(lambda n: dt.timedelta(0, 0, 0, n)),
    ),
    (pa.timestamp("us"), INSTANTS),
    (
        pa.timestamp("ms", "UTC"),
        INSTANTS.map(lambda t: t.replace(microsecond=0, tzinfo=dt.UTC)),
    ),
    (pa.timestamp("us", "Europe/Berlin"), INSTANTS.map(lambda t: t.replace(tzinfo=dt.UTC))),
    (pa.dictionary(pa.int32(), pa.string()), TEXT),
]


def nested(kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists, structs and maps of typed values."""
    return kinds.flatmap(
        lambda pair: st.sampled_from(
            [
                (pa.list_(pair[0]), st.lists(maybe(pair[1]), max_size=3)),
                (pa.large_list(pair[0]), st.lists(maybe(pair[1]), max_size=3)),
                (
                    pa.struct([("x", pair[0]), ("y", pa.int16())]),
                    st.fixed_dictionaries({"x": maybe(pair[1]), "y": st.just(1)}),
                ),
                (
                    pa.map_(pa.string(), pair[0]),
                    st.dictionaries(TEXT, maybe(pair[1]), max_size=2).map(
                        lambda d: list(d.items())
                    ),
                ),
            ]
        )
    )


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


COLUMNS = st.recursive(st.sampled_from(FLAT), nested, max_leaves=2)


@st.composite
def tables(draw: st.DrawFn) -> Any:
    kinds = draw(st.lists(COLUMNS, max_size=4))
    rows = draw(st.integers(0, 12))
    arrays = [
        pa.array(draw(st.lists(maybe(values), min_size=rows, max_size=rows)), kind)
        for kind, values in kinds
    ]
    return pa.table(arrays, names=[f"c{n}" for n in range(len(arrays))])


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@given(table=tables(), most=st.sampled_from([None, 5]))
@example(table=pa.table({"c0": pa.array([[None, None]], pa.list_(pa.null()))}), most=None)
@example(
    table=pa.table(
        {"c0": pa.array([None, {"x": None}], pa.struct([("x", pa.dictionary(pa.int32(), "str"))]))}
    ),
    most=None,
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_tables_come_back(table: Any, most: int | None, format: str):
    with tempfile.TemporaryDirectory() as folder:
        dataset_of_table(table).write(folder, format, max_rows_per_file=most)
        back = open_dataset(Path(folder))
        schema = plain_schema(table.schema, categories=format == "parquet")
        assert back.schema.equals(schema)
        # As values: Arrow takes chunks whose dictionaries differ for unequal.
        assert back.to_table().to_pylist() == table.to_pylist()
        parts = [part.to_table() for part in back.partitions(bytes=1)]
        assert all(part.schema.equals(schema) for part in parts)
        assert [row for part in parts for row in part.to_pylist()] == table.to_pylist()


LINES = [pair for pair in FLAT if pair[0] in {pa.bool_(), pa.int64(), pa.float64(), pa.date32()}]
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


@st.composite
def lines(draw: st.DrawFn, *, nested: bool) -> Any:
    """Rows as files of lines can have them: numbers, dates, texts with whatever is in them."""
    kinds: list[Any] = draw(st.lists(st.sampled_from(LINES), max_size=3))
    if nested:
        kinds = [pair for pair in kinds if pair[0] != pa.date32()]
        kinds += [(pa.list_(kind), st.lists(values, max_size=3)) for kind, values in kinds]
    rows = draw(st.integers(1, 12))
    arrays = [
        pa.array(draw(st.lists(maybe(values), min_size=rows, max_size=rows)), kind)
        for kind, values in kinds
    ]
    texts = pa.array(draw(st.lists(PLAIN, min_size=rows, max_size=rows)), pa.string())
    arrays = [pa.array(range(rows)), texts, *arrays]
    return pa.table(arrays, names=[f"c{n}" for n in range(len(arrays))])


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@given(data=st.data())
@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_lines_come_back_whole_and_in_pieces(store: ArrowStore, ending: str, data: st.DataObject):
    table = data.draw(lines(nested=ending == "jsonl"))
    options = dict(store.storage_options)
    url = f"{store.url}/{uuid.uuid4()}/rows.{ending}"
    with fsspec.open(url, "wb", auto_mkdir=True, **options) as opened:
        file: Any = opened
        if ending == "csv":
            write_csv(table, file)
        else:
            file.writelines(json.dumps(row).encode() + b"\n" for row in table.to_pylist())
    back = open_dataset(url, storage_options=options, schema=table.schema)
    assert back.to_table().equals(table)
    parts = [part.to_table() for part in back.partitions(bytes=data.draw(st.integers(1, 64)))]
    assert pa.concat_tables(parts).equals(table)
