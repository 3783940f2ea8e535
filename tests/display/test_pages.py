"""What a notebook shows of runs, futures, datasets and the rest: of real ones, well formed, escaped."""

from __future__ import annotations

import re
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from IPython.core.interactiveshell import InteractiveShell

import headrace
from headrace.core.interfaces import BatchRecord
from headrace.core.recorded import RecordedRun
from headrace.core.views import Signatures
from headrace.display.timeline import lines_of, timeline

from .test_html import texts
from .views import a_node, a_view


def shown(thing: Any) -> str:
    """All texts of what a notebook shows, which must be well formed."""
    return " | ".join(texts(thing._repr_html_()))


@headrace.task
def load(i: int) -> dict[str, Any]:
    return {"i": i, "text": f"<row {i}>"}


@headrace.task
def clean(row: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    """Refuse some rows.

    Not for the faint.
    """
    if strict and row["i"] % 10 == 7:
        raise ValueError(f"bad row {row['i']}")
    return row


@headrace.flow(executor="threads", name="prepare <it>")
def prepare(n: int) -> Any:
    return clean.map(load.map(range(n)))


@pytest.fixture
def formatter() -> Iterator[Any]:
    """What IPython, as it is in a notebook's kernel, asks for what a cell's last line shows."""
    yield InteractiveShell.instance().display_formatter
    InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def run() -> Any:
    run = prepare.start(40)
    run.wait()
    return run


def test_a_run_shows_its_graph_nodes_failures_and_when_which_worker_was_busy(run: Any) -> None:
    page = run._repr_html_()
    told = shown(run)
    assert "prepare <it>" in told
    assert "36/40" in told
    assert re.search(r"4 \| clean-0 \| ValueError: bad row \d?7", told)  # the first that came
    assert "load-0" in told
    tree = ET.fromstring(page)
    graph, *_, lines = tree.iter("{http://www.w3.org/2000/svg}svg")
    assert any("clean-0" in "".join(text.itertext()) for text in graph.iter())
    assert [title for title in lines.itertext() if "items in" in title]


def test_a_notebook_shows_the_failures_of_a_run_and_no_other_table(
    run: Any, formatter: Any
) -> None:
    for failures in (run.failures(), RecordedRun(run.info.history, run.id).failures()):
        assert isinstance(failures, pa.Table)
        page = formatter.format(failures)[0]["text/html"]
        told = " | ".join(texts(page))
        assert "4 items" in told
        assert "'clean-0' item 7 | 1 | ValueError: bad row 7 | row=" in told
        told = " | ".join(texts(formatter.format(failures.slice(1, 1))[0]["text/html"]))
        assert "1 item" in told
        assert "item 17" in told
    assert "text/html" not in formatter.format(pa.table({"node": ["a"]}))[0]


def test_a_users_own_page_for_tables_is_kept(run: Any, formatter: Any) -> None:
    formatter.formatters["text/html"].for_type(pa.Table, lambda _: "<i>mine</i>")
    failures = run.failures()
    shown_as = [formatter.format(t)[0]["text/html"] for t in (failures, pa.table({}))]
    assert "bad row 7" in shown_as[0]
    assert shown_as[1] == "<i>mine</i>"


def test_lineage_shows_its_steps_escaped(tmp_path: Path) -> None:
    @headrace.task(name="<keep>")
    def keep(table: pa.Table) -> pa.Table:
        return table

    @headrace.flow(executor="threads")
    def keeps() -> Any:
        return keep.map(
            headrace.open_dataset(tmp_path / "raw.parquet").partitions(rows=5)
        ).dataset()

    pq.write_table(pa.table({"a": range(10)}), tmp_path / "raw.parquet", row_group_size=5)
    told = shown(keeps().lineage())
    assert "<keep>" in told
    assert "1 source files" in told
    assert "2 | 1 of files" in told


def test_a_recorded_run_shows_the_same(run: Any) -> None:
    recorded = RecordedRun(run.info.history, run.id)
    told = shown(recorded)
    assert "36/40" in told
    assert re.search(r"4 \| clean-0 \| ValueError: bad row \d?7", told)  # the first that came
    assert recorded.status.nodes[1].upstream == (0,)


def test_the_time_of_a_run_stands_still_when_it_has_ended(run: Any) -> None:
    first, second = run.status, run.status
    assert first.elapsed_seconds == second.elapsed_seconds
    assert first.busy_past == second.busy_past


def test_a_cancelled_run_is_not_shown_as_cancelling() -> None:
    @headrace.flow(executor="threads")
    def waits() -> None:
        run.cancel()
        load.submit(1).wait()

    run = waits.start()
    run.wait()
    assert run.status.state == "Cancelled"


def test_the_total_of_a_list_is_known_though_not_all_of_it_was_pulled() -> None:
    go_on = threading.Event()

    @headrace.task
    def waits(i: int) -> int:
        go_on.wait(60)
        return i

    @headrace.flow(executor="threads")
    def long() -> None:
        clean.map(waits.map(range(100_000))).wait()

    run = long.start()
    while len(run.status.nodes) < 2:  # none at first, which is no error
        time.sleep(0.01)
    totals = [node.total for node in run.status.nodes]
    run.cancel()
    go_on.set()
    run.wait()
    assert totals == [100_000, 100_000]
    for view in (run.status, RecordedRun(run.info.history, run.id).status):
        assert [(node.state, node.total) for node in view.nodes] == [("Cancelled", 100_000)] * 2
        assert sum(view.nodes[0].counts.values()) < 100_000


def test_a_map_shows_its_line_and_the_first_failures() -> None:
    rows = clean.map(load.map(range(20)))
    rows.wait()
    told = shown(rows)
    assert "18/20" in told
    assert "2 failed" in told
    assert "'clean-0' item 7 | 1 | ValueError: bad row 7 | row={'i': 7, 'text': '<row 7>'}" in told
    assert "Completed" in shown(rows[3])
    assert "ValueError: bad row 7" in shown(rows[7].state)


def test_an_item_shows_its_state_and_error(run: Any) -> None:
    told = shown(run.item("clean-0", 17))
    assert told.startswith("clean-0 | [17] | Failed")
    assert "ValueError: bad row 17" in told
    assert "'row': {'i': 17, 'text': '<row 17>'}" in told
    assert "test_pages.py" in told  # the traceback
    assert "output | {'i': 3, 'text': '<row 3>'}" in shown(run.item("clean-0", 3))


def test_logs_are_followed_to_the_run_s_end() -> None:
    go_on = threading.Event()

    @headrace.task
    def says(i: int) -> None:
        headrace.get_run_logger().info("before %s", i)
        go_on.wait(60)
        headrace.get_run_logger().info("after %s", i)

    @headrace.flow(executor="threads")
    def talks() -> None:
        says.submit(1).wait()

    run = talks.start()
    told: list[str] = []
    for line in run.logs(20, follow=True):
        told.append(line.message)
        if line.message == "before 1":
            go_on.set()
    assert told[:2] == ["before 1", "after 1"]
    assert "Completed" in told[-1]
    again = RecordedRun(run.info.history, run.id).logs(20, follow=True)
    assert [line.message for line in again] == told


def test_a_dataset_shows_its_size_schema_and_first_rows(tmp_path: Path) -> None:
    table = pa.table({"i": range(100), "text": ["<b>x</b>"] * 100})
    pq.write_table(table, tmp_path / "rows.parquet")
    told = shown(headrace.open_dataset(tmp_path / "rows.parquet"))
    assert "1 file ·" in told
    assert "i | int64 | text | string" in told
    assert told.endswith("3 | <b>x</b> | 4 | <b>x</b>")


def test_a_dataset_of_many_columns_shows_some() -> None:
    @headrace.task
    def wide(i: int) -> pa.Table:
        return pa.table({f"column {k}": [i] for k in range(40)})

    told = shown(wide.map([0, 1, 2]).dataset())
    assert "3 rows" in told
    assert "40 columns" in told
    assert "not shown: column 12, column 13" in told


def test_tasks_and_flows_show_what_they_are() -> None:
    told = shown(clean.with_options(retries=3))
    assert told.startswith("task | clean | (row: 'dict[str, Any]', strict: 'bool' = True)")
    assert "Refuse some rows." in told
    assert "faint" not in told
    assert "retries | 3" in told
    assert "executor | 'threads'" in shown(prepare)


def test_an_executor_shows_no_value_of_a_variable() -> None:
    told = shown(headrace.ProcessesExecutor(max_workers=3, env={"TOKEN": "secret"}))
    assert "max_workers | 3" in told
    assert "TOKEN" in told
    assert "secret" not in told


@pytest.mark.parametrize("name", ["Inline", "Threads", "Processes", "Dask", "Ray"])
def test_every_executor_shows_itself(name: str) -> None:
    assert f"{name}Executor" in shown(getattr(headrace, f"{name}Executor")())


def test_a_list_of_runs_is_a_table_also_in_part(run: Any) -> None:
    told = shown(headrace.runs(flow=run.flow_name)[:5])
    assert run.name in told
    assert "executor" in told


# ------------------------------------------------------------------------------------- the timeline


def a_batch(worker: str, start: float, stop: float, **changes: Any) -> BatchRecord:
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    fields: dict[str, Any] = {
        "run": uuid4(), "batch": 0, "node": 0, "attempt": 1, "items": 10, "first": 0, "last": 9,
        "worker": worker, "host": "h", "pid": 1, "started": begun + timedelta(seconds=start),
        "ended": begun + timedelta(seconds=stop), "outcome": "done",
    }  # fmt: skip
    return BatchRecord(**(fields | changes))


def test_what_looks_like_one_bar_is_one() -> None:
    batches = [a_batch("a", i, i + 0.999) for i in range(1000)]
    batches += [a_batch("b", 0, 10), a_batch("b", 500, 510), a_batch("b", 510, 520, outcome="died")]
    lines = lines_of(batches)
    (bar,) = lines["a"]
    assert (bar.items, bar.batches) == (10_000, 1000)
    assert [(round(b.start), b.bad) for b in lines["b"]] == [(0, False), (500, False), (510, True)]


def test_a_timeline_is_cut_at_so_many_workers() -> None:
    page = timeline([a_batch(f"w{i}", i, i + 1) for i in range(100)], {0: "clean-0"})
    assert "68 more workers" in page
    assert timeline([], {}) == ""
    assert timeline([a_batch("a", 0, 1, started=None)], {}) == ""


def test_failures_of_one_kind_count_together() -> None:
    kinds = Signatures()
    kinds.take(f"ValueError: bad row {i} in 'file-{i}'" for i in range(100))
    kinds.take(["KeyError: 'x'"])
    assert kinds.commonest(5) == {"ValueError: bad row 0 in 'file-0'": 100, "KeyError: 'x'": 1}
    assert kinds.taken == 101


def test_the_slots_in_use_are_drawn_over_time() -> None:
    from headrace.display import html

    past = ((0.0, 0), (1.0, 4), (2.0, 2))
    drawing = html.busy_line(a_view(a_node(), busy_past=past))
    (polygon,) = ET.fromstring(drawing.strip()).iter("{http://www.w3.org/2000/svg}polygon")
    assert polygon.get("points") == "0,18 0.0,18.0 70.0,0.0 140.0,9.0 140,18"
    assert html.busy_line(a_view(a_node())) == ""


def test_a_snapshot_shows_itself(run: Any) -> None:
    assert "36/40" in shown(run.status)


def test_a_forecast_shows_each_node_and_what_failed() -> None:
    told = shown(prepare.sample(20)(1000))
    assert "forecast of" in told
    assert "load-0 | 20 of 1,000" in told
    assert "2/20 states failed" in told
