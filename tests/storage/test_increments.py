"""A dataset that grows: only what is new or changed is computed and written, and all appears at once."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from storage.stores import make_store

from headrace import INPUTS, TASK_SOURCE, Dataset, flow, open_dataset, task
from headrace.core.errors import AlreadyExistsError, ConfigurationError
from headrace.storage.opening import MANIFEST
from headrace.storage.splitting import settled
from headrace.storage.store import ArrowStore


class Inputs:
    """A folder of files, in any store, each with ten numbers from a first one on."""

    def __init__(self, store: ArrowStore) -> None:
        self.url, self.options = f"{store.url}/in", dict(store.storage_options)
        self.files: dict[str, int] = {}

    def put(self, **files: int) -> None:
        for name, first in files.items():
            self.files[name] = first
            path = f"{self.url}/{name}.parquet"
            with fsspec.open(path, "wb", auto_mkdir=True, **self.options) as opened:
                file: Any = opened
                numbers = range(first, first + 10)
                pq.write_table(pa.table({"n": numbers, "kind": [n % 3 for n in numbers]}), file)

    def remove(self, *names: str) -> None:
        for name in names:
            del self.files[name]
            filesystem, path = fsspec.url_to_fs(f"{self.url}/{name}.parquet", **self.options)
            filesystem.rm_file(path)

    def open(self) -> Dataset:
        return open_dataset(self.url, storage_options=self.options)

    @property
    def numbers(self) -> list[int]:
        return [n for _, first in sorted(self.files.items()) for n in range(first, first + 10)]


def marked(marks: Path) -> list[int]:
    """What was computed since this was last asked."""
    found = sorted(int(path.name) for path in marks.iterdir())
    for path in marks.iterdir():
        path.unlink()
    return found


def daily(
    inputs: Inputs, store: ArrowStore, marks: Path, executor: str = "inline", **options: Any
) -> Any:
    marks.mkdir()

    @task(cache_policy=INPUTS + TASK_SOURCE - "marks")
    def clean(rows: pa.Table, marks: Path) -> Iterator[pa.Table]:  # each has a partition of its own
        (marks / str(rows["n"][0].as_py())).touch()
        yield rows.append_column("twice", pc.multiply(rows["n"], 2))

    @flow(executor=executor, storage=store)
    def run() -> Dataset:
        cleaned = clean.map(inputs.open().partitions(files=1), marks=marks)
        return cleaned.dataset().write(
            f"{store.url}/out", mode="update", storage_options=inputs.options, **options
        )

    return run


@pytest.mark.parametrize(("scheme", "one"), [("local", 4000), ("s3", 2500)])
def test_only_what_is_new_or_changed_is_computed_and_written(
    scheme: str, one: int, request: pytest.FixtureRequest, tmp_path: Path
):
    """``one``: bytes that a partition has room in, and two have not."""
    store = make_store(scheme, request)
    inputs = Inputs(store)
    inputs.put(b=0, c=10, d=20)
    run = daily(inputs, store, tmp_path / "marks", max_bytes_per_file=one)

    def again() -> tuple[list[int], set[str]]:
        written = run()
        assert written.to_table()["n"].to_pylist() == inputs.numbers
        assert written.to_table()["twice"].to_pylist() == [2 * n for n in inputs.numbers]
        everything = store.run("out").list("")
        assert len(everything) == len(written.files) + 1, "nothing that does not count is left"
        return marked(tmp_path / "marks"), set(written.files)

    computed, first = again()
    assert computed == [0, 10, 20]
    assert again() == ([], first)
    inputs.put(a=100, c=200)  # one comes before all others, one is changed, one is removed
    inputs.remove("b")
    computed, second = again()
    assert computed == [100, 200]
    assert len(second) == 3
    assert len(second & first) == 1


def test_rows_of_removed_files_may_stay(tmp_path: Path):
    store = ArrowStore(tmp_path / "store")
    inputs = Inputs(store)
    inputs.put(b=0, c=10, d=20)

    def written() -> list[int]:
        return sorted(run().to_table()["n"].to_pylist())

    run = daily(inputs, store, tmp_path / "marks", removed="keep", max_bytes_per_file=4000)
    assert written() == inputs.numbers
    inputs.remove("b", "c", "d")
    inputs.put(e=50)
    assert written() == [*range(30), *range(50, 60)]
    inputs.put(e=70)
    assert written() == [*range(30), *range(70, 80)]
    inputs.put(b=0, c=90, d=20)
    assert written() == sorted(inputs.numbers)
    kept = open_dataset(f"{store.url}/out")
    with pytest.raises(ConfigurationError, match="another schema"):
        kept.select(["n"]).write(f"{store.url}/out", mode="update", removed="keep")


def test_rows_of_removed_files_stay_where_groups_would_have_room_for_others(tmp_path: Path):
    inputs = Inputs(ArrowStore(tmp_path))
    inputs.put(a=0, b=10, c=20)
    inputs.open().write(tmp_path / "out", mode="update", removed="keep")
    inputs.remove("b")
    written = inputs.open().write(tmp_path / "out", mode="update", removed="keep")
    assert sorted(written.to_table()["n"].to_pylist()) == [*range(30)]


def test_rows_that_cannot_stay_without_others_are_an_error_and_not_lost(tmp_path: Path):
    inputs = Inputs(ArrowStore(tmp_path))
    inputs.put(a=0, b=10)

    @task
    def clean(rows: pa.Table) -> pa.Table:
        return rows

    @flow(executor="inline", storage=str(tmp_path / "store"))
    def run() -> Dataset:
        both = inputs.open().partitions(files=2)
        return clean.map(both).dataset().write(tmp_path / "out", mode="update", removed="keep")

    run()
    inputs.remove("b")
    with pytest.raises(ConfigurationError, match=r"cannot keep the rows of .*b\.parquet"):
        run()
    assert open_dataset(tmp_path / "out").to_table()["n"].to_pylist() == [*range(20)]


def test_another_value_in_the_middle_of_a_long_filter_counts(tmp_path: Path):
    inputs = Inputs(ArrowStore(tmp_path))
    inputs.put(**{f"f{first:03}": first for first in range(0, 100, 10)})

    def but(left_out: int) -> Dataset:
        others = [n for n in range(100) if n != left_out]
        return open_dataset(inputs.url, filter=pc.field("n").isin(others))

    assert but(50).fingerprint == but(50).fingerprint != but(51).fingerprint
    for left_out in (50, 51):
        written = but(left_out).write(tmp_path / "out", mode="update").to_table()
        assert left_out not in written["n"].to_pylist()
        assert written.num_rows == 99


def test_files_are_updated_outside_of_a_flow_and_into_folders(tmp_path: Path):
    inputs = Inputs(ArrowStore(tmp_path))
    inputs.put(**{f"f{number:02d}": 10 * number for number in range(12)})
    random.seed(7)
    for _ in range(6):
        plain = inputs.open().write(tmp_path / "plain", mode="update", max_bytes_per_file=200)
        assert plain.to_table()["n"].to_pylist() == inputs.numbers
        folders = inputs.open().write(tmp_path / "folders", mode="update", partition_by="kind")
        assert sorted(folders.to_table()["n"].to_pylist()) == sorted(inputs.numbers)
        names = sorted(inputs.files)
        inputs.remove(*random.sample(names, 2))
        inputs.put(**{random.choice(sorted(inputs.files)): random.randrange(1000)})
        inputs.put(**{f"f{random.randrange(99):02d}": random.randrange(1000) for _ in range(2)})


def test_what_stays_is_not_written_again(tmp_path: Path):
    inputs = Inputs(ArrowStore(tmp_path))
    inputs.put(**{f"f{number:02d}": 10 * number for number in range(10)})
    size = inputs.open().bytes // 4

    def groups() -> list[Any]:
        inputs.open().write(tmp_path / "out", mode="update", max_bytes_per_file=size)
        return json.loads((tmp_path / "out" / MANIFEST).read_text())["groups"]

    before = groups()
    assert len(before) == 5
    inputs.put(f035=1000, f07=2000)
    after = groups()
    assert groups() == after
    kept = [group for group in after if group in before]
    assert len(kept) == 4
    assert inputs.numbers == open_dataset(tmp_path / "out").to_table()["n"].to_pylist()
    Path(open_dataset(tmp_path / "out").files[0]).unlink()
    assert len(groups()) == len(after)
    assert inputs.numbers == open_dataset(tmp_path / "out").to_table()["n"].to_pylist()


def test_another_schema_is_written_anew_and_other_folders_are_left_alone(tmp_path: Path):
    inputs = Inputs(ArrowStore(tmp_path))
    inputs.put(a=0)
    inputs.open().write(tmp_path / "out", mode="update")
    inputs.open().write(tmp_path / "plain")
    pq.write_table(pa.table({"n": [10.5]}), tmp_path / "in" / "b.parquet")
    wider = inputs.open().write(tmp_path / "out", mode="update")
    assert wider.to_table() == inputs.open().to_table()
    assert all(pq.read_schema(file).field("n").type == pa.float64() for file in wider.files)
    with pytest.raises(AlreadyExistsError, match="were not written with mode='update'"):
        inputs.open().write(tmp_path / "plain", mode="update")
    with pytest.raises(ConfigurationError, match="removed= is drop or keep"):
        inputs.open().write(tmp_path / "out", mode="update", removed="x")
    table = pa.table({"n": [1]})

    @task
    def made(_: int) -> pa.Table:
        return table

    @flow(executor="inline")
    def run() -> None:
        made.map([1]).dataset().write(tmp_path / "made", mode="update", removed="keep")

    with pytest.raises(ConfigurationError, match="they are from no files"):
        run()


KILLED = """
import os, signal, sys
from headrace import flow, open_dataset
from headrace.storage.localfiles import LocalObjects
from headrace.storage.objects import RemoteObjects

url, options, moment = sys.argv[1], eval(sys.argv[2]), sys.argv[3]
calls = 0

for cls in (LocalObjects, RemoteObjects):
    def dying(self, *arguments, original=getattr(cls, moment), **more):
        global calls
        calls += "/out" in self.url_of("")
        if calls == (1 if moment == "delete" else 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments, **more)
    setattr(cls, moment, dying)

open_dataset(f"{url}/in", storage_options=options).write(
    f"{url}/out", mode="update", storage_options=options, max_rows_per_file=10
)
"""


@pytest.mark.parametrize("scheme", ["local", "s3"])
def test_a_writer_that_is_killed_leaves_the_old_rows_or_the_new(
    scheme: str, request: pytest.FixtureRequest
):
    store = make_store(scheme, request)
    inputs = Inputs(store)
    inputs.put(a=0, b=10, c=20)

    def write() -> Dataset:
        return inputs.open().write(
            f"{store.url}/out", mode="update", storage_options=inputs.options, max_rows_per_file=10
        )

    before = write().to_table()
    inputs.put(b=30, d=40)
    inputs.remove("c")
    for moment in ("write_file", "move", "delete"):
        arguments = [store.url, repr(inputs.options), moment]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
        assert done.returncode == -signal.SIGKILL
        found = open_dataset(f"{store.url}/out", storage_options=inputs.options).to_table()
        if moment == "delete":  # of what the new manifest does not name
            assert found["n"].to_pylist() == inputs.numbers
        else:
            assert found == before
    assert write().to_table()["n"].to_pylist() == inputs.numbers
    assert len(store.run("out").list("")) == 4


def test_the_first_writer_may_be_killed_and_the_next_one_goes_on(tmp_path: Path):
    inputs = Inputs(ArrowStore(tmp_path))
    inputs.put(a=0, b=10, c=20)
    arguments = [str(tmp_path), repr(inputs.options), "move"]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    written = inputs.open().write(tmp_path / "out", mode="update")
    assert written.to_table()["n"].to_pylist() == inputs.numbers
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 2


class Sized:
    """A file of a size."""

    rows = None

    def __init__(self, name: str, bytes: int) -> None:
        self.name, self.bytes = name, bytes


def test_a_file_that_comes_in_between_changes_partitions_nearby_only():
    draw = random.Random(3)
    files: list[Any] = [Sized(f"{k:05d}", draw.randrange(1, 30)) for k in range(0, 10_000, 10)]

    def groups(of: list[Any]) -> list[tuple[str, ...]]:
        found = [tuple(piece.name for piece in group) for group in settled(of, 100)]
        assert [name for group in found for name in group] == [piece.name for piece in of]
        return found

    before = groups(files)
    sizes = {piece.name: piece.bytes for piece in files}
    for group in before[:-1]:
        assert 50 <= sum(sizes[name] for name in group) <= 100
    changed = 0
    for _ in range(50):
        more = sorted([*files, Sized(f"{draw.randrange(10_000):05d}x", 20)], key=lambda f: f.name)
        changed += len(set(groups(more)) - set(before))
    assert changed <= 4 * 50, "of more than 200 groups each"
    large: list[Any] = [Sized("a", 250), Sized("b", 10), Sized("c", 99)]
    assert groups(large) == [("a",), ("b",), ("c",)]
