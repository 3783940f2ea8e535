"""The interfaces, held against what they must carry one day: four fakes, each run by a real flow."""

import base64
import json
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace import flow, task
from headrace.core import interfaces, registry
from headrace.core.context import TASK_RUN
from headrace.core.interfaces import Manifest, Receipt
from headrace.core.settings import settings_override
from headrace.history.sql import SqlHistory
from headrace.storage.store import ArrowRunStore, ArrowStore

RECORDS = {
    c.__name__: c
    for c in (
        interfaces.RunRecord,
        interfaces.StateRecord,
        interfaces.NodeRecord,
        interfaces.BatchRecord,
        interfaces.ItemRecord,
        interfaces.PartitionRecord,
        interfaces.LogRecord,
        interfaces.Request,
    )
}


def to_json(value: Any) -> Any:
    """A record, or what an argument of History may be, as JSON."""
    match value:
        case UUID():
            return {"uuid": value.hex}
        case datetime():
            return {"time": value.isoformat()}
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case Mapping():
            return {"map": [[to_json(k), to_json(v)] for k, v in value.items()]}
        case tuple() | list():
            return [to_json(each) for each in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            parts = {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
            return {"record": type(value).__name__, "fields": parts}
        case _:
            return value


def from_json(value: Any) -> Any:
    match value:
        case {"uuid": text}:
            return UUID(text)
        case {"time": text}:
            return datetime.fromisoformat(text)
        case {"bytes": text}:
            return base64.b64decode(text)
        case {"map": pairs}:
            return {from_json(k): from_json(v) for k, v in pairs}
        case {"record": name, "fields": parts}:
            return RECORDS[name](**{k: from_json(v) for k, v in parts.items()})
        case list():
            return tuple(from_json(each) for each in value)
        case _:
            return value


class HttpHistory:
    """History in another process' hands: every call is one POST, and every answer may get lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.sent.append(name)
            times = 2 if name == "append" else 1  # the first answer got lost: ask again
            for _ in range(times):
                answer = self._post(name, args, kwargs)
            return answer

        return call

    def _post(self, name: str, args: Any, kwargs: Any) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps([name, to_json(args), {k: to_json(v) for k, v in kwargs.items()}])
        connection.request("POST", "/", body)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return from_json(answer)


@pytest.fixture
def http_history(tmp_path: Path) -> Iterator[tuple[HttpHistory, SqlHistory]]:
    behind = SqlHistory(tmp_path / "behind.db")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            name, args, kwargs = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = getattr(behind, name)(
                *from_json(args), **{k: from_json(v) for k, v in kwargs.items()}
            )
            body = json.dumps(to_json(answer)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield HttpHistory(server.server_address[1]), behind
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        behind.close()


@task
def half(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    print(f"halving {x}")
    return x // 2


def test_history_over_http(
    http_history: tuple[HttpHistory, SqlHistory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, behind = http_history
    monkeypatch.setattr(registry, "open_history", lambda _url: client)

    @flow(storage=str(tmp_path / "store"), log_prints=True)
    def halves() -> str:
        half.with_options(log_prints=True).map(range(10)).wait()
        return "done"

    assert halves() == "done"
    (run,) = behind.runs()
    assert run.state == "Completed"
    (node,) = behind.nodes(run.id)
    assert node.counts == {"Completed": 9, "Failed": 1}
    assert [item.position for item in behind.items(run.id)] == [3]
    prints = [r.message for _, r in behind.logs(run.id) if r.message.startswith("halving")]
    assert len(prints) == 9, "each append was sent twice, and counted once"


# ---------------------------------------------------------------- a table with commits of its own


@dataclass(frozen=True)
class TableStore:
    """A store whose runs commit to a table: snapshots that list data files, as Iceberg has them."""

    inner: ArrowStore

    @property
    def url(self) -> str:
        return self.inner.url

    def run(self, run_id: str) -> "TableRunStore":
        return TableRunStore(self.inner, run_id)

    def check(self) -> None:
        self.inner.check()

    def runs(self) -> list[str]:
        return self.inner.runs()

    def remove(self, run_id: str) -> int:
        return self.inner.remove(run_id)

    def shared(self) -> ArrowRunStore:
        return self.inner.shared()


@dataclass(frozen=True)
class TableRunStore(ArrowRunStore):
    def journal(self) -> "SnapshotJournal":
        return SnapshotJournal(self)


class SnapshotJournal:
    """Each append is a snapshot: all data files so far. The version number is the lock."""

    def __init__(self, store: TableRunStore) -> None:
        self.store, self.version = store, 0
        self.log: list[Mapping[str, Any]] = []

    def begin(self) -> None:
        self.version = 0

    def take(self) -> list[Mapping[str, Any]]:
        return list(self.log)

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.log.extend(records)
        files = [r["part"][0] for r in self.log if r["type"] == "receipt"]
        self.version += 1
        data = json.dumps({"version": self.version, "files": files}).encode()
        self.store.write(f"snapshots/{self.version:05d}.json", data, if_absent=True)

    def records(self, *, strict: bool = False) -> list[Mapping[str, Any]]:
        return list(self.log)


@task
def squares(x: int) -> list[dict[str, int]]:
    return [{"x": x, "square": x * x}]


def test_a_table_format_with_commits_of_its_own(tmp_path: Path) -> None:
    store = TableStore(ArrowStore(tmp_path / "table"))

    @flow(storage=store)
    def fill() -> None:
        squares.map(range(100)).wait()

    fill()
    (run_id,) = store.runs()
    run = store.run(run_id)
    last = run.list("snapshots/")[-1].path
    files = json.loads(run.read(last))["files"]
    assert files
    tables = [pa.ipc.open_file(run.read(path)).read_all() for path in files]
    assert sorted(pa.concat_tables(tables)["square"].to_pylist()) == [x * x for x in range(100)]


# --------------------------------------------------------------------------- all-to-all shuffle

BUCKETS = 4


@task
def scatter(part: int) -> dict[str, Any]:
    """Write one object with a row group per bucket; the item's committed value says which."""
    rows = pa.table({"x": list(range(part * 100, part * 100 + 100))})
    path = f"shuffle/{part:05d}-{uuid.uuid4().hex}.parquet"
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, rows.schema) as writer:
        for bucket in range(BUCKETS):
            mine = pa.compute.equal(pa.array([x % BUCKETS for x in rows["x"].to_pylist()]), bucket)
            writer.write_table(rows.filter(mine))
    cursor = TASK_RUN.get()
    assert cursor is not None
    cursor.store.write(path, sink.getvalue().to_pybytes())
    return {"path": path}


@task
def gather(bucket: int, written: list[dict[str, Any]]) -> pa.Table:
    """Read one row group of each object."""
    cursor = TASK_RUN.get()
    assert cursor is not None
    groups = [
        pq.ParquetFile(pa.BufferReader(cursor.store.read(each["path"]))).read_row_group(bucket)
        for each in written
    ]
    return pa.concat_tables(groups)


def test_a_shuffle_of_one_object_per_map_item(tmp_path: Path) -> None:
    store = ArrowStore(tmp_path / "store")

    @flow(storage=store)
    def shuffle() -> list[int]:
        from headrace import unmapped

        written = scatter.map(range(3))
        gathered = gather.map(range(BUCKETS), written=unmapped(written))
        tables = gathered.result()
        assert all({x % BUCKETS for x in t["x"].to_pylist()} == {b} for b, t in enumerate(tables))
        return sorted(x for t in tables for x in t["x"].to_pylist())

    assert shuffle() == list(range(300))
    (run_id,) = store.runs()
    assert len(store.run(run_id).list("shuffle/")) == 3, "not M x N objects"


# -------------------------------------------------------------- a third party's pool, nothing else


def test_a_pool_of_a_third_party_needs_nothing_but_the_interfaces(tmp_path: Path) -> None:
    from headrace.core.interfaces import Batch, Capabilities, Control, Resources, Sink

    class LatePool:
        """Runs each batch in a thread of its own, through the public body."""

        capabilities = Capabilities(in_process=True, kills=False, prefetch=0)

        def __init__(self) -> None:
            self.threads: list[threading.Thread] = []

        def slots(self, need: Resources) -> int:
            return 2

        def submit(self, batch: Batch, sink: Sink) -> None:
            from headrace.core.interfaces import Mark, WorkerInfo
            from headrace.core.worker import run_batch

            marks = memoryview(bytearray(8 * len(Mark))).cast("q")
            who = WorkerInfo(f"late-{batch.id}", "here", 0)
            thread = threading.Thread(
                target=run_batch, args=(batch, sink, marks, who), kwargs={"in_child": False}
            )
            self.threads.append(thread)
            thread.start()

        def control(
            self, run_id: str, batch: int, request: Control, grace: float | None = None
        ) -> None:
            pass

        def work(self, timeout: float) -> bool:
            return False

        def close(self) -> None:
            for thread in self.threads:
                thread.join()

    @dataclass(frozen=True)
    class Late:
        name: str = "late"

        def key(self) -> str:
            return self.name

        def open(self) -> LatePool:
            return LatePool()

    @flow(executor=Late(), storage=str(tmp_path / "store"))
    def halves() -> list[int]:
        return half.map([2, 4, 6]).result()

    with settings_override(display="none"):
        assert halves() == [1, 2, 3]


def test_a_receipt_names_files_not_folders() -> None:
    names = {f.name for f in fields(Receipt)} | {f.name for f in fields(Manifest)}
    assert "part" in names
    assert not {"folder", "directory"} & names
