"""What lies in a store, and what a sweep would remove: by the store alone, on every scheme."""

import errno
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from storage.batches import commit

from headrace.core.errors import NotFoundError, StorageError
from headrace.core.interfaces import Part, Positions, Receipt
from headrace.core.records import dropped_record, receipt_record
from headrace.storage import housekeeping
from headrace.storage.housekeeping import Reason
from headrace.storage.localfiles import LocalObjects
from headrace.storage.store import ArrowRunStore, ArrowStore

DAY = 86_400.0


def begun(store: ArrowStore, flow: str = "count") -> ArrowRunStore:
    run = store.run(str(uuid.uuid4()))
    run.write("launch.pickle", b"launch")
    run.write("header.json", json.dumps({"name": f"of-{flow}", "flow": flow}).encode())
    return run


def put(run: ArrowRunStore, batch: int) -> str:
    path = f"data/00000/{batch:08d}-abcdef-0-00000000.arrow"
    run.write(path, b"x" * 100)
    return path


def receipt(path: str) -> dict[str, Any]:
    part = Part(path, "arrow", "int", 100, 1, 0)
    return receipt_record(Receipt(0, 0, 1, part, Positions.span(0, 1), 1, 0.0, 0.0, 0.0))


def found(store: ArrowStore, *, known: bool | None = None, days: float = 2, **more: Any):
    findings = housekeeping.survey(
        store, alive=lambda _: known, now=time.time() + days * DAY, grace=DAY, **more
    )
    return {each.run: each for each in findings}


def test_usage_tells_bytes_objects_and_age_of_each_run(store: ArrowStore):
    small, large = begun(store), begun(store, "corpus")
    put(large, 1)
    store.objects("cache").write("index/1", b"not a run")
    before = time.time()
    first, second = housekeeping.usage(store)
    assert (first.run, first.name, first.flow) == (large.run_id, "of-corpus", "corpus")
    assert first.objects == 3
    assert first.bytes == sum(info.bytes for info in large.list(""))
    assert second.run == small.run_id
    assert abs(first.modified - before) < 60


def test_only_what_no_journal_lists_goes_and_only_of_what_has_ended(store: ArrowStore):
    ended, resumable = begun(store), begun(store)
    for run in (ended, resumable):
        journal = run.journal()
        journal.begin()
        listed, dropped, _stray = put(run, 1), put(run, 2), put(run, 3)
        run.write("claims/00000001", b"me")
        run.write("specs/abc", b"spec")
        records = [receipt(listed), receipt(dropped), dropped_record(0, [dropped])]
        journal.append(records)
        if run is ended:
            journal.append([{"type": "ended", "state": "Failed"}])
    swept = found(store)
    assert {name: each.reason for name, each in swept.items()} == {
        ended.run_id: Reason.UNLISTED,
        resumable.run_id: Reason.UNLISTED,
    }
    assert swept[ended.run_id].paths == ("claims/00000001", put(ended, 2), put(ended, 3))
    assert swept[resumable.run_id].paths == (put(resumable, 2),)
    assert swept[resumable.run_id].bytes == 100
    assert not found(store, days=0.5), "young"
    assert not found(store, known=True), "alive"
    for each in swept.values():
        housekeeping.remove(store, each)
    assert not found(store)
    assert [info.path for info in ended.list("data/")] == [put(ended, 1)]


def test_a_resumed_run_has_not_ended(store: ArrowStore):
    run = begun(store)
    journal = run.journal()
    journal.begin()
    journal.append([{"type": "ended", "state": "Failed"}])
    put(run, 1)
    assert found(store)
    journal.append([{"type": "driver", "generation": 1}])
    assert not found(store)


def test_a_journal_with_a_gap_lists_nothing_for_sure(local_run: ArrowRunStore, tmp_path: Path):
    store = local_run.store
    run = begun(store)
    journal = run.journal()
    journal.begin()
    journal.append([receipt(put(run, 1))])
    journal.append([{"type": "ended", "state": "Completed"}])
    segment = tmp_path / "store" / run.run_id / "journal" / "00000001.jsonl"
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-20])
    assert not found(store)
    segment.unlink()
    assert not found(store)


def test_what_belongs_to_no_run_goes_as_a_whole(store: ArrowStore):
    left, own = begun(store), begun(store)
    put(left, 1)
    left.delete(["header.json"])
    store.run("not-a-run").write("journal/1", b"")
    foreign = store.run(str(uuid.uuid4()))
    foreign.write("thesis.pdf", b"do not touch")
    assert not found(store, days=0.5)
    assert not found(store, known=False), "history knows it"
    (swept,) = found(store).values()
    assert (swept.run, swept.reason, swept.paths) == (left.run_id, Reason.UNKNOWN, ())
    housekeeping.remove(store, swept)
    assert sorted(store.runs()) == sorted([own.run_id, foreign.run_id, "not-a-run"])


def test_retention_is_an_age_of_whole_runs(store: ArrowStore):
    run = begun(store)
    put(run, 1)
    assert not found(store, days=20, retention=30 * DAY)
    (swept,) = found(store, days=40, retention=30 * DAY).values()
    assert (swept.reason, swept.paths, swept.objects) == (Reason.EXPIRED, (), 3)
    assert not found(store, days=40, known=True, retention=30 * DAY)
    assert not found(store, days=0.5, retention=1.0), "never below the grace age"


def test_half_written_files_go(tmp_path: Path):
    store = ArrowStore(tmp_path)
    run = begun(store)
    assert isinstance(run.objects, LocalObjects)
    Path(run.objects.temporary("data/00000/x")).write_bytes(b"half")
    (swept,) = found(store).values()
    assert (swept.reason, swept.bytes, swept.objects) == (Reason.UNFINISHED, 4, 1)
    housekeeping.remove(store, swept)
    assert not run.unfinished()


def test_a_removal_that_dies_half_way_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = ArrowStore(tmp_path)
    run = begun(store)
    put(run, 1)
    real = os.unlink

    def dying(name: str) -> None:
        if "/data/" in name:
            raise OSError(errno.EIO, "Input/output error")
        real(name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", dying)
        with pytest.raises(StorageError, match=r"cannot delete .*data/.*Input/output"):
            store.remove(run.run_id)
    assert not (tmp_path / run.run_id / "header.json").exists()
    assert [each.reason for each in found(store).values()] == [Reason.UNKNOWN]
    assert store.remove(run.run_id) > 0
    assert not store.runs()


def test_a_reader_sees_whole_partitions_or_none(run: ArrowRunStore):
    (written,) = commit(run, [f"text {n}" for n in range(10)]).receipts
    opened = run.open_part(written.part)
    run.store.remove(run.run_id)
    assert opened.table.num_rows == 10, "an open one stays readable"
    with pytest.raises(NotFoundError, match=written.part.path):
        run.objects.read(written.part.path)


def test_what_is_not_ours_stays_at_any_age_and_so_does_a_folder_that_was_just_made(tmp_path: Path):
    store = ArrowStore(tmp_path)
    run = begun(store)
    (tmp_path / run.run_id / "thesis.pdf").write_bytes(b"do not touch")
    (tmp_path / str(uuid.uuid4())).mkdir()
    assert not found(store, days=40, retention=30 * DAY)
