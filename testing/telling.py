"""What workers tell arrives: every log line, in order, with its item."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..core.logs import get_run_logger
from ..core.registry import open_history
from ..core.runs import FlowRun
from ..core.settings import get_settings
from ..core.tasks import task
from .suite import Suite

_ITEMS = 50
_LINES = 200


@task
def talk(item: int) -> int:
    logger = get_run_logger()
    for line in range(_LINES):
        logger.info("item %d line %d", item, line)
    return item


@task(log_prints=True)
def say(item: int) -> int:
    print("said", item)
    return item


@task
def whisper(item: int) -> int:
    print("whispered", item)
    return item


@task
def levels(item: int) -> int:
    logger = get_run_logger()
    logger.debug("too low")
    logger.warning("careful: %d", item)
    return item


class TellingConformance(Suite):
    """Log lines reach history complete, whatever the batches were."""

    def test_ten_thousand_lines_arrive_and_keep_their_order(self) -> None:
        run = self.watched(lambda: talk.map(range(_ITEMS)).result())
        lines = [line for line in self._lines(run) if line.startswith("item ")]
        assert len(lines) == _ITEMS * _LINES
        by_item: dict[str, list[str]] = {}
        for line in lines:
            by_item.setdefault(line.split()[1], []).append(line)
        for item in range(_ITEMS):
            assert by_item[str(item)] == [f"item {item} line {k}" for k in range(_LINES)]

    def test_prints_are_lines_where_the_task_says_so(self, capfd: Any) -> None:
        def body() -> Any:
            return say.map(range(5)).result(), whisper.map(range(5)).result()

        lines = self._lines(self.watched(body))
        assert Counter(line for line in lines if line.startswith("said")) == Counter(
            f"said {k}" for k in range(5)
        )
        assert not [line for line in lines if line.startswith("whispered")]
        capfd.readouterr()

    def test_lines_carry_their_level_and_item(self) -> None:
        run = self.watched(lambda: levels.map(range(4)).result())
        found = [(r.position, r.level, r.message) for r in run.logs() if r.node >= 0]
        assert sorted(found) == [(k, 30, f"careful: {k}") for k in range(4)]

    @staticmethod
    def _lines(run: FlowRun[Any]) -> list[str]:
        """All messages of a run's tasks, page by page."""
        history = open_history(get_settings().history_url)
        found: list[str] = []
        after = 0
        while page := history.logs(run.id, after=after, limit=4_000):
            found += [record.message for _, record in page if record.node >= 0]
            after = page[-1][0]
        return found
