"""Rows one by one as pydantic models: those that do not fit are set aside, with the reason."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, Field, ValidationError

import headrace
from headrace import INPUTS, Dataset, flow, task
from headrace.storage.modelrows import ModelRows
from headrace.storage.store import ArrowStore


class Document(BaseModel):
    text: str = Field(min_length=1)
    words: int = Field(ge=0)
    day: date | None = None


class Kind(Enum):
    PROSE = "prose"


class Counted(BaseModel):
    text: str = Field(max_length=8)
    kind: Kind = Kind.PROSE
    id: UUID = UUID(int=7)


@pytest.fixture
def raw(tmp_path: Path) -> Dataset:
    """Two files of five rows; in each rows 1 and 3 are no documents, and row 4 is long."""
    for number in range(2):
        rows: list[dict[str, Any]] = [
            {"text": f"a{number}", "words": "1", "day": "2026-01-02"},
            {"text": "", "words": "2", "day": None},
            {"text": f"c{number}", "words": "3", "day": None},
            {"text": None, "words": "many", "day": None},
            {"text": f"longer than eight {number}", "words": "5", "day": None},
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{number}.parquet")
    return headrace.open_dataset(tmp_path)


@task
def clean(row: Document, least: int = 1) -> Document | None:
    return None if row.words < least else row


@task
def count(row: Document) -> Iterator[Counted]:
    for _ in range(2):
        yield Counted(text=row.text)


WRONG = "text: String should have at least 1 character"
WORSE = (
    "text: Input should be a valid string; words: Input should be a valid integer, unable to parse "
    "string as an integer"
)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_rows_that_do_not_fit_are_set_aside_with_the_reason(raw: Dataset, executor: str):
    @flow(executor=executor)
    def run() -> tuple[Any, Any]:
        future = clean.map(raw.partitions(files=1), least=headrace.unmapped(2))
        return future.dataset().to_table().to_pylist(), future.quarantined().to_table()

    rows, aside = run()
    assert rows == [
        {"text": text, "words": words, "day": None}
        for number in range(2)
        for text, words in ((f"c{number}", 3), (f"longer than eight {number}", 5))
    ]
    assert aside.select(["quarantine_item", "quarantine_row", "quarantine_field"]).to_pylist() == [
        {"quarantine_item": item, "quarantine_row": row, "quarantine_field": "text"}
        for item in (0, 1)
        for row in (1, 3)
    ]
    assert aside["quarantine_reason"].to_pylist() == [WRONG, WORSE] * 2
    assert aside["words"].to_pylist() == ["2", "many"] * 2


def test_a_function_makes_several_rows_of_one_or_finds_that_it_makes_none(raw: Dataset):
    @flow(executor="threads")
    def run() -> tuple[Any, Any]:
        future = count.map(raw.partitions(files=1))
        return future.dataset().to_table(), future.quarantined().to_table()

    rows, aside = run()
    assert rows["text"].to_pylist() == ["a0", "a0", "c0", "c0", "a1", "a1", "c1", "c1"]
    assert rows["kind"].type == pa.string()
    assert set(rows["id"].to_pylist()) == {str(UUID(int=7))}
    assert aside["quarantine_row"].to_pylist() == [1, 3, 4] * 2


def test_an_error_of_the_function_is_the_items(raw: Dataset):
    @task
    def broken(row: Document) -> Document:
        raise KeyError(row.text)

    @flow(executor="inline")
    def run() -> Any:
        return broken.map(raw.partitions(files=1)).failures()

    assert run()["exception"].to_pylist() == ["KeyError", "KeyError"]


def test_where_no_row_fits_the_partition_is_empty(store: ArrowStore):
    table = pa.table({"text": [""] * 3, "words": [1] * 3})
    good = pa.table({"text": ["x"], "words": [1]})

    @flow(executor="inline", storage=store)
    def run() -> tuple[Any, Any, Any]:
        future = clean.map([table, good])
        return future.result(), future.dataset().to_table(), future.quarantined().num_rows

    values, rows, aside = run()
    assert values == [[], [{"text": "x", "words": 1, "day": None}]]
    assert (rows.num_rows, aside) == (1, 3)


def test_nothing_is_set_aside_where_all_rows_fit():
    @flow(executor="inline")
    def run() -> Any:
        return clean.map([pa.table({"text": ["x"], "words": [1]})]).quarantined()

    assert run().num_rows == 0
    assert run().schema.names[0] == "quarantine_row"


def test_a_model_itself_passes_unchanged():
    @flow(executor="inline")
    def run() -> Any:
        return clean.map([Document(text="x", words=2)]).result()

    assert run() == [Document(text="x", words=2)]


def test_a_resume_and_the_cache_find_what_was_set_aside(raw: Dataset, tmp_path: Path):
    gate = tmp_path / "gate"

    @task(cache_policy=INPUTS, retries=0)
    def picky(row: Document) -> Document:
        if row.text.endswith("1") and not gate.exists():
            raise RuntimeError("not yet")
        return row

    @flow(executor="inline")
    def run() -> tuple[int, int]:
        future = picky.map(raw.partitions(files=1))
        future.wait()
        return future.dataset().num_rows, future.quarantined().num_rows

    failed = run.start()
    failed.wait()
    assert failed.state.is_failed()
    gate.touch()
    resumed = failed.resume()
    assert resumed.result() == (6, 4)
    aside = headrace.attach(resumed.id).quarantined("picky-0").to_table()
    assert aside.equals(resumed.quarantined("picky-0").to_table())
    assert aside["quarantine_item"].to_pylist() == [0, 0, 1, 1]
    assert run() == (6, 4)


def test_rows_are_validated_thousands_at_a_time():
    called: list[int] = []

    class Odd(BaseModel):
        n: int = Field(multiple_of=2)

    def one(row: Odd) -> Odd:
        called.append(row.n)
        return row

    table = pa.table({"n": range(10_000)})
    stream = ModelRows(table.to_reader(max_chunksize=3000), Odd).__headrace_rows__(one)
    aside: list[Any] = []
    stream.set_aside = aside.append
    assert [row["n"] for row in stream] == called == list(range(0, 10_000, 2))
    assert pa.concat_tables(aside)["quarantine_row"].to_pylist() == list(range(1, 10_000, 2))
    with pytest.raises(ValidationError):
        Odd(n=1)


SCRIPT = """
from __future__ import annotations
import pyarrow as pa
from pydantic import BaseModel
from headrace import flow, task

class Row(BaseModel):
    n: int

@task
def keep(row: Row) -> Row:
    return row

@flow(executor="processes")
def run():
    future = keep.map([pa.table({"n": ["1", "x"]})])
    return future.result(), future.quarantined().to_table()["n"].to_pylist()

print(run())
"""


def test_a_scripts_own_model_travels(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "([[{'n': 1}]], ['x'])" in done.stdout, done.stderr


@pytest.mark.parametrize("unmapped", [True, False])
def test_rows_come_to_a_plain_function_from_one_argument(unmapped: bool):
    table = pa.table({"text": ["x"], "words": [1]})

    @task
    def both(row: Document, other: Document) -> Document:
        return row or other

    @flow(executor="inline")
    def run() -> Any:
        other: Any = headrace.unmapped(table) if unmapped else [table]
        return both.map([table], other).result()

    with pytest.raises(Exception, match=r"map over what has them|rows come to a plain function"):
        run()


class Price(BaseModel):
    amount: Decimal
    owner: UUID


class Offer(BaseModel):
    title: str
    kinds: list[Kind]
    prices: dict[str, Price] | None = None
    listed: list[Price] = []
    pair: tuple[float, float] = (1.0, 0.5)
    rate: Decimal
    at: datetime = datetime(2026, 1, 2)
    of: Literal["a", "b"] | None = None


OFFERS = [
    Offer(
        title=str(number),
        kinds=[Kind.PROSE] * number,
        prices={"us": Price(amount=Decimal(amount), owner=UUID(int=number))},
        listed=[Price(amount=Decimal(amount), owner=UUID(int=9))] * number,
        rate=Decimal(rate),
    )
    for number, (amount, rate) in enumerate([("1.5", "10"), ("10.25", "0.125"), ("7", "100")])
]


@task
def offered(row: Document) -> Offer | None:
    return OFFERS[row.words]


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_what_lies_within_models_is_arrow_and_comes_back_as_the_model(tmp_path: Path, format: str):
    table = pa.table({"text": ["x"] * 3, "words": range(3)})

    @flow(executor="inline", storage=ArrowStore(tmp_path, format=format))
    def run() -> Any:
        return offered.map([table]).dataset().to_table()

    found = run()
    amount = pa.struct([("amount", pa.decimal128(4, 2)), ("owner", pa.string())])
    assert found.schema.remove_metadata().equals(
        pa.schema(
            [
                ("title", pa.string()),
                ("kinds", pa.list_(pa.string())),
                ("prices", pa.struct([("us", amount)])),
                ("listed", pa.list_(amount)),
                ("pair", pa.list_(pa.float64())),
                ("rate", pa.decimal128(6, 3)),
                ("at", pa.timestamp("us")),
                ("of", pa.null()),
            ]
        )
    )
    assert not any(field.metadata for field in found.schema), "nothing is pickled"
    assert [Offer.model_validate(row) for row in found.to_pylist()] == OFFERS


def test_where_no_row_fits_the_columns_are_those_that_the_task_declares():
    bad = pa.table({"text": [""], "words": [0]})
    good = pa.table({"text": ["x"], "words": [1]})

    @flow(executor="processes")
    def run() -> Any:
        none, some = offered.map([bad]), offered.map([bad, good])
        return none.dataset().to_table(), some.dataset().to_table(), none.result()

    none, some, values = run()
    assert (none.num_rows, some.num_rows, values) == (0, 1, [[]])
    declared = {
        name: str(kind) for name, kind in zip(none.schema.names, none.schema.types, strict=True)
    }
    assert declared == {
        "title": "string",
        "kinds": "list<item: string>",
        "prices": "null",
        "listed": "list<item: struct<amount: null, owner: string>>",
        "pair": "list<item: double>",
        "rate": "null",
        "at": "timestamp[us]",
        "of": "string",
    }
    assert some.schema.names == none.schema.names
    assert some.schema.field("rate").type == pa.decimal128(3, 3)
    assert some.schema.field("of").type == pa.string(), "a null says less than the model"
