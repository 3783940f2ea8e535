"""What every benchmark here prints: one JSON line per figure, after one line about the machine."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple


def own_home() -> str:
    """A fresh folder for history and storage, so that no run before this one is in the way."""
    home = tempfile.mkdtemp(prefix="headrace-benchmark-")
    os.environ["HEADRACE_HOME"] = home
    os.environ.setdefault("HEADRACE_DISPLAY", "none")
    return home


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A command line that describes itself by the first line of a module's text."""
    return argparse.ArgumentParser(description=(doc or "").partition("\n")[0])


def machine(*packages: str) -> None:
    """Print what the figures were taken on."""
    line = {
        "benchmark": "machine",
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "command": " ".join(["python", *sys.argv]),
        **{name: version(name) for name in ("pyarrow", *packages)},
    }
    print(json.dumps(line), flush=True)


def figure(benchmark: str, name: str, value: float, unit: str, **facts: Any) -> None:
    """Print one figure."""
    line = {"benchmark": benchmark, "figure": name, "value": round(value, 4), "unit": unit, **facts}
    print(json.dumps(line), flush=True)


def check(counts: Mapping[str, int], completed: int) -> None:
    """A figure counts only if the work was done.

    Raises
    ------
    RuntimeError
        Not all items completed.
    """
    if counts != {"Completed": completed}:
        raise RuntimeError(f"expected {completed} items Completed, got {dict(counts)}")


def timed(run: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Taken(NamedTuple):
    """What one case took, round by round."""

    wall: list[float]
    """Seconds on the clock."""
    cores: list[float]
    """Seconds on cores, of this process and its children: what load from elsewhere changes least."""


def interleaved(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Taken]:
    """Each case round after round, every second round in the opposite order."""
    import psutil

    me = psutil.Process()
    taken = {name: Taken([], []) for name in cases}
    for number in range(rounds):
        for name in list(cases) if number % 2 == 0 else list(cases)[::-1]:
            before = core_seconds(me)
            taken[name].wall.append(timed(cases[name]))
            taken[name].cores.append(core_seconds(me) - before)
    return taken


def core_seconds(process: Any) -> float:
    """Time on cores of a process and of all below it, that are still there."""
    import psutil

    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios within rounds: what slowed a whole round slowed both."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which of the values the median lies in at least 95 of 100 cases (by ranks, binomial).

    Of fewer than six values it is the least and the greatest, which is less sure.
    """
    ordered, below, rank = sorted(values), 0.0, 0
    while 2 * rank < len(ordered):
        below += math.comb(len(ordered), rank) / 2 ** len(ordered)
        if below > 0.025:
            break
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[-rank]
