"""A million items cost the machine work by the batch, not by the item: Python calls are counted."""

from __future__ import annotations

import pickle
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headrace.core.columns import Chunk
from headrace.core.commands import Command, Feed, Submit
from headrace.core.interfaces import End, Outcome, Part, Positions, Receipt, Report
from headrace.core.machine import Machine
from headrace.core.nodes import Node, NodeOptions

ITEMS = 1_000_000
RATE = 1e-6


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many Python functions were called, and steps of Python generators taken."""
    calls = [0]

    def profile(_frame: Any, event: str, _arg: Any) -> None:
        if event == "call":
            calls[0] += 1

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def drive(machine: Machine, commands: list[Command], source: list[int]) -> int:
    """Answer commands at once, until there are none; gives how many batches there were."""
    todo, fed, batches, now = deque(commands), 0, 0, 1.0
    while todo or machine.next_time() is not None:
        now += 0.01
        if not todo:
            todo.extend(machine.tick(now))
            continue
        command = todo.popleft()
        if isinstance(command, Feed):
            count = min(command.items, ITEMS - fed)
            column = source[fed : fed + count]
            fed += count
            todo.extend(
                machine.fed(
                    command.node, [column], 16 * count, exhausted=fed == ITEMS, error=None, now=now
                )
            )
        elif isinstance(command, Submit):
            batches += 1
            flight = command.flight
            where = flight.chunk.positions
            receipts = tuple(
                Receipt(
                    node.id,
                    flight.id,
                    flight.attempts[stage],
                    Part(f"{node.id}-{flight.id}", "arrow", "int", 8, len(where), 0),
                    where,
                    1,
                    now,
                    now,
                    0.0,
                )
                for stage, node in enumerate(flight.nodes)
                if flight.committed[stage]
            )
            end = End(Outcome.DONE, seconds=len(where) * RATE)
            todo.extend(
                machine.report(
                    Report("r", flight.id, receipts=receipts, end=end, started=len(where)), now
                )
            )
    return batches


def chain(length: int, *, fuse: bool = True) -> tuple[Machine, list[Node], list[Command]]:
    machine = Machine(lambda _p, _n: 2)
    nodes: list[Node] = []
    commands: list[Command] = []
    for number in range(length):
        link = nodes[-1] if nodes else None
        node = Node(number, f"n{number}", "t", NodeOptions(fuse=fuse), False, link=link)
        nodes.append(node)
        commands += machine.add(node, None, 0.0)
    return machine, nodes, commands


def test_a_million_items() -> None:
    machine, (node,), commands = chain(1)
    source = list(range(ITEMS))
    with counted() as calls:
        batches = drive(machine, commands, source)
    assert node.state == "Completed" and node.items.named_counts() == {"Completed": ITEMS}
    assert batches < 200
    assert calls[0] < 200 * batches


def test_a_million_items_through_three_maps_apart() -> None:
    machine, nodes, commands = chain(3, fuse=False)
    source = list(range(ITEMS))
    with counted() as calls:
        batches = drive(machine, commands, source)
    assert all(n.items.named_counts() == {"Completed": ITEMS} for n in nodes)
    assert batches < 800
    assert calls[0] < 300 * batches


def test_a_consumer_that_comes_late_takes_a_million_at_once() -> None:
    machine, (first,), commands = chain(1)
    drive(machine, commands, list(range(ITEMS)))
    late = Node(1, "late", "t", NodeOptions(), False, link=first)
    with counted() as calls:
        batches = drive(machine, machine.add(late, None, 5.0), [])
    assert late.items.named_counts() == {"Completed": ITEMS}
    assert calls[0] < 500 * batches


def test_every_second_item_is_no_dearer() -> None:
    """Scattered positions are worked on as arrays, too."""
    machine = Machine(lambda _p, _n: 2)
    node = Node(0, "n", "t", NodeOptions(), False)
    machine.add(node, None, 0.0)
    where = Positions(tuple((i, i + 1) for i in range(0, 200_000, 2)))
    with counted() as calls:
        node.items.grow(200_000)
        chunk = Chunk(where, [list(range(100_000))])
        head, tail = chunk.take(50_000)
        assert tail is not None
        machine.queue(node, Chunk.join([tail, head]))
        part = Part("p", "arrow", "int", 8, 100_000, 0)
        machine.receipt(Receipt(0, 0, 1, part, where, 1, 0.0, 0.0, 0.0))
        assert len(node.items.column(where)) == 100_000
    assert calls[0] < 2000


def test_states_take_a_few_bytes_an_item() -> None:
    _, (node,), _ = chain(1)
    node.items.grow(ITEMS)
    assert len(pickle.dumps(node.items)) < 6 * ITEMS
