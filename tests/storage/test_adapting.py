"""The annotation decides the form in which Arrow data comes; other values pass unchanged."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Optional

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from storage.batches import commit

from headrace import flow, task
from headrace.core.hints import form_of, hints_of, plain
from headrace.storage.adapting import adapt
from headrace.storage.datasets import Dataset
from headrace.storage.store import ArrowRunStore

ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
TABLE = pa.Table.from_pylist(ROWS)
VALUES = [
    TABLE,
    TABLE.to_batches()[0],
    TABLE.to_pandas(),
    pl.DataFrame(TABLE),
    pl.LazyFrame(TABLE),
    ROWS,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_every_form_becomes_every_other(value: Any):
    def table_of(got: Any) -> Any:
        return got.to_table() if isinstance(got, Dataset) else got.read_all()

    assert adapt(value, pa.Table).to_pylist() == ROWS
    assert adapt(value, pa.RecordBatch).to_pylist() == ROWS
    assert adapt(value, list[dict]) == ROWS  # type: ignore[type-arg]
    assert adapt(value, list[dict[str, Any]]) == ROWS
    pd.testing.assert_frame_equal(adapt(value, pd.DataFrame), TABLE.to_pandas())
    assert adapt(value, pl.DataFrame).rows() == [(1, "x"), (2, None)]
    assert adapt(value, pl.LazyFrame).collect().rows() == [(1, "x"), (2, None)]
    for streaming in (pa.RecordBatchReader, Dataset):
        got = adapt(value, streaming)
        assert isinstance(got, streaming)
        assert table_of(got).to_pylist() == ROWS


@pytest.mark.parametrize(
    ("annotation", "form"),
    [
        (Optional[pa.Table], "table"),  # noqa: UP045
        (int | pd.DataFrame, "pandas"),
        (Annotated[pl.DataFrame, "note"], "polars"),
        (Sequence[dict[str, Any]], "rows"),
        ("pa.Table", "table"),
        ("pandas.DataFrame | None", "pandas"),
        ("list[dict[str, int]]", "rows"),
        (list[int], None),
        (list, None),
        (dict, None),
        (Any, None),
        (None, None),
        (int, None),
        ("int", None),
        (pa.Array, None),
    ],
    ids=str,
)
def test_annotations_are_read(annotation: Any, form: str | None):
    assert form_of(annotation) == form
    assert form_of(plain(annotation)) == form


@pytest.mark.parametrize(
    "value",
    [1, "x", None, [], [1], {"a": 1}, pa.array([1]), pd.Series([1])],
    ids=lambda value: type(value).__name__,  # a repr may differ between processes
)
def test_what_is_no_table_passes_unchanged(value: Any):
    for annotation in (pa.Table, pd.DataFrame, list[dict[Any, Any]], int, None):
        assert adapt(value, annotation) is value


def test_the_wanted_form_passes_unchanged():
    for value in VALUES[:5]:
        assert adapt(value, type(value)) is value
        assert adapt(value, None) is value
        assert adapt(value, int) is value


def test_a_nodes_values_come_in_the_form_that_is_asked_for(local_run: ArrowRunStore):
    manifest = commit(local_run, [{"a": 1}, {"a": 2}, {"b": "x"}], [1])
    assert local_run.load_all(manifest) == [{"a": 1}, {"a": 2}, {"b": "x"}]
    assert local_run.load_all(manifest, list[dict[Any, Any]]) == [{"a": 1}, {"a": 2}, {"b": "x"}]
    assert local_run.load_all(manifest, list) == [{"a": 1}, {"a": 2}, {"b": "x"}]
    assert local_run.load_all(manifest, pa.Table).to_pydict() == {
        "a": [1, 2, None],
        "b": [None, None, "x"],
    }
    assert local_run.load_all(manifest, pl.DataFrame).shape == (3, 2)
    assert isinstance(local_run.load_all(manifest, Dataset), Dataset)
    lists = commit(local_run, [[{"a": 1}], [], [{"a": 2}]], node=1)
    assert local_run.load_all(lists, list[dict[Any, Any]]) == [{"a": 1}, {"a": 2}]


def test_frames_are_imported_by_those_who_use_them():
    code = (
        "import sys, headrace.storage.adapting as a, headrace.storage.encoding, headrace.storage.datasets;"
        "assert a.adapt(1, 'pd.DataFrame') == 1;"
        "assert not {'pandas', 'polars', 's3fs', 'gcsfs'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------- annotations as texts


def test_names_of_functions_around_are_found_and_one_that_is_missing_spoils_no_other():
    import decimal as around

    def late(here, missing, number):
        return around.Decimal(number)

    late.__annotations__ = {"here": "around.Decimal", "missing": "nowhere.Thing", "number": "int"}
    assert hints_of(late) == {"here": around.Decimal, "number": int}


@pytest.mark.parametrize(
    "text", ["pl.DataFrame", "polars.DataFrame | None", "list[dict[str, int]]"]
)
def test_a_task_gets_the_form_whose_name_was_imported_for_checkers_alone(text: str):
    def first(rows, other=None):
        return [type(rows).__module__.partition(".")[0], type(rows).__name__]

    first.__annotations__ = {"rows": text, "other": "nowhere.Thing"}

    @flow(executor="inline")
    def job() -> list[str]:
        return task(first).map([TABLE])[0].result()

    expected = ["builtins", "list"] if "list" in text else ["polars", "DataFrame"]
    assert job() == expected


def test_a_form_beside_a_class_of_the_users_needs_the_class_on_no_worker():
    class Local: ...

    def kind(rows):
        return type(rows).__name__

    kind.__annotations__ = {"rows": Local | pd.DataFrame}

    @flow(executor="inline")
    def job() -> list[str]:
        return task(kind).map([TABLE, Local()]).result()

    assert job() == ["DataFrame", "Local"]


class Columns:
    """A callable object, whose class has annotations of its own."""

    rows: int = 3

    def __call__(self, rows: pd.DataFrame, number: int = 1) -> list[str]:
        return [type(rows).__name__, *rows.columns] * number


def test_a_callable_object_gets_what_its_call_is_annotated_with():
    assert hints_of(Columns()) == {"rows": pd.DataFrame, "number": int, "return": list[str]}
    assert hints_of(Columns) == {"rows": int}

    @flow(executor="inline")
    def job() -> list[str]:
        return task(Columns()).map([TABLE])[0].result()

    assert job() == ["DataFrame", *TABLE.column_names]


@pytest.mark.parametrize("intermediates", ["keep", "drop"])
def test_the_next_task_gets_what_a_schema_made_of_a_value(intermediates: Any):
    @task(schema=pa.schema([("n", pa.int8())]))
    def small(n: int) -> pa.Table:
        return pa.table({"n": [n]})

    @task
    def kind(rows: pa.Table) -> str:
        return str(rows.schema.field("n").type)

    @flow(executor="inline", intermediates=intermediates)
    def both() -> list[str]:
        return kind.map(small.map([1, 2])).result()

    assert both() == ["int8", "int8"]


def test_a_lazy_frame_that_is_returned_is_rows():
    @task
    def lazy(n: int) -> pl.LazyFrame:
        return pl.LazyFrame({"n": [n]})

    @flow(executor="inline")
    def frames() -> tuple[list[Any], Any]:
        made = lazy.map([1, 2])
        return made.result(), made.dataset().to_table()

    values, table = frames()
    assert [type(each) for each in values] == [pl.LazyFrame, pl.LazyFrame]
    assert values[1].collect().to_dict(as_series=False) == {"n": [2]}
    assert table.to_pydict() == {"n": [1, 2]}
