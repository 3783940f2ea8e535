"""Random graphs, and the serial oracle that says what becomes of them.

A graph is data: nodes in order, each a single call or a map, over constants or earlier nodes. `play`
runs it as a flow; `foretell` computes values, states and attempts with loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st

from headrace import context, task, unmapped
from headrace.testing import Tally

FAILS = -1
"""Attempts of an item that never succeeds."""


@dataclass(frozen=True)
class Node:
    """One task call."""

    kind: str
    """``single``, ``map``, or ``reduce`` (a single call over a whole map)."""
    source: int | None
    """Number of an earlier node, or None: constants."""
    items: int
    """Of a map over constants."""
    fail: tuple[int, ...]
    """Failing attempts before one succeeds, by position modulo its length; `FAILS`: for ever."""
    retries: int
    after: int | None
    """Number of an earlier node that it waits for without its data."""


def nodes(number: int) -> st.SearchStrategy[Node]:
    """The ``number``-th node of a graph."""
    earlier = st.none() | st.integers(0, number - 1) if number else st.none()
    fail = st.lists(st.sampled_from([0, 0, 0, 0, 1, 2, FAILS]), min_size=1, max_size=4).map(tuple)
    return st.builds(
        Node, st.sampled_from(["single", "map", "map", "reduce"]), earlier, st.integers(0, 7), fail,
        st.integers(0, 2), earlier,
    )  # fmt: skip


@st.composite
def graphs(draw: Any) -> list[Node]:
    """Graphs of up to six nodes."""
    return [draw(nodes(number)) for number in range(draw(st.integers(1, 6)))]


# ---------------------------------------------------------------------------------- as a flow


def worth(value: Any) -> int:
    """A value as a number, whatever it is."""
    return sum(map(worth, value)) if isinstance(value, list) else int(value)


@task
def step(value: Any, number: int, node: Node, tally: Tally) -> int:
    position = context.position
    attempt = tally.note(f"{number}-{position}")
    fail = node.fail[position % len(node.fail)]
    if fail == FAILS or attempt <= fail:
        raise ValueError(f"{number}-{position}")
    return worth(value) * 3 + number + position


def play(graph: list[Node], tally: Tally) -> list[Any]:
    """Run a graph; per node the item states and values (None where there is none)."""
    futures: list[Any] = []
    for number, node in enumerate(graph):
        call = step.with_options(retries=node.retries)
        wait_for = [] if node.after is None else [futures[node.after]]
        shared = {"number": number, "node": node, "tally": tally}
        source = 5 if node.source is None else futures[node.source]
        mapped = node.source is not None and is_map(graph, node.source)
        if node.kind == "map" and (mapped or node.source is None):
            over = range(node.items) if node.source is None else source
            whole = {name: unmapped(value) for name, value in shared.items()}
            futures.append(call.map(over, wait_for=wait_for, **whole))
        else:
            futures.append(call.submit(source, wait_for=wait_for, **shared))
    found: list[Any] = []
    for number, future in enumerate(futures):
        future.wait()
        each = future[:] if is_map(graph, number) else [future]
        states = [item.state for item in each]
        names = [state.name for state in states]
        values = [s.result() if s.is_completed() else None for s in states]
        if future.state.name == "Skipped":  # what it maps over was not even looked at
            size = width(graph, number)
            names, values = ["Skipped"] * size, [None] * size
        found.append((names, values))
    return found


def is_map(graph: list[Node], number: int) -> bool:
    """Is a node a map?"""
    node = graph[number]
    return node.kind == "map" and (node.source is None or is_map(graph, node.source))


def width(graph: list[Node], number: int) -> int:
    """Items of a node."""
    node = graph[number]
    if not is_map(graph, number):
        return 1
    return node.items if node.source is None else width(graph, node.source)


# -------------------------------------------------------------------------------- the oracle


def foretell(graph: list[Node]) -> tuple[list[Any], dict[str, int]]:
    """What `play` gives, and the attempts of every item that runs at all."""
    found: list[Any] = []
    attempts: dict[str, int] = {}
    for number, node in enumerate(graph):
        mapped = is_map(graph, number)
        blocked = node.after is not None and not fine(found[node.after])
        if mapped and node.source is None:
            inputs: list[Any] = list(range(node.items))
        elif mapped:
            assert node.source is not None
            names, values = found[node.source]
            inputs = [v if n == "Completed" else None for n, v in zip(names, values, strict=True)]
        elif node.source is None:
            inputs = [5]
        else:
            names, values = found[node.source]
            whole = values if is_map(graph, node.source) else values[0]
            inputs = [whole if fine(found[node.source]) else None]
        names_here: list[str] = []
        values_here: list[Any] = []
        for position, value in enumerate(inputs):
            if blocked or value is None:
                names_here.append("Skipped")
                values_here.append(None)
                continue
            fail = node.fail[position % len(node.fail)]
            good = fail != FAILS and fail <= node.retries
            attempts[f"{number}-{position}"] = fail + 1 if good else node.retries + 1
            names_here.append("Completed" if good else "Failed")
            values_here.append(worth(value) * 3 + number + position if good else None)
        found.append((names_here, values_here))
    return found, attempts


def fine(outcome: Any) -> bool:
    """Did all items of a node complete?"""
    return all(name == "Completed" for name in outcome[0])
