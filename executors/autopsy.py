"""What can be known of a child's end: why, which items are suspect, and whether memory ran out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from ..core import forks
from ..core.interfaces import Batch, Positions, Report

OUT_OF_MEMORY = 77
"""Exit code of a child whose own machinery met a `MemoryError`."""


def cause_of(code: int | None) -> str:
    """An exit code as `subprocess.Popen.returncode` gives it, in words."""
    if code is None:
        return "its connection broke"
    if code == OUT_OF_MEMORY:
        return "out of memory (MemoryError)"
    if code < 0:
        return f"signal {_name(-code)} ({-code})"
    if 128 < code < 193:  # as a shell tells it
        return f"exit code {code} (signal {_name(code - 128)})"
    return f"exit code {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"{number}"


def was_killed(code: int | None) -> bool:
    """Whether SIGKILL ended it, as the kernel does when memory runs out."""
    return code in (-signal.SIGKILL, 128 + signal.SIGKILL)


class MemoryWatch:
    """Which of the children that SIGKILL ended died because memory ran out, as far as is known.

    The kernel counts its kills for this process's control group (or machine), and names nobody: a
    kill that it counted since `start`, and that no other child has claimed, is ascribed to the
    child that asks.
    """

    def __init__(self) -> None:
        self._lock = forks.own_lock(threading.Lock())
        self._known: int | None = None

    def start(self) -> None:
        """Take note of the count, once: what came before is nobody's."""
        with self._lock:
            if self._known is None:
                self._known = _oom_kills()

    def claim(self) -> bool:
        """Whether the kernel has killed one more than is accounted for."""
        with self._lock:
            before, now = self._known or 0, _oom_kills()
            self._known = min(before + 1, now) if now > before else before
            return now > before


memory_watch = MemoryWatch()


def _oom_kills() -> int:
    for path, word in _counters():
        count = _count(path, word)
        if count is not None:
            return count
    return 0


def _counters() -> Iterable[tuple[Path, str]]:
    """Where to look, the narrowest first."""
    with suppress(OSError, ValueError):
        for group in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = group.split(":", 2)
            if not controllers:
                yield Path("/sys/fs/cgroup" + path, "memory.events"), "oom_kill"
            elif "memory" in controllers.split(","):
                yield Path("/sys/fs/cgroup/memory" + path, "memory.oom_control"), "oom_kill"
    yield Path("/sys/fs/cgroup/memory.events"), "oom_kill"
    yield Path("/proc/vmstat"), "oom_kill"


def _count(path: Path, word: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == word:
                return int(value)
    return None


def position(batch: Batch, index: int) -> int:
    """The ``index``-th position of a batch."""
    for start, stop in batch.positions.runs:
        if index < stop - start:
            return start + index
        index -= stop - start
    return -1


def settled(batch: Batch, report: Report) -> list[Positions]:
    """Positions that a report settles: committed by the last stage, or failed in any."""
    last = batch.stages[-1].node
    done = [receipt.positions for receipt in report.receipts if receipt.node == last]
    if report.failures:
        done.append(Positions.of(sorted({failure.position for failure in report.failures})))
    return done


def suspects(batch: Batch, started: int, done: Iterable[Positions]) -> tuple[int, ...]:
    """Positions that had started and are not settled."""
    gone = {position for positions in done for position in positions}
    return tuple(p for p in islice(batch.positions, max(started, 0)) if p not in gone)


def time_limit(batch: Batch, stage: int) -> float | None:
    """Seconds after which an item of a stage is ended by force.

    A little later than its ``timeout_seconds``, which the body enforces by itself where it can: so
    it loses nothing but that item.
    """
    if not 0 <= stage < len(batch.stages):
        return None
    limit = batch.stages[stage].timeout_seconds
    return None if limit is None else limit + min(batch.grace_seconds, 0.5 + 0.05 * limit)


def limits(batch: Batch) -> bool:
    """Whether any stage has a time limit."""
    return any(stage.timeout_seconds is not None for stage in batch.stages)
