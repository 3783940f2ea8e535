"""The contract of `History`, on every database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select

from headrace.core.errors import HistoryError, RunNotFoundError
from headrace.core.interfaces import RunRecord
from headrace.history.addresses import parse
from headrace.history.databases import Database
from headrace.history.sql import SqlHistory
from headrace.history.tables import metadata

from .records import (
    NOON,
    a_batch,
    a_log,
    a_node,
    a_partition,
    a_run,
    a_state,
    an_item,
    later,
)


@pytest.fixture
def run(history: SqlHistory) -> UUID:
    record = a_run()
    history.append(record.id, 0, [record], driver="first")
    return record.id


def test_every_record_comes_back_as_it_went_in(history: SqlHistory) -> None:
    record = a_run()
    run = record.id
    state, node_state = a_state(run), a_state(run, "Completed", 3)
    node, batch, item, log = a_node(run), a_batch(run), an_item(run), a_log(run)
    part = a_partition(run, "data/00003/a.arrow", "s3://a/☃", "s3://b")
    history.append(run, 0, [record, state, node, batch, item, part, log, node_state], driver="d")
    assert history.run(run) == record
    assert history.states(run) == [state, node_state]
    assert history.nodes(run) == [node]
    assert history.batches(run) == [batch]
    assert history.items(run) == [item]
    assert history.partitions(run) == [part]
    assert [found for _, found in history.logs(run)] == [log]


def test_absent_values_stay_absent(history: SqlHistory) -> None:
    record = a_run(parent=None, started=None, heartbeat=None, tags=())
    node = a_node(record.id, total=None, counts={}, upstream=(), started=None, states=None)
    batch = replace(a_batch(record.id), started=None, ended=None)
    history.append(record.id, 0, [record, node, batch], driver="d")
    assert history.run(record.id) == record
    assert history.nodes(record.id) == [node]
    assert history.batches(record.id) == [batch]


def test_times_come_back_in_utc_to_the_microsecond(history: SqlHistory) -> None:
    record = a_run(created=later(0.000001))
    item = an_item(record.id)
    history.append(record.id, 0, [record, item], driver="d")
    for time in (history.run(record.id).created, history.items(record.id)[0].started):
        assert time.tzinfo is UTC
    assert history.run(record.id).created == later(0.000001)


def test_a_time_without_a_zone_is_refused(history: SqlHistory) -> None:
    record = a_run(created=datetime(2026, 1, 1))
    with pytest.raises(TypeError):
        history.append(record.id, 0, [record], driver="d")


def test_many_items_and_logs_come_back_whole(history: SqlHistory, run: UUID) -> None:
    # PostgreSQL takes many rows by COPY, few by INSERT.
    items = [replace(an_item(run, position=i), message="a\tb\\N\n\r") for i in range(100)]
    logs = [a_log(run, f"{i}\t\\.\n") for i in range(100)]
    history.append(run, 1, [*items, *logs], driver="first")
    assert history.items(run) == items
    assert [log for _, log in history.logs(run)] == logs


@pytest.mark.parametrize("bad", ["nul \0 inside", "half a pair \ud83d here", "é\0\udcff"])
def test_text_that_no_database_takes_is_escaped(history: SqlHistory, bad: str) -> None:
    record = a_run(message=bad)
    item = replace(an_item(record.id), message=bad, traceback=bad)
    history.append(record.id, 0, [record, item, a_log(record.id, bad)], driver="d")
    shown = bad.replace("\0", "\\x00").replace("\ud83d", "\\ud83d").replace("\udcff", "\\udcff")
    assert history.run(record.id).message == shown
    assert history.items(record.id)[0].traceback == shown
    assert history.logs(record.id)[0][1].message == shown


# ------------------------------------------------------------------------- replacing and repeating


def test_a_record_with_the_same_key_replaces(history: SqlHistory, run: UUID) -> None:
    ended = a_run(run, state="Completed", state_type="COMPLETED", ended=later(60))
    nodes = [a_node(run, 1), a_node(run, 0), a_node(run, 1, state="Completed", ended=later(50))]
    batches = [a_batch(run, 5), a_batch(run, 4), a_batch(run, 5, outcome="died")]
    history.append(run, 1, [ended, *nodes, *batches], driver="first")
    assert history.run(run) == ended
    assert history.nodes(run) == [nodes[1], nodes[2]]
    assert history.batches(run) == [batches[1], batches[2]]
    assert len(history.runs()) == 1


def test_an_append_that_was_seen_is_ignored(history: SqlHistory, run: UUID) -> None:
    running = a_run(run, message="old")
    history.append(run, 1, [running, a_log(run, "once")], driver="first")
    history.append(run, 2, [a_run(run, message="new")], driver="first")
    history.append(run, 1, [running, a_log(run, "once")], driver="first")
    assert history.run(run).message == "new"
    assert len(history.logs(run)) == 1


def test_the_first_append_may_be_repeated_too(history: SqlHistory) -> None:
    record = a_run()
    for _ in range(2):
        history.append(record.id, 0, [record, a_state(record.id)], driver="d")
    assert len(history.states(record.id)) == 1


def test_each_driver_counts_from_zero(history: SqlHistory, run: UUID) -> None:
    history.append(run, 0, [a_log(run, "resumed")], driver="second")
    history.append(run, 1, [a_log(run, "first, late")], driver="first")
    assert [log.message for _, log in history.logs(run)] == ["resumed", "first, late"]


def test_what_was_seen_is_known_to_a_history_opened_later(
    history: SqlHistory, history_url: str, run: UUID
) -> None:
    with SqlHistory(history_url) as other:
        other.append(run, 0, [a_log(run)], driver="first")
    assert history.logs(run) == []


def test_an_append_is_written_whole_or_not_at_all(history: SqlHistory, run: UUID) -> None:
    broken = replace(a_batch(run), started=datetime(2026, 1, 1))
    with pytest.raises(TypeError):
        history.append(run, 1, [a_log(run), a_node(run), broken], driver="first")
    assert history.logs(run) == []
    assert history.nodes(run) == []
    history.append(run, 1, [a_log(run)], driver="first")
    assert len(history.logs(run)) == 1


def test_an_append_to_an_unknown_run_is_refused(history: SqlHistory) -> None:
    run = uuid4()
    with pytest.raises(RunNotFoundError, match=str(run)):
        history.append(run, 0, [a_log(run)], driver="d")
    # It was not seen: with the record it is written.
    history.append(run, 0, [a_run(run), a_log(run)], driver="d")
    assert len(history.logs(run)) == 1


def test_an_append_may_tell_of_a_child_run(history: SqlHistory, run: UUID) -> None:
    child = a_run(parent=run)
    history.append(run, 1, [a_log(run), child, a_log(child.id, "mine")], driver="first")
    assert [log.message for _, log in history.logs(child.id)] == ["mine"]
    assert history.run(child.id).parent == run


def test_threads_that_append_at_once_all_get_through(history: SqlHistory) -> None:
    records = [a_run(name=f"r{i}") for i in range(8)]

    def drive(record_index: int) -> None:
        record = records[record_index]
        history.append(record.id, 0, [record], driver="d")
        for seq in range(1, 21):
            history.append(record.id, seq, [a_log(record.id, str(seq))], driver="d")

    _in_threads(drive, len(records))
    for record in records:
        assert [log.message for _, log in history.logs(record.id)] == [
            str(seq) for seq in range(1, 21)
        ]


def _in_threads(work: Callable[[int], None], count: int) -> None:
    errors: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            work(i)
        except BaseException as error:  # noqa: BLE001  (shown by the test's own thread)
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# ------------------------------------------------------------------------------ heart and requests


def test_the_heartbeat_never_goes_back(history: SqlHistory, run: UUID) -> None:
    history.beat(run, later(30))
    history.beat(run, later(20))
    assert history.run(run).heartbeat == later(30)
    history.append(run, 1, [a_run(run, heartbeat=None)], driver="first")
    assert history.run(run).heartbeat == later(30)
    history.append(run, 2, [a_run(run, heartbeat=later(25))], driver="first")
    assert history.run(run).heartbeat == later(30)
    history.append(run, 3, [a_run(run, heartbeat=later(40))], driver="first")
    assert history.run(run).heartbeat == later(40)


def test_a_first_heartbeat_counts(history: SqlHistory) -> None:
    record = a_run(heartbeat=None)
    history.append(record.id, 0, [record], driver="d")
    history.beat(record.id, later(1))
    assert history.run(record.id).heartbeat == later(1)


def test_requests_come_in_order_and_once(history: SqlHistory, run: UUID) -> None:
    assert history.requests(run) == []
    history.ask(run, "pause")
    history.ask(run, "cancel")
    first, second = history.requests(run)
    assert (first.kind, second.kind) == ("pause", "cancel")
    assert first.run == run
    assert history.requests(run, after=first.id) == [second]
    assert history.requests(run, after=second.id) == []


def test_requests_carry_the_clock_s_time(history_url: str) -> None:
    record = a_run()
    with SqlHistory(history_url, clock=lambda: later(99)) as history:
        history.append(record.id, 0, [record], driver="d")
        history.ask(record.id, "cancel")
        assert history.requests(record.id)[0].time == later(99)


def test_ask_and_beat_name_an_unknown_run(history: SqlHistory) -> None:
    run = uuid4()
    with pytest.raises(RunNotFoundError, match=str(run)):
        history.ask(run, "cancel")
    with pytest.raises(RunNotFoundError, match=str(run)):
        history.beat(run, NOON)


def nobody(_: RunRecord) -> bool:
    return False


def test_runs_whose_heart_stopped_are_marked_as_crashed(history: SqlHistory) -> None:
    gone = a_run(name="gone", heartbeat=later(0))
    waiting = a_run(state="AwaitingRetry", state_type="SCHEDULED", heartbeat=later(0))
    others = [
        a_run(name="alive", heartbeat=later(100)),
        a_run(name="done", state="Completed", state_type="COMPLETED", heartbeat=later(0)),
        a_run(name="suspended", state="Suspended", state_type="PAUSED", heartbeat=later(0)),
        a_run(name="planned", state="Scheduled", state_type="SCHEDULED", heartbeat=later(0)),
        a_run(name="never", heartbeat=None),
    ]
    for record in (gone, waiting, *others):
        history.append(record.id, 0, [record], driver="d")
    assert set(history.lapse(later(100), 99.0, nobody)) == {gone.id, waiting.id}
    crashed = history.run(gone.id)
    assert (crashed.state, crashed.state_type) == ("Crashed", "CRASHED")
    assert crashed.ended == gone.heartbeat
    assert "4321" in crashed.message
    assert "machine-1" in crashed.message
    assert [(s.name, s.type, s.time) for s in history.states(gone.id)] == [
        ("Crashed", "CRASHED", later(100))
    ]
    for record in others:
        assert history.run(record.id) == record
    assert history.lapse(later(100), 99.0, nobody) == []


def test_runs_whose_driver_is_known_to_be_gone_are_marked_at_once(history: SqlHistory) -> None:
    records = [a_run(heartbeat=later(100), pid=pid) for pid in (1, 2)]
    never = a_run(heartbeat=None, pid=1)
    done = a_run(state="Completed", state_type="COMPLETED", heartbeat=later(100), pid=1)
    for record in (*records, never, done):
        history.append(record.id, 0, [record], driver="d")
    assert history.lapse(later(100), 99.0, lambda record: record.pid == 1) == [records[0].id]
    assert history.run(records[0].id).state == "Crashed"
    assert [history.run(each.id).state for each in (records[1], never)] == ["Running", "Running"]


# --------------------------------------------------------------------------------------- questions


def test_runs_are_listed_newest_first_in_pages(history: SqlHistory) -> None:
    records = [
        a_run(created=later(i), flow="ab"[i % 2], state="Completed" if i < 3 else "Running")
        for i in range(6)
    ]
    for record in (records[3], records[0], records[5], records[1], records[4], records[2]):
        history.append(record.id, 0, [record], driver="d")
    newest = records[::-1]
    assert history.runs() == newest
    assert history.runs(limit=2, offset=1) == newest[1:3]
    assert history.runs(flow="b") == newest[0::2]
    assert history.runs(state="Completed") == newest[3:]
    assert history.runs(flow="a", state="Completed", limit=1) == [records[2]]


def test_a_run_is_found_by_id_beginning_or_name(history: SqlHistory) -> None:
    one = a_run(UUID("abcdef01-2345-6789-abcd-ef0123456789"), name="one")
    two = a_run(UUID("abcdff01-2345-6789-abcd-ef0123456789"), name="two")
    old = a_run(UUID("11111111-2345-6789-abcd-ef0123456789"), name="same", created=later(1))
    new = a_run(UUID("11111112-2345-6789-abcd-ef0123456789"), name="same", created=later(2))
    for record in (one, two, new, old):
        history.append(record.id, 0, [record], driver="d")
    assert history.run(one.id) == one
    assert history.run(str(two.id)) == two
    assert history.run("ABCDEF") == one
    assert history.run("abcdef0123456") == one
    assert history.run("abcdef01-2345") == one
    assert history.run("two") == two
    assert history.run("same") == new


def test_a_run_that_cannot_be_told_is_an_error(history: SqlHistory) -> None:
    one = a_run(UUID("abcdef01-2345-6789-abcd-ef0123456789"), name="one")
    two = a_run(UUID("abcdff01-2345-6789-abcd-ef0123456789"), name="two")
    for record in (one, two):
        history.append(record.id, 0, [record], driver="d")
    with pytest.raises(RunNotFoundError, match=f"(?s){one.id}.*{two.id}"):
        history.run("abcd")
    with pytest.raises(RunNotFoundError, match="'three%'"):
        history.run("three%")
    with pytest.raises(RunNotFoundError, match="'%'"):
        history.run("%")
    with pytest.raises(RunNotFoundError):
        history.run(uuid4())


def test_items_are_found_by_node_state_and_position(history: SqlHistory, run: UUID) -> None:
    retried = an_item(run, 7, 1, "AwaitingRetry")
    failed = an_item(run, 7, 2, "Failed")
    early = an_item(run, 2, 1, "Failed")
    other = an_item(run, 3, 1, "Crashed", node=1)
    history.append(run, 1, [other, retried, failed, early], driver="first")
    assert history.items(run) == [early, retried, failed, other]
    assert history.items(run, 0) == [early, retried, failed]
    assert history.items(run, state="Failed") == [early, failed]
    assert history.items(run, 0, position=7) == [retried, failed]
    assert history.items(run, 1, state="Failed") == []
    assert history.items(run, limit=1) == [early]


def test_logs_are_read_on_from_where_one_was(history: SqlHistory, run: UUID) -> None:
    lines = [
        a_log(run, str(i), position=i % 3, node=i % 2, level=10 * (1 + i % 4)) for i in range(12)
    ]
    history.append(run, 1, lines, driver="first")
    both = history.logs(run)
    assert [log for _, log in both] == lines
    assert history.logs(run, after=both[4][0]) == both[5:]
    assert history.logs(run, limit=3) == both[:3]
    assert [log for _, log in history.logs(run, 1)] == lines[1::2]
    assert [log for _, log in history.logs(run, 0, position=0)] == [lines[0], lines[6]]
    assert [log for _, log in history.logs(run, level=30)] == [x for x in lines if x.level >= 30]


def test_batches_are_listed_in_pages_and_by_node(history: SqlHistory, run: UUID) -> None:
    batches = [a_batch(run, i, node=i % 2) for i in range(10)]
    history.append(run, 1, batches, driver="first")
    assert history.batches(run, limit=3, offset=4) == batches[4:7]
    assert history.batches(run, 1, limit=2, offset=1) == [batches[3], batches[5]]


def test_what_was_made_of_a_file_is_found_in_all_runs(history: SqlHistory, run: UUID) -> None:
    other = a_run()
    long = "https://x/" + "y" * 5000
    both, none = a_partition(run, "data/a", "s3://a", "s3://b"), a_partition(run, "data/none")
    history.append(run, 1, [both, none, both], driver="first")
    theirs = [a_partition(other.id, "data/a", "s3://a"), a_partition(other.id, "data/b", long)]
    history.append(other.id, 0, [other, *theirs], driver="d")
    assert history.partitions(run) == [both, none]
    assert history.partitions(run, 4) == []
    found = history.made_from(["s3://a"])
    assert found == [theirs[0], replace(both, inputs=both.inputs[:1])]
    assert [each.path for each in history.made_from([long])] == ["data/b"]
    many = [f"s3://{number}" for number in range(2000)]
    assert [each.run for each in history.made_from([*many, "s3://b"])] == [run]
    history.delete(run)
    assert history.made_from(["s3://a"]) == theirs[:1]


def test_a_run_is_read_while_it_is_written(
    history: SqlHistory, history_url: str, run: UUID
) -> None:
    with SqlHistory(history_url) as reader:
        for seq in range(1, 4):
            history.append(run, seq, [a_node(run, counts={"Completed": seq})], driver="first")
            assert reader.nodes(run)[0].counts == {"Completed": seq}


def test_lists_of_an_unknown_run_are_empty(history: SqlHistory) -> None:
    run = uuid4()
    assert history.states(run) == []
    assert history.nodes(run) == []
    assert history.batches(run) == []
    assert history.items(run) == []
    assert history.partitions(run) == []
    assert history.logs(run) == []
    assert history.requests(run) == []


def test_deleting_a_run_leaves_nothing_of_it_and_all_of_the_others(
    history: SqlHistory, history_url: str, run: UUID
) -> None:
    kept = a_run()
    for one in (run, kept.id):
        events = [
            a_run(one) if one == run else kept,
            a_state(one), a_node(one), a_batch(one), an_item(one), a_partition(one, "a", "b"), a_log(one),
        ]  # fmt: skip
        history.append(one, 1, events, driver="first")
        history.ask(one, "cancel")
    history.delete(run)
    history.delete(run)
    with pytest.raises(RunNotFoundError):
        history.run(run)
    for listing in (history.states, history.nodes, history.batches, history.items, history.logs):
        assert listing(run) == []
        assert len(listing(kept.id)) == 1
    assert rows(history_url) == dict.fromkeys((table.name for table in metadata.sorted_tables), 1)
    with pytest.raises(RunNotFoundError):
        history.append(run, 2, [a_log(run)], driver="first")
    # Coming back, it has nothing of its former life.
    history.append(run, 0, [a_run(run)], driver="first")
    assert history.states(run) == []


def rows(url: str) -> dict[str, int]:
    """How many rows each table has."""
    database = Database(parse(url))
    with database.read() as connection:
        counts = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
        }
    database.close()
    return counts


def test_workspaces_do_not_see_each_other(history_url: str) -> None:
    with SqlHistory(history_url) as ours, SqlHistory(history_url, workspace="b") as theirs:
        record = a_run(workspace="b", name="hidden", heartbeat=later(0))
        ours.append(record.id, 0, [record], driver="d")
        assert ours.runs() == []
        with pytest.raises(RunNotFoundError):
            ours.run("hidden")
        assert ours.lapse(later(100), 1.0, nobody) == []
        assert theirs.runs() == [record]
        assert theirs.run("hidden") == record
        assert theirs.lapse(later(100), 1.0, nobody) == [record.id]


def test_closing_twice_is_fine_and_writing_then_is_not(history: SqlHistory, run: UUID) -> None:
    history.close()
    history.close()
    with pytest.raises(HistoryError, match="closed"):
        history.append(run, 1, [a_log(run)], driver="first")
