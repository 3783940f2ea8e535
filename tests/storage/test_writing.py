"""Writing on an executor: plain files in order, all at once or not at all, whoever dies meanwhile."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from storage.batches import commit
from storage.stores import make_store

import headrace
from headrace import flow, open_dataset, task
from headrace.core.errors import (
    AlreadyExistsError,
    ConfigurationError,
    NotFoundError,
    StorageError,
)
from headrace.core.packing import SecretError, pack
from headrace.storage.datasets import Dataset
from headrace.storage.localfiles import LocalObjects
from headrace.storage.locations import parse_location
from headrace.storage.opening import MANIFEST
from headrace.storage.store import ArrowRunStore
from headrace.storage.targets import STAGING, Target


def rows(first: int, count: int) -> Any:
    number = np.arange(first, first + count)
    kind = np.where(number % 5 < 2, 0, number % 5)  # one of them has 40 %
    return pa.table({"n": number, "kind": pa.array(kind).cast(pa.string()), "x": number / 2})


TABLE = rows(0, 1000)


@task
def part(first: int) -> pa.Table:
    return rows(first, 100)


def visible(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# The run that finds a folder there cancels its items: a thread is struck wherever it is, also between open and with.
@pytest.mark.filterwarnings("ignore:unclosed file .*tmp-:ResourceWarning")
@pytest.mark.parametrize(
    ("executor", "format"), [("threads", "parquet"), ("processes", "arrow"), ("inline", "parquet")]
)
def test_a_flow_writes_on_its_executor(executor: str, format: str, tmp_path: Path):
    target = tmp_path / "out"

    @flow(executor=executor, intermediates="drop")
    def job(mode: str, count: int) -> Dataset:
        made = part.map(range(0, count, 100)).dataset().sort("n", partition_bytes=5000)
        return made.write(target, format, mode=mode, max_rows_per_file=150)

    run = job.start("error", 1000)
    written = run.result()
    assert written.to_table().equals(TABLE)
    assert {node.key: node.counts["Completed"] for node in run.nodes()}["write-0"] == 7
    manifest = json.loads((target / MANIFEST).read_text())
    assert [file["rows"] for file in manifest["files"]] == [150] * 6 + [100]
    assert visible(target) == [MANIFEST, *(file["path"] for file in manifest["files"])]
    with pytest.raises(AlreadyExistsError, match="mode="):
        job("error", 100)
    assert job("ignore", 100).num_rows == 1000
    assert job("append", 100).to_table().equals(pa.concat_tables([TABLE, rows(0, 100)]))
    assert job("overwrite", 300).to_table().equals(rows(0, 300))
    assert len(visible(target)) == 3


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_outside_of_a_flow_it_is_a_run_of_its_own(
    executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HEADRACE_EXECUTOR", executor)
    for number in range(4):
        pq.write_table(rows(number * 100, 100), tmp_path / f"{number}.parquet")
    written = open_dataset(tmp_path / "*.parquet").write(tmp_path / "out", max_rows_per_file=100)
    assert written.to_table().equals(rows(0, 400))
    run, *earlier = headrace.runs(flow="dataset-write")
    counts = {node.key: node.counts["Completed"] for node in headrace.attach(run.id).nodes()}
    assert counts == {"write-begin-0": 1, "write-0": 4, "write-commit-0": 1}
    assert {step.run for step in written.lineage().steps.values() if step.task} == {str(run.id)}
    with pytest.raises(ConfigurationError, match="mode"):
        written.write(tmp_path / "out", mode="anew")
    assert headrace.runs(flow="dataset-write") == [run, *earlier]


def test_memory_is_not_written_from_other_processes(tmp_path: Path):
    @flow(executor="processes")
    def write() -> Dataset:
        return part.map([0]).dataset().write("memory://unseen/out")

    @flow(executor="processes")
    def read() -> int:
        return open_dataset("memory://seen/out").sort("n").num_rows

    with pytest.raises(StorageError, match=r"memory://unseen/out: .*'processes' cannot see it"):
        write()
    pq.write_table(rows(0, 10), tmp_path / "in.parquet")
    open_dataset(tmp_path / "in.parquet").write("memory://seen/out")
    with pytest.raises(NotFoundError, match="in this process, and others have their own memory"):
        read()


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_categories_of_many_partitions(format: str, tmp_path: Path):
    """Parquet files keep them; an Arrow file would need one dictionary."""

    @task
    def made(number: int) -> pa.Table:
        words = pa.array([f"a{number}", "b", None]).dictionary_encode()
        return pa.table({"word": words, "none": [[None], [], [None] * number]})

    @flow(executor="threads")
    def job() -> Dataset:
        return made.map(range(3)).dataset().write(tmp_path / "out", format)

    found = job().to_table()
    assert pa.types.is_dictionary(found.schema.field("word").type) == (format == "parquet")
    words = [word for number in range(3) for word in (f"a{number}", "b", None)]
    assert found["word"].to_pylist() == words
    assert found["none"].type == pa.list_(pa.null())


@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # in Dask
def test_every_tool_reads_what_a_flow_has_written(tmp_path: Path):
    plain, folders = tmp_path / "plain", tmp_path / "folders"

    @flow(executor="threads")
    def job() -> Dataset:
        made = part.map(range(0, 1000, 100)).dataset()
        made.write(plain, max_rows_per_file=300)
        return made.write(folders, partition_by="kind", max_rows_per_file=250)

    by_kind = job()
    by_kind_rows = by_kind.to_table().select(TABLE.column_names).sort_by("n")
    assert by_kind_rows.equals(TABLE)
    counts = {path.parent.name: 0 for path in folders.rglob("*.parquet")}
    for path in folders.rglob("*.parquet"):
        counts[path.parent.name] += 1
    assert counts == {"kind=0": 2, "kind=2": 1, "kind=3": 1, "kind=4": 1}
    zero = by_kind.to_table(filter=[("kind", "=", "0")])["n"].to_pylist()
    assert zero == TABLE.filter(pc.field("kind") == "0")["n"].to_pylist()
    assert ds.dataset(plain, exclude_invalid_files=True).to_table().equals(TABLE)
    frame = TABLE.to_pandas()
    pd.testing.assert_frame_equal(pd.read_parquet(plain), frame)
    found = dd.read_parquet(plain).compute().reset_index(drop=True)
    pd.testing.assert_frame_equal(found, frame, check_dtype=False)
    assert pl.read_parquet(plain / "*.parquet").to_arrow().cast(TABLE.schema).equals(TABLE)
    one: Any = duckdb
    assert one.sql(f"select count(*), sum(n) from '{plain}/*.parquet'").fetchall() == [
        (1000, 499500)
    ]
    hive = f"read_parquet('{folders}/**/*.parquet', hive_partitioning=true)"
    told = one.sql(f"select kind::varchar, count(*) from {hive} group by 1 order by 1").fetchall()
    assert told == [("0", 400), ("2", 200), ("3", 200), ("4", 200)]
    for read in (
        pd.read_parquet(folders),
        dd.read_parquet(folders).compute(),
        pl.read_parquet(folders / "**/*.parquet", hive_partitioning=True).to_pandas(),
    ):
        assert read.groupby("kind", observed=True)["n"].sum().tolist() == (
            frame.groupby("kind")["n"].sum().tolist()
        )


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_far_away(scheme: str, request: pytest.FixtureRequest):
    store = make_store(scheme, request)
    options = dict(store.storage_options)
    run = store.run("input")
    dataset = run.dataset(commit(run, [TABLE.slice(0, 600), TABLE.slice(600)], [1]))

    @flow(executor="threads", storage=store)
    def job(mode: str) -> Dataset:
        return dataset.write(
            f"{store.url}/out", mode=mode, max_rows_per_file=400, storage_options=options
        )

    assert job("error").to_table().equals(TABLE)
    assert job("overwrite").to_table().equals(TABLE)
    names = [info.path for info in store.run("out").list("")]
    assert len(names) == 4
    assert not [name for name in names if name.startswith(f"{STAGING}/")]


def test_credentials_are_not_kept_with_what_a_failed_write_was_given(tmp_path: Path):
    location, schema = parse_location(tmp_path / "out"), TABLE.schema
    plain, secret = (
        Target(location, options, schema, "parquet", (), "error", None, 1000, "w")
        for options in ({}, {"secret": "hush"})
    )
    assert b"hush" not in pack([plain], secrets=False).data
    with pytest.raises(SecretError):
        pack([secret], secrets=False)


def test_killed_writers_leave_nothing_that_counts(tmp_path: Path):
    """Children die by SIGKILL after their first file, which another attempt writes again."""
    target = tmp_path / "out"
    marks = tmp_path / "marks"
    marks.mkdir()

    def dying(self: Any, path: str, source: str) -> None:
        original(self, path, source)
        mark = marks / path.split("-")[1]
        if path.endswith(".staged") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    original = LocalObjects.write_file

    @task
    def armed(first: int) -> pa.Table:
        return rows(first, 100)

    def arm() -> None:
        LocalObjects.write_file = dying  # type: ignore[method-assign]

    from headrace.storage import writing

    write = writing.write_share.with_options(setup=arm, name="write-write")

    @flow(executor="processes")
    def job() -> Dataset:
        return armed.map(range(0, 1000, 100)).dataset().write(target, max_rows_per_file=500)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "write_share", write)
        assert job().to_table().equals(TABLE)
    assert sorted(path.name for path in marks.iterdir()) == ["00000", "00001"]
    assert len(visible(target)) == 3


def test_a_commit_that_ends_early_shows_the_old_rows_and_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The driver goes on where it was, with the files that were written and moved before."""
    target = tmp_path / "out"
    fails = [True]
    moved: list[str] = []
    seen: list[int] = []
    original = LocalObjects.move

    def move(self: LocalObjects, path: str, to: str) -> None:
        moved.append(path)
        if fails[0] and len(moved) == 3:
            fails[0] = False
            raise StorageError("the disk is gone")
        original(self, path, to)
        seen.append(open_dataset(target).num_rows)

    @flow(executor="inline")
    def job(mode: str, count: int) -> int:
        made = part.map(range(0, count, 100)).dataset()
        return made.write(target, mode=mode, max_rows_per_file=100).num_rows

    assert job("error", 200) == 200
    monkeypatch.setattr(LocalObjects, "move", move)
    run = job.start("overwrite", 1000)
    with pytest.raises(StorageError, match="disk is gone"):
        run.result()
    assert open_dataset(target).to_table().equals(rows(0, 200))
    assert run.resume().result() == 1000
    assert open_dataset(target).to_table().equals(TABLE)
    assert set(seen) == {200}
    assert len(visible(target)) == 11


def test_a_write_is_resumed_after_another_one_has_removed_what_it_had_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "out"
    original = LocalObjects.write_file

    def fails_once(self: LocalObjects, path: str, source: str) -> None:
        original(self, path, source)
        if path.endswith(".staged"):
            monkeypatch.undo()
            raise StorageError("the disk is gone")

    @flow(executor="inline")
    def job(count: int) -> int:
        made = part.map(range(0, count, 100)).dataset()
        return made.write(target, mode="overwrite").num_rows

    monkeypatch.setattr(LocalObjects, "write_file", fails_once)
    run = job.start(1000)
    with pytest.raises(StorageError, match="disk is gone"):
        run.result()
    assert job(200) == 200
    assert run.resume().result() == 1000
    assert open_dataset(target).to_table().equals(TABLE)


def test_readers_see_the_old_or_the_new_rows(tmp_path: Path):
    target = tmp_path / "out"
    done = threading.Event()
    mixes: list[Any] = []
    looks: list[int] = []

    def look() -> None:
        while not done.is_set():
            try:
                found = open_dataset(target).to_table()
            except StorageError:  # a file that it was about to read went with the old rows
                continue
            if not found.equals(rows(int(found["n"][0].as_py()), 500)):
                mixes.append(found)
            looks.append(found.num_rows)

    @flow(executor="threads")
    def job(first: int) -> None:
        made = part.map(range(first, first + 500, 100)).dataset()
        made.write(target, mode="overwrite", max_rows_per_file=50)

    job(0)
    reader = threading.Thread(target=look)
    reader.start()
    for first in (1000, 2000, 3000):
        job(first)
    done.set()
    reader.join()
    assert looks
    assert not mixes


def test_no_rows_and_rows_that_a_filter_leaves(tmp_path: Path, local_run: ArrowRunStore):
    pq.write_table(TABLE, tmp_path / "in.parquet", row_group_size=100)
    some = open_dataset(tmp_path / "in.parquet", filter=[("n", "<", 250)], columns=["n"])
    none = local_run.dataset(commit(local_run, [TABLE.slice(0, 0)]))

    @flow(executor="inline")
    def job() -> list[Dataset]:
        return [
            some.write(tmp_path / "some", max_rows_per_file=200),
            none.write(tmp_path / "none"),
            none.write(tmp_path / "folders", partition_by="kind"),
        ]

    written, empty, folders = job()
    assert written.to_table().equals(TABLE.slice(0, 250).select(["n"]))
    assert empty.to_table().equals(TABLE.slice(0, 0))
    assert folders.num_rows == 0
