"""Every partition tells what made it, of which inputs; a dataset's lineage goes back to the first files."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import headrace
from headrace import Dataset, flow, task
from headrace.storage.store import ArrowStore


@pytest.fixture
def raw(tmp_path: Path) -> Dataset:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(4):
        pq.write_table(
            pa.table({"n": range(number * 10, number * 10 + 10)}), folder / f"{number}.parquet"
        )
    return headrace.open_dataset(folder)


@task
def clean(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


@task
def stream(rows: pa.RecordBatchReader) -> Iterator[Any]:
    yield from rows


@task
def total(rows: pa.Table) -> int:
    return int(pc.sum(rows["n"]).as_py())


def tasks_of(dataset: Dataset) -> dict[str, int]:
    return {task: outputs for task, _, _, outputs, _ in dataset.lineage().by_task()}


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_written_folder_knows_the_files_that_all_began_with(
    raw: Dataset, tmp_path: Path, executor: str
):
    @flow(executor=executor)
    def run() -> Dataset:
        made = stream.map(clean.map(raw.partitions(files=1))).dataset()
        return made.sort("n").write(tmp_path / "out")

    run()
    lineage = headrace.open_dataset(tmp_path / "out").lineage()
    assert lineage.sources == raw.files
    told = {task for task, *_ in lineage.by_task()}
    assert {"clean-0 > stream-0"} & told or {"clean-0", "stream-0"} <= told
    assert any(task.startswith("sort-gather") for task in told)
    of = {task: inputs for task, *_, inputs in lineage.by_task()}
    assert "of sort-sample-keys-0" in of["sort-choose-cuts-0"], "which were given as a whole map"
    (out,) = lineage.first
    assert lineage.of(out) == raw.files
    codes = {code for task, _, code, *_ in lineage.by_task() if "stream" in task}
    assert len(codes) == 1
    assert all(len(code) == 32 for code in codes)
    assert "4 source files" in repr(lineage)
    assert "write-0" in lineage._repr_html_()
    table = lineage.to_table()
    assert table.num_rows == len(lineage.steps)
    assert set(table["state"].to_pylist()) == {"made", "source", "folder"}


def test_each_partition_knows_its_own_input(raw: Dataset):
    @flow(executor="inline")
    def run() -> Dataset:
        return stream.map(raw.partitions(files=2)).dataset()  # each is a partition of its own

    lineage = run().lineage()
    assert [lineage.of(each) for each in lineage.first] == [raw.files[:2], raw.files[2:]]
    stamps = {step.output: step.stamp for step in lineage.steps.values() if step.state == "source"}
    assert stamps == {piece.name: piece.origin[1] for piece in raw.pieces if piece.origin}


def test_values_of_a_whole_map_and_of_single_calls_are_inputs(raw: Dataset):
    @task
    def both(numbers: list[int], first: int) -> pa.Table:
        return pa.table({"n": [*numbers, first]})

    @flow(executor="threads")
    def run() -> Dataset:
        totals = total.map(raw.partitions(files=1))
        return both.map([totals], first=[totals[0]]).dataset()

    dataset = run()
    assert dataset.lineage().sources == raw.files
    assert {"both-0", "total-0"} <= tasks_of(dataset).keys()


def test_a_plain_map_tells_its_code_and_has_no_inputs():
    @task
    def square(x: int) -> int:
        return x * x

    @flow(executor="threads")
    def run() -> Dataset:
        return square.map(range(1000)).dataset()

    lineage = run().lineage()
    assert lineage.sources == []
    assert {step.inputs for step in lineage.steps.values()} == {()}
    assert {step.task for step in lineage.steps.values()} == {"square-0"}


def test_what_is_gone_is_told(raw: Dataset, tmp_path: Path):
    @flow(executor="inline", storage=str(tmp_path / "store"))
    def run() -> Dataset:
        return clean.map(raw.partitions(files=1)).dataset().write(tmp_path / "out")

    written = run()
    assert written.lineage().sources == raw.files
    shutil.rmtree(tmp_path / "store")
    assert {step.state for step in written.lineage().steps.values()} == {"made", "gone"}
    assert "gone" in repr(written.lineage())


def test_many_inputs_are_listed_in_an_object_of_their_own(tmp_path: Path, store: ArrowStore):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:03d}.csv").write_text(f"n\n{number}\n")

    @flow(executor="inline", storage=store)
    def run() -> Dataset:
        return stream.map(headrace.open_dataset(folder).partitions()).dataset()

    dataset = run()
    (piece,) = dataset.pieces
    assert len(piece.open().header.lineage["inputs"]) == 1  # type: ignore[attr-defined]
    assert len(dataset.lineage().sources) == 100


def test_partitions_that_are_opened_as_files_know_it_too(raw: Dataset, tmp_path: Path):
    @flow(executor="inline", storage=str(tmp_path / "store"))
    def run() -> Dataset:
        return clean.map(raw.partitions(files=1)).dataset()

    run()
    opened = headrace.open_dataset(str(tmp_path / "store" / "*" / "data" / "00000" / "*.arrow"))
    assert opened.lineage().sources == raw.files


def test_a_dataset_that_is_written_outside_of_a_flow_knows_it(raw: Dataset, tmp_path: Path):
    written = raw.write(tmp_path / "out", "arrow")
    assert written.lineage().sources == raw.files


def names(parts: list[Any]) -> set[tuple[str, str]]:
    """Runs and nodes of partitions."""
    keys = {run: headrace.attach(run).nodes() for run in {part.run for part in parts}}
    return {
        (headrace.attach(part.run).record().flow, node.key)
        for part in parts
        for node in keys[part.run]
        if node.node == part.node
    }


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_history_tells_what_was_made_of_a_file(raw: Dataset, executor: str):
    @flow(executor=executor)
    def first() -> Dataset:
        return clean.map(raw.partitions(files=2)).dataset()

    @flow(executor=executor)
    def second(rows: Dataset) -> int:
        plain = total.map([pa.table({"n": [1]})])
        return sum(total.map(rows.partitions(files=1)).result()) + plain.result()[0]

    one = first.start()
    made = one.result()
    other = second.start(made)
    other.wait()
    assert len(one.partitions()) == 2
    assert [part.inputs for part in one.partitions("clean-0", made_from=raw.files[0])] == [
        tuple(piece.origin for piece in raw.pieces[:1])
    ]
    for file in (raw.files[0], raw.files[3]):
        told = [*one.partitions(made_from=file), *other.partitions(made_from=file)]
        assert len(told) == 2
        assert names(told) == {("first", "clean-0"), ("second", "total-1")}
        ours = headrace.runs(made_from=file)
        assert [run.id for run in ours] == [other.id, one.id]
        assert headrace.runs(made_from=file, flow="first") == ours[1:]
    (made_of_last,) = one.partitions(made_from=raw.files[3])
    assert [f"{one.info.store.url}/{one.id}/{made_of_last.path}"] == made.files[1:]
    codes = {step.code for step in made.lineage().steps.values() if step.state == "made"}
    assert {made_of_last.code} == codes
    assert other.partitions("total-0")[0].inputs == ()


def test_history_finds_a_file_in_a_list_of_inputs_and_after_its_rows_were_dropped(tmp_path: Path):
    table = pa.table({"n": [1]})
    for number in range(70):
        pq.write_table(table, tmp_path / f"{number:02d}.parquet")

    @flow(executor="threads", intermediates="drop")
    def many() -> int:
        cleaned = clean.map(headrace.open_dataset(tmp_path).partitions())
        return stream.map(cleaned).dataset().num_rows

    run = many.start()
    run.wait()
    told = run.partitions(made_from=str(tmp_path / "42.parquet"))
    assert names(told) >= {("many", "stream-0")}
    assert run.partitions(made_from=str(tmp_path / "70.parquet")) == []
