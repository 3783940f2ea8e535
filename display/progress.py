"""What a line about a node says, whatever it is shown on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..core.graph import COLOURS, OTHER_COLOUR
from ..core.interfaces import NodeView, RunView
from . import formats

GOOD = ("Completed", "Cached")
BAD = ("Failed", "TimedOut", "Crashed")
WAITING = ("Pending",)
FINISHED_RUN = ("Completed", "Cached", *BAD, "Cancelled", "Skipped")


def colour(state: str) -> str:
    """The colour of a state, as ``#rrggbb``."""
    return COLOURS.get(state, OTHER_COLOUR)


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: a state, and from where to where it goes, in cells or percent."""

    state: str
    start: float
    stop: float


@dataclass(frozen=True, slots=True)
class Line:
    """The texts about one node; what there is nothing to say about is empty."""

    name: str
    state: str
    done: str
    """Items completed, and of how many: ``980/2,000``, ``980`` while the total is not known."""
    rate: str
    time: str
    eta: str
    size: str
    failed: str


def line(node: NodeView) -> Line:
    """The texts about a node."""
    finished = node.state in FINISHED_RUN
    return Line(
        name=node.name,
        state=node.state,
        done=_done(node),
        rate="" if finished else formats.rate(node.rate),
        time=formats.duration(node.elapsed_seconds) if node.elapsed_seconds else "",
        eta="" if finished or node.eta_seconds is None else formats.duration(node.eta_seconds),
        size=formats.size(node.bytes) if node.bytes else "",
        failed=_failed(node.counts),
    )


def completed(counts: Mapping[str, int]) -> int:
    """Items that have a value."""
    return sum(counts.get(state, 0) for state in GOOD)


def failures(counts: Mapping[str, int]) -> int:
    """Items that ended without a value by a fault of their own."""
    return sum(counts.get(state, 0) for state in BAD)


def _done(node: NodeView) -> str:
    if not node.mapped:
        return node.state
    done = completed(node.counts)
    if node.total is None:
        return formats.exact(done)
    return f"{formats.exact(done)}/{formats.exact(node.total)}"


def _failed(counts: Mapping[str, int]) -> str:
    parts = [(failures(counts), "failed")]
    parts += [(counts.get(state, 0), state.lower()) for state in ("Skipped", "Cancelled")]
    return ", ".join(f"{formats.exact(n)} {word}" for n, word in parts if n)


def segments(node: NodeView, room: float, least: float) -> list[Segment]:
    """A bar's parts, ``room`` wide in all; each state that has items is at least ``least`` wide.

    While a running node's total is not known there are none: a bar would claim to know.
    """
    if node.mapped and node.total is None and node.state not in FINISHED_RUN:
        return []
    counts = {s: n for s, n in node.counts.items() if n > 0 and s not in WAITING}
    if not counts and not node.mapped and node.state not in WAITING:
        counts = {node.state: 1}
    whole = max(node.total or 0, sum(node.counts.values()), sum(counts.values()))
    order = list(COLOURS)
    shown = sorted(counts.items(), key=lambda p: order.index(p[0]) if p[0] in order else 99)
    widths = [max(least, room * n / whole) for _, n in shown]
    over = max(1.0, sum(widths) / room)
    parts: list[Segment] = []
    at = 0.0
    for (state, _), width in zip(shown, widths, strict=True):
        parts.append(Segment(state, at, at + width / over))
        at += width / over
    return parts


def summary(view: RunView) -> str:
    """A run in one plain line: name, state, time, items, failures."""
    done = sum(completed(node.counts) for node in view.nodes)
    bad = sum(failures(node.counts) for node in view.nodes)
    parts = [
        f"{view.flow}/{view.name}: {view.state} after {formats.duration(view.elapsed_seconds)}",
        f"{formats.exact(done)} items",
    ]
    if bad:
        parts.append(f"{formats.exact(bad)} failed")
    if view.message:
        parts.append(" ".join(view.message.split()))
    return ", ".join(parts)


def signatures(view: RunView, most: int) -> tuple[list[tuple[str, str, int]], int]:
    """The commonest failures as (node, signature, items), and how many signatures are left out."""
    found = [
        (node.name, signature, n) for node in view.nodes for signature, n in node.failures.items()
    ]
    found.sort(key=lambda one: -one[2])
    return found[:most], max(0, len(found) - most)
