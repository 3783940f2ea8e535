"""The machine alone, on random graphs with random scripts and random faults."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from core.oracle import expected
from core.simulated import Faults, NodeSpec, Script, Simulation
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.commands import Ask, Command, Dropped, Feed, HandOver, Submit
from headrace.core.interfaces import (
    End,
    Failure,
    FailureKind,
    Outcome,
    Part,
    Positions,
    Receipt,
    Report,
    Resources,
)
from headrace.core.items import ItemState
from headrace.core.machine import LATE_SECONDS, Machine
from headrace.core.nodes import Node, NodeOptions

SETTINGS = settings(max_examples=100, deadline=None, print_blob=True)
SEEDS = st.integers(0, 2**20)
SCRIPTS = st.builds(
    Script,
    st.sampled_from(("error", "timeout", "unstorable", "argument", "late", "kill")),
    st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3, 99)),
)


@st.composite
def graphs(draw: st.DrawFn, *, fail_fast: bool = False, backups: bool = False) -> list[NodeSpec]:
    """Up to seven nodes: single, mapped, linked in chains, waiting for items and whole maps."""
    specs: list[NodeSpec] = []
    for number in range(draw(st.integers(1, 7))):
        mapped = [i for i, s in enumerate(specs) if s.size is not None or s.link is not None]
        kind = draw(st.sampled_from(("single", "map", "link", "link", "link")))
        link = draw(st.sampled_from(mapped[-2:])) if kind == "link" and mapped else None
        size = None if kind == "single" or link is not None else draw(st.integers(0, 40))
        waits: dict[tuple[int, int | None], bool] = {}
        if specs and draw(st.integers(0, 3)) == 0:
            other = draw(st.integers(0, number - 1))
            small = specs[other].size is None and specs[other].link is None
            item = 0 if small else draw(st.sampled_from((None, None, 0, 3)))
            if item is None or small or item < len(expected(specs)[other][1]):
                waits[other, item] = draw(st.booleans())
        options = NodeOptions(
            retries=draw(st.integers(0, 2)),
            infra_retries=draw(st.integers(0, 2)),
            on_error=draw(
                st.sampled_from(("raise", "quarantine", *(["fail_fast"] if fail_fast else [])))
            ),
            min_success_ratio=draw(st.sampled_from((None, None, None, 0.0, 0.5, 1.0))),
            persist=draw(st.integers(0, 2)) > 0,
            drop=draw(st.booleans()),
            apart=draw(st.integers(0, 5)) == 0,
            tags=frozenset(draw(st.sampled_from(((), (), ("x",), ("x", "y"))))),
            delay=draw(st.sampled_from((lambda _n: 0.0, lambda n: 0.5 * n))),
            fuse=True,
            backups=backups and draw(st.booleans()),
        )
        specs.append(
            NodeSpec(
                size,
                link,
                tuple((n, i, f) for (n, i), f in waits.items()),
                link is not None and draw(st.booleans()),
                tuple(draw(st.lists(SCRIPTS, min_size=1, max_size=6))),
                options,
                draw(st.sampled_from((None, None, None, 1, 5))) if kind != "single" else None,
                raises=size is not None and draw(st.integers(0, 9)) == 0,
            )
        )
    return specs


def persisted(specs: list[NodeSpec]) -> list[NodeSpec]:
    """The same with all values kept."""
    return [
        dataclasses.replace(s, options=dataclasses.replace(s.options, persist=True, drop=False))
        for s in specs
    ]


def unfused(specs: list[NodeSpec]) -> list[NodeSpec]:
    return [
        dataclasses.replace(s, options=dataclasses.replace(s.options, fuse=False)) for s in specs
    ]


@SETTINGS
@given(graphs(), SEEDS, st.integers(1, 4))
def test_states_are_those_of_a_serial_run(specs: list[NodeSpec], seed: int, slots: int) -> None:
    """Without faults from outside, whatever the order and the batches: the oracle's states."""
    specs = persisted(specs)
    run = Simulation(specs, seed, slots=slots, tag_limits={"x": 2, "y": 1}).run()
    assert run.states() == expected(specs)


@SETTINGS
@given(graphs(), SEEDS)
def test_fusing_and_dropping_intermediates_change_no_state(
    specs: list[NodeSpec], seed: int
) -> None:
    """Chains share batches or not, values are kept or passed on: the same states."""
    fused = Simulation(specs, seed, late_adds=False).run()
    apart = Simulation(unfused(specs), seed, late_adds=False).run()
    assert fused.states() == apart.states() == expected(specs)


@SETTINGS
@given(graphs(), SEEDS, st.integers(1, 3))
def test_retries_are_spent_exactly(specs: list[NodeSpec], seed: int, slots: int) -> None:
    """An item that always fails fails retries + 1 times; one that kills, infra_retries + 1 times."""
    specs = persisted(specs)
    run = Simulation(specs, seed, slots=slots).run()
    states = expected(specs)
    for (node, position), count in run.bad.items():
        spec = specs[node]
        script = spec.script(position)
        state = states[node][1][position]
        if script.what in ("error", "timeout", "late"):
            assert count == min(script.times, spec.options.retries + 1)
        else:
            assert count == 1
        assert state != "COMPLETED" or count == script.times
    for (node, position), count in run.kills.items():
        spec = specs[node]
        # without marks a child may die once per halving of the suspects; with them never
        assert count == min(spec.script(position).times, spec.options.infra_retries + 1)
    notes = Counter((e.node.id, e.position) for e in run.events)
    for key, count in notes.items():
        assert count == run.bad[key] + run.kills[key]


FAULTS = st.builds(
    Faults,
    lost=st.sampled_from((0.0, 0.05, 0.2)),
    died=st.sampled_from((0.0, 0.0, 0.1)),
    killed=st.sampled_from((0.0, 0.1)),
    duplicate=st.sampled_from((0.0, 0.1)),
    mute=st.sampled_from((0.0, 0.5, 1.0)),
    late=st.sampled_from((0.0, 0.3, 1.0)),
    unmarked=st.sampled_from((0.0, 0.5, 1.0)),
    recall=st.sampled_from((0.0, 0.3)),
    repeat=st.sampled_from((0.0, 0.3)),
    stopped=st.sampled_from((0.0, 0.1, 0.5)),
)


@settings(SETTINGS, max_examples=150)
@given(graphs(), SEEDS, FAULTS, st.integers(1, 4))
def test_user_failures_count_the_same_under_faults(
    specs: list[NodeSpec], seed: int, faults: Faults, slots: int
) -> None:
    """Lost workers, recalls and late receipts never change what user code alone decides."""
    faults = dataclasses.replace(faults, died=0.0)
    quiet = [
        dataclasses.replace(
            s, scripts=tuple(Script("error", x.times) if x.what == "kill" else x for x in s.scripts)
        )
        for s in persisted(specs)
    ]
    run = Simulation(quiet, seed, slots=slots, faults=faults).run()
    want = expected(quiet)
    for node, (state, items) in enumerate(run.states()):
        assert items == want[node][1], (node, state)
        assert state == want[node][0]


@settings(SETTINGS, max_examples=150)
@given(graphs(backups=True), SEEDS, FAULTS, st.integers(2, 4))
def test_backups_change_no_state(
    specs: list[NodeSpec], seed: int, faults: Faults, slots: int
) -> None:
    """An item that runs twice ends as it would alone: with its value, or when both have failed."""
    faults = dataclasses.replace(faults, died=0.0, stopped=0.5)
    steady = [
        dataclasses.replace(
            s,
            scripts=tuple(
                Script("error" if x.what == "kill" else x.what, 99 if x.times else 0)
                for x in s.scripts
            ),
        )
        for s in persisted(specs)
    ]
    run = Simulation(steady, seed, slots=slots, faults=faults).run()
    assert run.states() == expected(steady)


@pytest.mark.parametrize("seed", range(25))
def test_what_one_copy_fails_the_other_may_complete(seed: int) -> None:
    """Each item fails once: where it ran twice, that is the failure of one copy only."""
    specs = [
        NodeSpec(40, scripts=(Script(), Script("error", 1)), options=NodeOptions(backups=True))
    ]
    run = Simulation(specs, seed, slots=3, faults=Faults(stopped=0.5)).run()
    (_state, items), failed = run.states()[0], {e.position for e in run.events}
    assert [p for p, item in enumerate(items) if item == "FAILED"] == sorted(failed)
    assert all(run.runs[0, p] > 1 for p in range(1, 40, 2) if p not in failed)


def test_late_items_run_twice_where_the_task_says_so() -> None:
    def backups(allowed: bool) -> int:
        specs = [NodeSpec(40, options=NodeOptions(backups=allowed))]
        faults = Faults(stopped=0.3)
        return sum(Simulation(specs, seed, faults=faults).run().backups for seed in range(20))

    assert backups(True)
    assert not backups(False)


CANCELS = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.sampled_from((None, 0, 1, 2, 3)),
        st.sampled_from((None, None, 0, 1, 7)),
    ),
    max_size=4,
)


@settings(SETTINGS, max_examples=250)
@given(graphs(fail_fast=True, backups=True), SEEDS, FAULTS, CANCELS, st.integers(1, 4))
def test_everything_ends_whatever_happens(
    specs: list[NodeSpec],
    seed: int,
    faults: Faults,
    cancels: list[tuple[int, int | None, int | None]],
    slots: int,
) -> None:
    """All faults and cancels at once; `Simulation` checks the invariants at each step."""
    Simulation(specs, seed, slots=slots, faults=faults, tag_limits={"x": 1, "y": 2}).run(cancels)


@pytest.mark.parametrize("seed", range(25))
def test_a_cancelled_run_has_no_open_item(seed: int) -> None:
    specs = [NodeSpec(200), NodeSpec(link=0), NodeSpec(waits=((1, None, False),))]
    run = Simulation(specs, seed, late_adds=False).run([(4 + seed, None, None)])
    for state, items in run.states():
        assert state == "Cancelled"
        assert set(items) <= {"COMPLETED", "CANCELLED"}


@pytest.mark.parametrize("seed", range(25))
def test_cancelling_the_end_of_a_chain_leaves_its_beginning_alone(seed: int) -> None:
    """Also while both share a batch, whatever that batch had done when it was killed."""
    specs = [NodeSpec(30), NodeSpec(link=0), NodeSpec(link=1)]
    run = Simulation(specs, seed, late_adds=False).run([(5 + seed % 12, 1, None)])
    first, second, third = run.states()
    assert first == ("Completed", ["COMPLETED"] * 30)
    assert set(second[1]) <= {"COMPLETED", "CANCELLED"}
    assert set(third[1]) <= {"COMPLETED", "SKIPPED"}


@pytest.mark.parametrize("seed", range(25))
def test_a_value_that_nobody_needs_any_more_is_not_made_again(seed: int) -> None:
    """The last stage's value shows that the stages before it, which keep none, are done."""
    specs = [NodeSpec(60, options=NodeOptions(persist=False)), NodeSpec(link=0)]
    faults = Faults(lost=0.3, mute=1.0)
    run = Simulation(specs, seed, faults=faults, late_adds=False).run()
    assert all(state == ("Completed", ["COMPLETED"] * 60) for state in run.states())


@pytest.mark.parametrize("seed", range(20))
def test_a_map_that_stopped_early_has_not_used_what_came_after(seed: int) -> None:
    """It does not even have those items: the map before it had not got so far."""
    fast = NodeOptions(on_error="fail_fast")
    specs = [
        NodeSpec(17, options=NodeOptions(drop=True)),
        NodeSpec(link=0, waits=((0, 0, False),), scripts=(Script("error", 1),), options=fast),
        NodeSpec(link=0, waits=((0, 0, False),)),
        NodeSpec(),
    ]
    run = Simulation(specs, seed, slots=1).run()
    assert run.states()[0] == ("Completed", ["COMPLETED"] * 17)


@pytest.mark.parametrize("persist", [True, False])
def test_a_chain_shares_its_batches(persist: bool) -> None:
    options = NodeOptions(persist=persist)
    specs = [NodeSpec(40, options=options), *(NodeSpec(link=i, options=options) for i in range(3))]
    run = Simulation(specs, 1, late_adds=False).run()
    alone = Simulation(specs[:1], 1, late_adds=False).run()
    assert run.submitted <= 2 * alone.submitted
    assert all(state == ("Completed", ["COMPLETED"] * 40) for state in run.states())
    assert run.nodes[0].items.kept(run.nodes[0].items.where(ItemState.COMPLETED)).runs == (
        ((0, 40),) if persist else ()
    )


def dropping(specs: list[NodeSpec]) -> list[NodeSpec]:
    """The same with all intermediates dropped."""
    return [
        dataclasses.replace(s, options=dataclasses.replace(s.options, persist=True, drop=True))
        for s in specs
    ]


@settings(SETTINGS, max_examples=150)
@given(graphs(), SEEDS, FAULTS, st.booleans())
def test_dropping_intermediates_changes_no_state_and_no_retry(
    specs: list[NodeSpec], seed: int, faults: Faults, fuse: bool
) -> None:
    """Nor under faults; `Simulation.drop` checks that what goes is needed by nobody."""
    quiet = [
        dataclasses.replace(
            s, scripts=tuple(Script("error", x.times) if x.what == "kill" else x for x in s.scripts)
        )
        for s in dropping(specs)
    ]
    faults = dataclasses.replace(faults, died=0.0)
    run = Simulation(quiet if fuse else unfused(quiet), seed, faults=faults, late_adds=False).run()
    assert run.states() == expected(quiet)
    for (node, position), count in run.bad.items():
        script, options = quiet[node].script(position), quiet[node].options
        if script.what in ("error", "timeout", "late"):
            assert count == min(script.times, options.retries + 1)


@pytest.mark.parametrize("seed", range(10))
def test_a_failure_that_was_passed_on_makes_no_value_of_what_stands_before_it(seed: int) -> None:
    """The last map tolerates that the one before it was skipped, for another reason."""
    options = NodeOptions(drop=True, fuse=False, apart=True, infra_retries=0)
    specs = [
        NodeSpec(options=options),
        NodeSpec(1, options=options, raises=True),
        NodeSpec(link=1, scripts=(Script("error", 1),), options=options),
        NodeSpec(link=2, waits=((1, None, False),), options=options),
        NodeSpec(link=3, allow_failure=True, options=options),
    ]
    assert Simulation(specs, seed, late_adds=False).run().states() == expected(specs)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_chain_holds_no_more_than_its_window_of_intermediates(fuse: bool, seed: int) -> None:
    options = NodeOptions(drop=True, fuse=fuse)
    size, chain = 5_000, 5
    specs = [NodeSpec(size, options=options)]
    specs += [NodeSpec(link=i, options=options) for i in range(chain - 1)]
    run = Simulation(specs, seed, late_adds=False).run()
    assert all(state == ("Completed", ["COMPLETED"] * size) for state in run.states())
    *between, last = [run.most_live[node] for node in range(chain)]
    assert last == size, "what nobody takes stays"
    assert all(run.live[node] == 0 for node in range(chain - 1))
    assert sum(between) == 0 if fuse else max(between) < size / 3


@pytest.mark.parametrize("drop", [True, False])
def test_a_map_does_not_run_far_ahead_of_a_slower_one_that_it_feeds(drop: bool) -> None:
    """The second one has fewer slots, in another lane: depth alone would not hold the first back."""
    options = NodeOptions(drop=drop)
    wide = dataclasses.replace(options, resources=Resources(cpus=4.0))
    specs = [NodeSpec(5_000, options=options), NodeSpec(link=0, options=wide)]
    run = Simulation(specs, 1, slots=4, late_adds=False, window_items=100).run()
    assert all(state == ("Completed", ["COMPLETED"] * 5_000) for state in run.states())
    behind = run.most_queued[1]
    assert 100 < behind < 250
    far = Simulation(specs, 1, slots=4, late_adds=False).run()
    assert far.most_queued[1] > 2 * behind, "without a window it does"


def test_what_was_cancelled_leaves_its_input_for_a_resume() -> None:
    options = NodeOptions(drop=True, fuse=False)
    specs = [NodeSpec(50, options=options), NodeSpec(scripts=(Script("error", 9),))]
    specs.append(NodeSpec(link=0, waits=((1, 0, False),), options=options))
    run = Simulation(specs, 3, late_adds=False).run()
    assert run.states()[2][0] == "Skipped"
    assert run.nodes[0].items.kept(Positions.span(0, 50)) == Positions.span(0, 50)


@pytest.mark.parametrize(("size", "together"), [(10, 4), (30, 2), (90, 1), (900, 1)])
def test_fewer_run_where_memory_ends_first(size: int, together: int) -> None:
    """Of a hundred bytes; what a batch takes is known when the first ones have ended."""
    specs = [NodeSpec(300, memory=size), NodeSpec(link=0, memory=size)]
    run = Simulation(unfused(specs), 2, slots=4, memory=100, late_adds=False).run()
    assert all(
        state == ("Completed", ["COMPLETED"] * n)
        for n, state in zip((300, 300), run.states(), strict=True)
    )
    assert run.most_sharing == (together if together < 4 else 0)


@settings(SETTINGS, max_examples=50)
@given(SEEDS, st.integers(1, 4), st.sampled_from((0.0, 1.0)))
def test_what_dies_of_memory_is_tried_again_alone(seed: int, slots: int, unmarked: float) -> None:
    """And goes through there, at no charge; `Simulation.submit` sees to it that it is alone."""
    specs = [
        NodeSpec(
            40, scripts=(Script(), Script(), Script("crowd")), options=NodeOptions(infra_retries=0)
        ),
        NodeSpec(link=0),
        NodeSpec(30),
    ]
    run = Simulation(
        specs, seed, slots=slots, faults=Faults(unmarked=unmarked), late_adds=False
    ).run()
    assert all(set(items) == {"COMPLETED"} for _state, items in run.states())
    assert not run.machine.lonely or not run.machine.flights


def test_a_late_input_is_asked_for_what_is_there_while_nothing_is_queued() -> None:
    machine = Machine(lambda _p, _n: 2, prefetch=lambda _p: 0)
    node = Node(0, "n", "t", NodeOptions(), single=False)
    (asked,) = machine.add(node, None, 0.0)
    machine.blocked(0.0)
    assert isinstance(asked, Feed) and machine.next_time() == LATE_SECONDS
    assert machine.tick(LATE_SECONDS / 2) == []
    assert machine.tick(LATE_SECONDS) == [HandOver(node)]
    assert machine.next_time() == 2 * LATE_SECONDS
    said = machine.fed(node, [[7]], 16, exhausted=False, error=None, now=1.0, more=True)
    assert [type(command) for command in said] == [Submit] and node.feeding
    assert machine.tick(1.0) == [HandOver(node)]
    machine.fed(node, [[7] * 9], 144, exhausted=False, error=None, now=1.0, more=True)
    assert node.queued and HandOver(node) not in machine.tick(9.0) and machine.next_time() is None


def test_nothing_comes_behind_what_was_told_to_be_the_end_of_an_input() -> None:
    """``key=`` raised for what was handed over, and the pull goes on."""
    machine = Machine(lambda _p, _n: 2, prefetch=lambda _p: 0)
    node = Node(0, "n", "t", NodeOptions(), single=False)
    machine.add(node, None, 0.0)
    machine.blocked(0.0)
    machine.fed(node, [[7]], 16, exhausted=False, error=None, now=0.0, more=True)
    machine.fed(node, [], 0, exhausted=True, error=ValueError("key"), now=0.0)
    for more in (True, False):
        machine.fed(node, [[8]], 16, exhausted=False, error=None, now=0.0, more=more)
        assert (node.items.size, node.feeding, node.ended) == (1, False, False)


def test_small_batches_are_not_queued_behind_each_other() -> None:
    """A queued batch is as small as the one before it: better to wait for what that one tells."""
    machine = Machine(lambda _p, _n: 2, prefetch=lambda _p: 1)
    node = Node(0, "n", "t", NodeOptions(), single=False)
    node.expected = 3000
    machine.add(node, None, 0.0)
    machine.blocked(0.0)
    machine.fed(node, [list(range(2000))], 32_000, exhausted=False, error=None, now=0.0)
    assert sorted(len(flight.chunk) for flight in machine.flights.values()) == [1, 1]
    for seconds in (0.001, 0.1):  # then it is known to take a second or more for 32 of them
        batch = min(machine.flights)
        part = Part(str(batch), "arrow", "int", 10, 1, 0)
        here = machine.flights[batch].chunk.positions
        receipt = Receipt(0, batch, 1, part, here, 1, 0.0, 0.0, 0.0)
        said = Report("r", batch, receipts=(receipt,), end=End(Outcome.DONE, seconds=seconds))
        machine.report(said, 1.0)
    assert len(machine.flights) == 4


def test_a_node_that_nobody_has_measured_is_not_kept_out_by_one_that_has_been() -> None:
    """The pool is full of the other's batches, of which each that ends makes room for one more."""
    machine, nodes = Machine(lambda _p, _n: 2, prefetch=lambda _p: 1), list[Node]()
    for number, asked in enumerate((Resources(), Resources(custom=(("disk", 1.0),)))):
        node = Node(number, f"n{number}", "t", NodeOptions(resources=asked), single=False)
        machine.add(node, None, 0.0)
        nodes.append(node)
    first, new = reversed(nodes)
    for _ in range(30):
        first.sizer.measured(1, 1.0)
    machine.blocked(0.0)
    for node in (first, new):
        machine.fed(node, [list(range(100))], 1600, exhausted=True, error=None, now=0.0)
    (batch, flight), *others = machine.flights.items()
    assert len(others) == 3 and not new.flights
    part = Part("0", "arrow", "int", 10, 1, 0)
    done = Receipt(first.id, batch, 1, part, flight.chunk.positions, 1, 0.0, 1.0, 1.0)
    end = End(Outcome.DONE, seconds=1.0)
    machine.report(Report("r", batch, receipts=(done,), end=end), 1.0)
    assert new.flights == 1


@pytest.mark.parametrize(("expected", "first"), [(None, 200), (10_000, 400), (500, 250)])
def test_a_share_is_of_what_the_input_tells_or_else_of_what_is_at_hand(
    expected: int | None, first: int
) -> None:
    machine = Machine(lambda _p, _n: 2, prefetch=lambda _p: 0)
    node = Node(0, "n", "t", NodeOptions(), single=False)
    node.expected = expected
    for _ in range(30):  # of which each takes what was expected of it
        node.sizer.measured(10_000, 1.0)
    machine.add(node, None, 0.0)
    machine.blocked(0.0)
    machine.fed(node, [list(range(400))], 6_400, exhausted=False, error=None, now=0.0)
    assert len(machine.flights[0].chunk) == pytest.approx(first, abs=20)


@pytest.mark.parametrize(("told", "least"), [(0.1, 0.2), (0.002, 0.02), (None, 0.02)])
def test_a_tail_is_cut_no_finer_than_what_a_batch_takes_by_itself(
    told: float | None, least: float
) -> None:
    """Where all its items' times are told; else nobody knows what it took by itself."""
    machine, each = Machine(lambda _p, _n: 1, prefetch=lambda _p: 0), 1e-5
    node = Node(0, "n", "t", NodeOptions(), single=False)
    machine.add(node, None, 0.0)
    machine.blocked(0.0)
    machine.fed(node, [list(range(400_000))], 1600, exhausted=True, error=None, now=0.0)
    for _ in range(5):
        ((number, flight),) = machine.flights.items()
        here = flight.chunk.positions
        part, busy = Part(str(number), "arrow", "int", 10, len(here), 0), len(here) * each
        values = (Receipt(0, number, 1, part, here, 1, 0.0, 1.0, busy),) if told else ()
        end = End(Outcome.DONE, seconds=busy + (told or 0.1))
        machine.report(Report("r", number, receipts=values, started=len(here), end=end), 1.0)
    assert node.sizer.per_item is not None
    size = node.sizer.next(1, 1, 10**9)
    assert size * node.sizer.per_item == pytest.approx(least, rel=0.01)


def in_batches_of_eight(count: int) -> Machine:
    """So many batches of one map are handed out, and by now there are four slots."""
    slots = [count]
    machine = Machine(lambda _p, _n: slots[0], prefetch=lambda _p: 0)
    node = Node(0, "n", "t", NodeOptions(), single=False)
    for _ in range(30):
        node.sizer.measured(400, 1.0)  # 8 items take the least that is cut
    machine.add(node, None, 0.0)
    machine.blocked(0.0)
    machine.fed(node, [list(range(8 * count))], 128 * count, exhausted=True, error=None, now=0.0)
    assert [len(flight.chunk) for flight in machine.flights.values()] == [8] * count
    slots[0] = 4
    return machine


def test_all_batches_that_hold_more_than_their_share_are_split_at_once() -> None:
    machine = in_batches_of_eight(3)
    for number in machine.flights:
        machine.report(Report("r", number, started=7 if number == 1 else 1), 0.0)
    asked = [each.flight.id for each in machine.tick(1.0) if isinstance(each, Ask)]
    assert asked == [0, 2]


def test_a_slow_batch_is_split_beside_one_that_has_not_begun() -> None:
    """Its worker may be long in coming, and holds much."""
    machine = in_batches_of_eight(2)
    machine.report(Report("r", 0, started=7), 0.0)
    asked = [each.flight.id for each in machine.tick(1.0) if isinstance(each, Ask)]
    assert asked == [0]


@pytest.mark.parametrize("persist", [True, False])
def test_a_failure_behind_a_value_sends_the_next_stage_out_again(persist: bool) -> None:
    """A time limit has struck when the value was there, and the next stage had not begun."""
    machine, nodes = Machine(lambda _p, _n: 1), list[Node]()
    for number in range(2):
        options, link = NodeOptions(persist=persist), nodes[-1] if nodes else None
        nodes.append(Node(number, f"n{number}", "t", options, single=False, link=link))
        machine.add(nodes[-1], None, 0.0)
    machine.blocked(0.0)
    machine.fed(nodes[0], [[7]], 16, exhausted=True, error=None, now=0.0)
    here, part = Positions.span(0, 1), Part("0", "arrow", "int", 10, 1, 0)
    late = Failure(0, 0, 1, FailureKind.TIMEOUT, "TimeoutError", "late", "", None, 0.0, 1.0)
    value = Receipt(0, 0, 1, part, here, 1, 0.0, 1.0, 1.0)
    said: dict[str, Any] = {"receipts": (value,)} if persist else {"passed": ((0, here),)}
    end = End(Outcome.DONE, seconds=1.0)
    machine.report(Report("r", 0, failures=(late,), started=1, end=end, **said), 1.0)
    (again,) = machine.flights.values()
    assert again.nodes == (nodes[1:] if persist else nodes)
    assert not nodes[1].failures


def test_a_partition_stays_while_a_fused_chain_may_start_from_it_again() -> None:
    """b has passed its value on, c still runs with it: where both are lost, b takes it from a again."""
    machine, nodes = Machine(lambda _p, _n: 4, prefetch=lambda _p: 9), list[Node]()
    for number, fuse in enumerate((False, True, True)):
        options = NodeOptions(drop=True, fuse=fuse)
        link = nodes[-1] if nodes else None
        nodes.append(Node(number, f"n{number}", "t", options, single=False, link=link))
        machine.add(nodes[-1], None, 0.0)
    a, b, c = nodes

    def receipt(node: Node, batch: int, start: int, stop: int) -> Receipt:
        part = Part(f"{node.id}-{batch}", "arrow", "int", 10, stop - start, 0)
        return Receipt(node.id, batch, 1, part, Positions.span(start, stop), 1, 0.0, 0.0, 0.0)

    def tell(batch: int, **said: Any) -> list[Command]:
        return machine.report(Report("r", batch, **said), 1.0)

    def handed(commands: list[Command]) -> list[int]:
        return [command.flight.id for command in commands if isinstance(command, Submit)]

    done = End(Outcome.DONE, seconds=0.1)
    machine.blocked(0.0)
    (one, *_) = handed(machine.fed(a, [[7]], 16, exhausted=False, error=None, now=0.0))
    tell(one, receipts=(receipt(a, one, 0, 1),), end=done)
    (chain,) = [f for f in machine.flights.values() if f.nodes == [b, c]]
    tell(chain.id, receipts=(receipt(c, chain.id, 0, 1),), end=End(Outcome.DONE, seconds=1.0))
    (two,) = handed(machine.fed(a, [[7] * 40], 640, exhausted=True, error=None, now=0.0))[:1]
    where = machine.flights[two].chunk.positions.runs[0]
    tell(two, receipts=(receipt(a, two, *where),), end=done)
    first, *others = [f for f in machine.flights.values() if f.nodes == [b, c]]
    (here,) = first.chunk.positions
    tell(first.id, passed=((b.id, Positions.span(here, here + 1)),), started=1)
    assert sum(len(f.chunk) for f in (first, *others)) == where[1] - where[0]
    tell(others[0].id, end=End(Outcome.LOST))  # it runs once more
    others = [f for f in machine.flights.values() if f.nodes == [b, c] and f is not first]
    for other in others:
        values = tuple(receipt(c, other.id, p, p + 1) for p in other.chunk.positions)
        gone = tell(other.id, receipts=values, end=done)
        assert not [each for each in gone if isinstance(each, Dropped)]
    tell(first.id, end=End(Outcome.LOST))
    assert a.items.kept(Positions.span(*where)) == Positions.span(*where)


def test_a_share_of_a_fed_map_counts_what_has_yet_to_come() -> None:
    """Few of its items are ready at a time: cut by these, its batches would be crumbs."""
    machine = Machine(lambda _p, _n: 4, prefetch=lambda _p: 0)
    first = Node(0, "a", "t", NodeOptions(fuse=False), single=False)
    then = Node(1, "b", "t", NodeOptions(fuse=False), single=False, link=first)
    for node in (first, then):
        machine.add(node, None, 0.0)
        for _ in range(30):  # of which each takes what was expected of it
            node.sizer.measured(100, 0.1)
    machine.blocked(0.0)
    machine.fed(first, [list(range(400))], 6_400, exhausted=True, error=None, now=0.0)
    (batch, flight), *_ = sorted(machine.flights.items())
    here = flight.chunk.positions
    part = Part("0", "arrow", "int", 10, len(here), 0)
    receipt = Receipt(0, batch, 1, part, here, 1, 0.0, 0.0, 0.0)
    machine.report(Report("r", batch, receipts=(receipt,), end=End(Outcome.DONE, seconds=0.1)), 1.0)
    (ready,) = [f for f in machine.flights.values() if f.nodes == [then]]
    assert len(ready.chunk) == len(here) >= 80
