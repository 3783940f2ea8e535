"""Long logs come whole."""

import uuid
from datetime import UTC, datetime
from pathlib import Path

from headrace.core.interfaces import LogRecord, RunRecord
from headrace.core.recorded import RecordedRun
from headrace.history.sql import SqlHistory


def test_more_lines_than_one_page(tmp_path: Path) -> None:
    now, run = datetime.now(UTC), uuid.uuid4()
    record = RunRecord(
        run, "f", "n", "Running", "RUNNING", "", "threads", "s", "{}", (), None, "1", now
    )
    lines = [LogRecord(run, -1, -1, now, 20, "x", str(number)) for number in range(25_000)]
    with SqlHistory(tmp_path / "h.db") as history:
        history.append(run, 0, [record, *lines], driver="d")
        found = RecordedRun(history, run).logs()
    assert [line.message for line in found] == [str(number) for number in range(25_000)]
