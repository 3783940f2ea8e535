"""When which worker was busy with what: a bar per batch, a line per worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from ..core.interfaces import BatchRecord
from . import formats, progress

WIDTH, LINE_HEIGHT, BAR_HEIGHT = 720, 16, 11
MOST_LINES = 32
SHADES = ("#3b7ddd", "#2f9e58", "#8a63d2", "#1f9aa5", "#c77d0a", "#b4578f", "#5b6775")
GOOD = ("done", "recalled")


@dataclass(slots=True)
class Bar:
    """Batches of one node that follow each other so closely that they look like one."""

    start: float
    stop: float
    node: int
    bad: bool
    batches: int
    items: int


def lines_of(batches: Iterable[BatchRecord]) -> dict[str, list[Bar]]:
    """Bars by worker, in seconds since the first batch began; what looks like one bar is one."""
    ran = [b for b in batches if b.started is not None and b.ended is not None]
    ran.sort(key=lambda batch: _at(batch.started))
    if not ran:
        return {}
    first = _at(ran[0].started)
    pixel = max(_at(batch.ended) - first for batch in ran) / WIDTH
    lines: dict[str, list[Bar]] = {}
    for batch in ran:
        start, stop = _at(batch.started) - first, _at(batch.ended) - first
        line = lines.setdefault(batch.worker, [])
        bad = batch.outcome not in GOOD
        last = line[-1] if line else None
        alike = last is not None and (last.node, last.bad) == (batch.node, bad)
        if last is not None and alike and start - last.stop < pixel:
            last.stop = max(last.stop, stop)
            last.batches += 1
            last.items += batch.items
        else:
            line.append(Bar(start, stop, batch.node, bad, 1, batch.items))
    return lines


def _at(moment: datetime | None) -> float:
    assert moment is not None
    return moment.timestamp()


def timeline(batches: Sequence[BatchRecord], names: Mapping[int, str]) -> str:
    """A drawing of when which worker ran what; empty where nothing has ended yet.

    Parameters
    ----------
    batches
        Those that have ended.
    names
        Nodes' names by number.
    """
    lines = lines_of(batches)
    if not lines:
        return ""
    shown = list(lines.items())[:MOST_LINES]
    whole = max(bar.stop for line in lines.values() for bar in line) or 1.0
    height = LINE_HEIGHT * len(shown)
    nodes = sorted({bar.node for line in lines.values() for bar in line})
    shades = {node: SHADES[i % len(SHADES)] for i, node in enumerate(nodes)}
    rects = [
        _rect(bar, i, whole, shades[bar.node], names, worker)
        for i, (worker, line) in enumerate(shown)
        for bar in line
    ]
    legend = " ".join(
        f'<span style="margin-right:12px"><span style="color:{shades[node]}">■</span>'
        f" {escape(names.get(node, str(node)))}</span>"
        for node in nodes[:12]
    )
    left_out = len(lines) - len(shown)
    more = f", {left_out} more workers" if left_out else ""
    return (
        f'<div style="margin:4px 0 8px"><div style="font-size:12px">{legend}<span'
        f' style="opacity:.65">{len(batches):,} batches, {formats.duration(whole)}{more}</span></div>'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" style="max-width:100%">{"".join(rects)}</svg></div>'
    )


def _rect(
    bar: Bar, line: int, whole: float, shade: str, names: Mapping[int, str], worker: str
) -> str:
    told = (
        f"{names.get(bar.node, bar.node)} on {worker}: {bar.items:,} items in {bar.batches:,} "
        f"{'batch' if bar.batches == 1 else 'batches'}, {formats.duration(bar.stop - bar.start)}"
        f"{', ended badly' if bar.bad else ''}"
    )
    return (
        f'<rect x="{WIDTH * bar.start / whole:.1f}" y="{line * LINE_HEIGHT + 2}"'
        f' width="{max(1.0, WIDTH * (bar.stop - bar.start) / whole):.1f}" height="{BAR_HEIGHT}"'
        f' rx="1.5" fill="{progress.colour("Failed") if bar.bad else shade}">'
        f"<title>{escape(told)}</title></rect>"
    )
