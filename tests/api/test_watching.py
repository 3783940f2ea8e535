"""A run that another process drives is shown as it goes on, from what history tells of it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headrace import flow, task
from headrace.core.errors import HistoryError
from headrace.core.interfaces import Display, NodeRecord, RunRecord, RunView
from headrace.core.recorded import RecordedRun
from headrace.core.settings import settings_override
from headrace.history.sql import SqlHistory

SECONDS = 60.0


class Seen(Display):
    """Keeps what it is shown, and says when."""

    def __init__(self) -> None:
        self.views: list[RunView] = []
        self.last: list[RunView] = []
        self.moved = threading.Event()

    def update(self, view: RunView) -> None:
        self.views.append(view)
        if view.nodes and view.nodes[0].counts.get("Completed"):
            self.moved.set()

    def close(self, view: RunView) -> None:
        self.last.append(view)


def test_it_is_shown_until_it_ends() -> None:
    go_on = threading.Event()

    @task
    def waits(i: int) -> int:
        if i:
            go_on.wait(SECONDS)
        if i == 7:
            raise ValueError("not seven")
        return i

    @flow(executor="threads")
    def long() -> Any:
        return waits.map(range(20))

    run = long.start()
    while not run.status.nodes:
        pass
    other, seen = RecordedRun(run.info.history, run.id), Seen()
    assert other.show.add(seen)
    assert seen.moved.wait(SECONDS)
    other.wait(0.01)
    assert not other.done()
    assert not seen.last
    go_on.set()
    other.watch()
    (last,) = seen.last
    assert seen.views[0].state == "Running"
    assert seen.views[0].nodes[0].total == 20
    assert last.state == "Failed"
    assert last.nodes[0].counts == {"Completed": 19, "Failed": 1}
    assert last.nodes[0].failures == {"ValueError: not seven": 1}
    assert not other.show.add(Seen())


def a_run(**changes: Any) -> RunRecord:
    now = datetime.now(UTC)
    given: dict[str, Any] = {
        "id": uuid4(),
        "flow": "f",
        "name": "n",
        "state": "Running",
        "state_type": "RUNNING",
        "message": "",
        "executor": "threads",
        "storage": "s",
        "parameters": "{}",
        "tags": (),
        "parent": None,
        "version": "1",
        "created": now,
        "started": now,
    }
    return RunRecord(**given | changes)


def a_node(run: RunRecord, done: int) -> NodeRecord:
    return NodeRecord(
        run.id, 0, "a-0", "a", True, "Running", 100, {"Completed": done, "Pending": 3}
    )


@pytest.fixture
def history(tmp_path: Path) -> Any:
    with SqlHistory(tmp_path / "h.db") as found:
        yield found


def test_rates_come_from_what_changed(history: SqlHistory) -> None:
    run = a_run()
    history.append(run.id, 0, [run, a_node(run, 10)], driver="d")
    view = RecordedRun(history, run.id).show.view
    first = view().nodes[0]
    assert (first.rate, first.eta_seconds) == (0.0, None)
    history.append(run.id, 1, [a_node(run, 30)], driver="d")
    second = view().nodes[0]
    assert second.rate > 0
    assert second.eta_seconds == pytest.approx(70 / second.rate)


def test_a_run_whose_driver_died_ends(history: SqlHistory) -> None:
    old = datetime.now(UTC) - timedelta(hours=1)
    dead, alive = a_run(heartbeat=old), a_run(heartbeat=datetime.now(UTC))
    for each in (dead, alive):
        history.append(each.id, 0, [each], driver="d")
    with settings_override(heartbeat_seconds=2):
        found, seen = RecordedRun(history, dead.id), Seen()
        found.show.add(seen)
        found.watch()
        assert RecordedRun(history, alive.id).state.name == "Running"
    assert seen.last[0].state == "Crashed"


def test_an_outage_of_history_is_waited_out_and_a_deleted_run_ends(
    history: SqlHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run()
    history.append(run.id, 0, [run], driver="d")
    show = RecordedRun(history, run.id).show
    before = show.view()

    def down(_run: Any) -> None:
        raise HistoryError("down")

    with monkeypatch.context() as patch:
        patch.setattr(history, "nodes", down)
        assert show.view() is before
        assert not show.ended()
    history.delete(run.id)
    assert show.view() is before
    assert show.ended()
