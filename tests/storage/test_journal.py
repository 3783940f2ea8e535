"""The journal indexes a run and is its lock: one driver writes, and the later one wins."""

import dataclasses
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from racing import drive
from storage.batches import commit

from headrace.core.errors import StorageError, TakenOverError
from headrace.core.interfaces import Manifest, Part, Positions, Receipt
from headrace.core.records import manifest_of, manifest_record, receipt_of, receipt_record
from headrace.storage.journal import segment_path
from headrace.storage.store import ArrowRunStore, ArrowStore


def test_records_come_back_in_order(run: ArrowRunStore):
    journal = run.journal()
    assert journal.take() == []
    journal.append([{"n": 1}, {"n": 2}])
    journal.append([])
    journal.append([{"n": "three\nlines\n"}])
    expected = [{"n": 1}, {"n": 2}, {"n": "three\nlines\n"}]
    assert journal.records() == run.journal().records() == expected
    assert [info.path for info in run.list("journal/")] == [segment_path(n) for n in (1, 2, 3)]


def test_the_later_driver_takes_over_and_the_earlier_one_stops(run: ArrowRunStore):
    first, second = run.journal(), run.journal()
    first.take()
    first.append([{"by": "first"}])
    assert second.take() == [{"by": "first"}]
    with pytest.raises(TakenOverError, match=r"taken over by process \d+ on "):
        first.append([{"by": "first, too late"}])
    with pytest.raises(TakenOverError):
        first.append([{"by": "first, and again"}])
    second.append([{"by": "second"}])
    assert run.journal().records() == [{"by": "first"}, {"by": "second"}]
    assert first.take() == [{"by": "first"}, {"by": "second"}]
    with pytest.raises(TakenOverError):
        second.append([{"by": "second"}])


def test_an_append_between_listing_and_takeover_is_read(
    local_run: ArrowRunStore, monkeypatch: pytest.MonkeyPatch
):
    first, second = local_run.journal(), local_run.journal()
    first.take()
    real: Any = second._put  # pyright: ignore[reportPrivateUsage]
    late = [{"by": "first, just in time"}]

    def put(*args: Any, **kwargs: Any) -> None:
        if late:
            first.append([late.pop()])
        real(*args, **kwargs)

    monkeypatch.setattr(second, "_put", put)
    assert second.take() == [{"by": "first, just in time"}]
    with pytest.raises(TakenOverError):
        first.append([{"by": "first"}])


def test_who_did_not_take_the_journal_cannot_write(local_run: ArrowRunStore):
    with pytest.raises(StorageError, match="not taken"):
        local_run.journal().append([{}])


@pytest.mark.parametrize("scheme", ["local", "s3"])
def test_drivers_that_fight_lose_no_record_and_double_none(make_run: Any, scheme: str):
    run = make_run(scheme)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    drivers = [context.Process(target=drive, args=(run, n, start, results)) for n in range(3)]
    for driver in drivers:
        driver.start()
    written = [record for _ in drivers for record in results.get(timeout=90)]
    for driver in drivers:
        driver.join(60)
        assert driver.exitcode == 0
    assert sorted(written) == sorted(r["record"] for r in run.journal().records())


def test_damaged_and_missing_segments_are_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = ArrowStore(tmp_path).run("r")
    journal = run.journal()
    journal.take()
    for n in range(4):
        journal.append([{"n": n}, {"n": n + 0.5}])
    data = run.read(segment_path(3))
    run.write(segment_path(3), data[:-6])
    run.delete([segment_path(4)])
    with caplog.at_level(logging.WARNING, "headrace.storage"):
        records = run.journal().records()
    assert records == [{"n": 0}, {"n": 0.5}, {"n": 1}, {"n": 2 + 1}, {"n": 3.5}]
    assert "line 3 is damaged" in caplog.text
    assert "00000004.jsonl is missing" in caplog.text
    fresh = run.journal()
    fresh.take()
    fresh.append([{"n": 9}])
    assert run.read(segment_path(7))


POSITIONS = st.sets(st.integers(0, 30)).map(lambda s: Positions.of(sorted(s)))
RECEIPTS = st.builds(
    Receipt,
    node=st.integers(0, 9),
    batch=st.integers(0, 9),
    attempt=st.integers(1, 9),
    part=st.builds(
        Part,
        path=st.text(min_size=1, max_size=9),
        format=st.sampled_from(["arrow", "parquet"]),
        kind=st.just("int"),
        bytes=st.integers(0, 2**40),
        rows=st.integers(0, 2**40),
        checksum=st.integers(0, 2**32 - 1),
    ),
    positions=POSITIONS,
    rows=st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9)).map(tuple)),
    started=st.floats(0, 2e9),
    ended=st.floats(0, 2e9),
    busy_seconds=st.floats(0, 1e9),
    inline=st.one_of(st.none(), st.binary()),
)


@given(st.lists(RECEIPTS, max_size=3, unique_by=lambda r: r.part.path), POSITIONS)
@settings(max_examples=50)
def test_receipts_and_manifests_survive_json(receipts: list[Receipt], lost: Positions):
    import json

    plain = [dataclasses.replace(receipt, inline=None) for receipt in receipts]
    records = json.loads(json.dumps([receipt_record(receipt) for receipt in receipts]))
    assert [receipt_of(record) for record in records] == plain
    manifest = Manifest(
        1, "key", tuple(plain), 30, lost, tuple(r.positions for r in plain), b"schema"
    )
    record = json.loads(json.dumps(manifest_record(manifest)))
    assert manifest_of(record, plain) == manifest
    if plain:
        with pytest.raises(StorageError, match="unknown"):
            manifest_of(record, plain[1:])


def test_a_run_is_read_again_from_its_journal(local_run: ArrowRunStore):
    manifest = commit(local_run, [1, "a", {"b": 2}], inline_bytes=0)
    journal = local_run.journal()
    journal.take()
    journal.append([*map(receipt_record, manifest.receipts), manifest_record(manifest)])
    *receipts, last = local_run.journal().records()
    again = manifest_of(last, map(receipt_of, receipts))
    assert local_run.load_all(again) == [1, "a", {"b": 2}]


def test_a_line_that_is_other_json_by_now_is_damaged_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = ArrowStore(tmp_path).run("r")
    journal = run.journal()
    journal.begin()
    journal.append([{"part": 1}, {"part": 2}])
    run.write(segment_path(1), run.read(segment_path(1)).replace(b'"part":1', b'"pArt":1'))
    with caplog.at_level(logging.WARNING, "headrace.storage"):
        assert run.journal().records() == [{"part": 2}]
    assert "line 2 is damaged" in caplog.text
    with pytest.raises(StorageError, match="line 2 is damaged"):
        run.journal().records(strict=True)


def test_what_is_no_segment_does_not_hold_up_a_takeover(tmp_path: Path):
    run = ArrowStore(tmp_path).run("r")
    (tmp_path / "r" / segment_path(1)).mkdir(parents=True)
    with pytest.raises(StorageError, match="is no segment of the journal: remove it"):
        run.journal().take()
