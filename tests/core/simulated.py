"""A pool, a store and feeders for the machine alone: no thread, no clock, no sleep; all by one seed.

Every item has a script (`Script`) that says what happens when it runs. `Simulation` carries out the
machine's commands in an order that a seeded generator picks, breaks things on the way as `Faults`
say, and checks at every step what must always hold.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.core.columns import Chunk
from headrace.core.commands import (
    Ask,
    Command,
    Committed,
    Dropped,
    Feed,
    ItemEvent,
    NodeEnded,
    Submit,
)
from headrace.core.endings import UpstreamFailure
from headrace.core.errors import ResourceError
from headrace.core.interfaces import (
    Control,
    End,
    Failure,
    FailureKind,
    Outcome,
    Part,
    Positions,
    Receipt,
    RefColumn,
    Report,
    Resources,
    WorkerInfo,
)
from headrace.core.items import ItemState
from headrace.core.machine import Machine
from headrace.core.nodes import Flight, Node, NodeOptions

WORKER = WorkerInfo("w", "h", 1)
KINDS = {
    "error": FailureKind.ERROR,
    "timeout": FailureKind.TIMEOUT,
    "unstorable": FailureKind.UNSTORABLE,
    "argument": FailureKind.ARGUMENT,
}


@dataclass(frozen=True)
class Script:
    """What an item does: so many times something bad, then it succeeds."""

    what: str = "error"
    """``error``, ``timeout``, ``unstorable``, ``kill`` (its child), ``crowd`` (its child dies
    of memory unless it is alone) or ``late`` (its child is killed)."""
    times: int = 0


@dataclass(frozen=True)
class NodeSpec:
    """One node of a random graph. ``link`` and ``waits`` are numbers of earlier nodes."""

    size: int | None = None
    """Items of a mapped node, None for a single one; of a linked node its upstream's count."""
    link: int | None = None
    waits: tuple[tuple[int, int | None, bool], ...] = ()
    allow_failure: bool = False
    scripts: tuple[Script, ...] = (Script(),)
    """By position, cyclic."""
    options: NodeOptions = NodeOptions()
    window: int | None = None
    memory: int = 0
    """What a batch of it takes, beside the 10 that a child takes without one."""
    raises: bool = False
    """Its iterable raises when it has given all items."""

    def script(self, position: int) -> Script:
        return self.scripts[position % len(self.scripts)]


@dataclass(frozen=True)
class Faults:
    """How often what goes wrong, each from 0 to 1."""

    lost: float = 0.0
    died: float = 0.0
    killed: float = 0.0
    duplicate: float = 0.0
    mute: float = 0.0
    """Reports before a bad end that never come; the receipts are found by listing."""
    late: float = 0.0
    """Receipts of a bad end that are found only after the end was told."""
    unmarked: float = 0.0
    """Deaths of which no mark tells the item."""
    recall: float = 0.0
    repeat: float = 0.0
    """Reports that come twice."""
    stopped: float = 0.0
    """Batches whose worker does nothing for a while, as after SIGSTOP."""


@dataclass(eq=False)
class Job:
    """A batch on its simulated worker."""

    flight: Flight
    positions: list[int]
    index: int = 0
    limit: int = 0
    committed: list[Receipt] = field(default_factory=list[Receipt])
    pending: list[list[int]] = field(default_factory=list[list[int]])
    failures: list[Failure] = field(default_factory=list[Failure])
    passed: list[list[int]] = field(default_factory=list[list[int]])
    settled: set[int] = field(default_factory=set[int])
    recalled: bool = False
    killed: bool = False
    announced: bool = False
    stopped: float = 0.0
    """Until when its worker does nothing."""


class Simulation:
    """Runs a graph to its end; `states` then has every item's state."""

    def __init__(
        self,
        specs: list[NodeSpec],
        seed: int,
        *,
        slots: int = 2,
        faults: Faults = Faults(),
        tag_limits: dict[str, int] | None = None,
        late_adds: bool = True,
        window_items: int = 1_000_000,
        memory: int = 0,
    ) -> None:
        self.specs, self.rng, self.slots, self.faults = specs, random.Random(seed), slots, faults
        self.machine = Machine(
            self.room,
            prefetch=lambda _p: 1,
            tag_limits=tag_limits,
            window_items=window_items,
        )
        self.memory = memory
        self.now = 0.0
        self.nodes: list[Node] = []
        self.todo: list[Command] = []
        self.jobs: dict[int, Job] = {}
        self.feeds: list[Feed] = []
        self.fed: Counter[int] = Counter()
        self.late: list[Receipt] = []
        self.where: dict[str, tuple[int, list[int]]] = {}
        self.told: set[tuple[int, int]] = set()
        self.bad: Counter[tuple[int, int]] = Counter()
        self.kills: Counter[tuple[int, int]] = Counter()
        self.runs: Counter[tuple[int, int]] = Counter()
        self.attempts: dict[tuple[int, int], int] = {}
        self.failed_on: dict[tuple[int, int], int] = {}
        self.events: list[ItemEvent] = []
        self.ended: Counter[int] = Counter()
        self.won: dict[str, Positions] = {}
        self.dropped: set[str] = set()
        self.live: Counter[int] = Counter()
        """Per node the items in partitions that are there."""
        self.most_live: Counter[int] = Counter()
        self.most_queued: Counter[int] = Counter()
        self.most_sharing = 0
        """Batches under way together that were handed out knowing what they take."""
        self.submitted = 0
        self.late_adds = late_adds
        self.steps = 0
        self.peak_running: Counter[str] = Counter()
        self.backups = 0

    def room(self, _pool: str, need: Resources) -> int:
        """Slots for a need, as a pool would count them."""
        if self.memory and need.memory > self.memory:
            raise ResourceError("never")
        by_memory = self.memory // need.memory if self.memory and need.memory else 1 << 30
        return max(1, min(int(self.slots / need.cpus), by_memory))

    # ------------------------------------------------------------------------------- the run

    def run(self, cancels: list[tuple[int, int | None, int | None]] = []) -> Simulation:  # noqa: B006
        """``cancels``: (after so many steps, node or None for the run, item or None)."""
        due = sorted(cancels, key=lambda c: c[0], reverse=True)
        while True:
            self.steps += 1
            assert self.steps < 60_000, "the run does not end: " + self.story()
            while due and due[-1][0] <= self.steps:
                _, node, item = due.pop()
                if node is None:
                    self.take(self.machine.cancel(None, None, "", self.now))
                elif node < len(self.nodes):
                    self.take(self.machine.cancel(self.nodes[node], item, "", self.now))
            self.carry_out()
            self.check()
            if not self.move():
                if due:
                    self.steps = due[-1][0]
                    continue
                break
        self.check_end()
        return self

    def move(self) -> bool:
        """Let one thing happen; False if nothing can."""
        moves: list[Any] = []
        if len(self.nodes) < len(self.specs):
            moves += [self.add] * (1 if self.late_adds else 10_000)
        moves += [lambda f=f: self.feed(f) for f in self.feeds]
        moves += [
            lambda j=j: self.step(j)
            for j in list(self.jobs.values())[: self.slots]
            if j.stopped <= self.now
        ]
        if self.late:
            moves.append(self.adopt_late)
        if not moves or self.rng.random() < 0.1:
            due = self.machine.next_time()
            if due is not None:
                moves.append(lambda: self.pass_time(max(due, self.now)))
            elif self.machine.flights or self.jobs:
                moves.append(lambda: self.pass_time(self.now + 1.0))
        if not moves:
            return False
        self.rng.choice(moves)()
        return True

    def pass_time(self, to: float) -> None:
        self.now = to
        self.take(self.machine.tick(self.now))

    def add(self) -> None:
        number = len(self.nodes)
        spec = self.specs[number]
        link = None if spec.link is None else self.nodes[spec.link]
        node = Node(
            number,
            f"n{number}",
            "t",
            spec.options,
            spec.size is None and link is None,
            link=link,
            allow_failure=spec.allow_failure,
            window=spec.window,
        )
        for other, item, may_fail in spec.waits:
            node.waits[other, item] = may_fail
            node.reads[other] = item is None or node.reads.get(other, False)
        self.nodes.append(node)
        chunk = Chunk(Positions.span(0, 1), [[(number, 0)]]) if node.single else None
        self.take(self.machine.add(node, chunk, self.now))
        if (self.late_adds and self.rng.random() < 0.5) or len(self.nodes) == len(self.specs):
            self.take(self.machine.blocked(self.now))

    def feed(self, feed: Feed) -> None:
        self.feeds.remove(feed)
        node, spec = feed.node, self.specs[feed.node.id]
        size = spec.size or 0
        first = self.fed[node.id]
        count = min(size - first, self.rng.randint(0, feed.items), feed.items)
        self.fed[node.id] += count
        ended = self.fed[node.id] >= size
        more = self.rng.random() < 0.3  # it was late, and handed over what was there
        if more:
            self.feeds.append(replace(feed, items=feed.items - count))
            ended = False
        error = ValueError("iterable") if ended and spec.raises else None
        column = [(node.id, position) for position in range(first, first + count)]
        self.take(
            self.machine.fed(
                node,
                [column],
                16 * count,
                exhausted=ended,
                error=error,
                now=self.now,
                more=more,
            )
        )

    def adopt_late(self) -> None:
        receipt = self.late.pop(self.rng.randrange(len(self.late)))
        self.tell(Report("r", receipt.batch, receipts=(receipt,)))
        node = self.nodes[receipt.node]
        assert all(node.item_done(position) for position in receipt.positions)

    # ------------------------------------------------------------------------------ commands

    def take(self, commands: list[Command]) -> None:
        self.todo.extend(commands)

    def carry_out(self) -> None:
        while self.todo:
            command = self.todo.pop(0)
            match command:
                case Submit(flight):
                    self.submit(flight)
                case Feed(node):
                    assert all(each.node is not node for each in self.feeds), "asked twice"
                    self.feeds.append(command)
                case Ask(flight, request):
                    self.ask(flight, request)
                case Committed(node, receipt, fresh):
                    self.won[receipt.part.path] = fresh
                    for position in fresh:
                        assert (node.id, position) not in self.told, "completed twice"
                        self.told.add((node.id, position))
                case ItemEvent():
                    self.events.append(command)
                    self.failed_on[command.node.id, command.position] = command.failure.attempt
                case Dropped(node, receipt):
                    self.drop(node, receipt)
                case NodeEnded(node):
                    self.ended[node.id] += 1
                case _:
                    pass

    def submit(self, flight: Flight) -> None:
        self.submitted += 1
        self.backups += flight.backup_of is not None
        if flight.id not in self.machine.flights:
            return
        positions = list(flight.chunk.positions)
        assert positions == sorted(set(positions))
        flights = self.machine.flights.values()
        assert len(flights) == 1 or not any(f.chunk.alone for f in flights)
        sharing = [f for f in flights if f.share]
        if len(sharing) == len(flights):
            self.most_sharing = max(self.most_sharing, len(sharing))
        for stage, node in enumerate(flight.nodes):
            others = [
                other
                for other in self.machine.flights.values()
                if other is not flight and node in other.nodes
            ]
            for position in positions:
                key = (node.id, position)
                if flight.committed[stage] and not node.options.drop and node.options.persist:
                    assert key not in self.told, f"{key} was completed and is handed out again"
                for other in others:
                    assert not other.holds(position) or node is not other.nodes[0]
                assert flight.attempts[stage] >= self.attempts.get(key, 0)
                assert flight.attempts[stage] > self.failed_on.get(key, 0)
                if not flight.committed[stage] and len(node.consumers) == 1:
                    below = (node.consumers[0].id, position)
                    assert below not in self.told, f"{key} runs again, and nobody needs it"
        self.check_column(flight, positions)
        job = Job(flight, positions, limit=len(positions))
        job.pending = [[] for _ in flight.nodes]
        job.passed = [[] for _ in flight.nodes]
        self.jobs[flight.id] = job

    def check_column(self, flight: Flight, positions: list[int]) -> None:
        first = flight.nodes[0]
        (column,) = flight.chunk.columns
        assert len(column) == len(positions)
        if isinstance(column, RefColumn):
            assert first.link is not None
            for i, position in enumerate(positions):
                node, held = self.where[column.parts[column.part[i]].path]
                assert (node, held[column.index[i]]) == (first.link.id, position)
                assert column.parts[column.part[i]].path not in self.dropped
        else:
            for value, position in zip(column, positions, strict=True):
                if isinstance(value, UpstreamFailure):
                    assert (value.node, value.position) == (first.link, position)
                else:
                    assert value == (first.id, position)

    def ask(self, flight: Flight, request: Control) -> None:
        job = self.jobs.get(flight.id)
        if job is None:
            return
        if request is Control.KILL:
            job.killed = True
        else:
            job.recalled = True

    def tell(self, report: Report) -> None:
        self.take(self.machine.report(report, self.now))
        if report.end is None and self.rng.random() < self.faults.repeat:
            self.take(self.machine.report(report, self.now))

    def drop(self, node: Node, receipt: Receipt) -> None:
        """A partition goes: nobody may need it any more."""
        assert receipt.part.path not in self.dropped
        self.dropped.add(receipt.part.path)
        self.live[node.id] -= len(receipt.positions)
        for position in self.won[receipt.part.path]:
            assert all(consumer.item_done(position) for consumer in node.consumers)
        assert all(reader.ended for reader in node.readers)

    # ------------------------------------------------------------------------------- workers

    def step(self, job: Job) -> None:
        """Let a worker do a little: run some items, then perhaps flush, or meet a fault."""
        faults, rng = self.faults, self.rng
        if rng.random() < faults.stopped:
            job.stopped = self.now + rng.choice((1.0, 5.0, 25.0))
            return None
        if job.killed:
            return self.end_badly(job, Outcome.KILLED)
        if job.recalled and job.limit == len(job.flight.chunk):
            job.limit = min(job.index + rng.randint(0, 1), job.limit)
            returned = list(job.flight.chunk.positions)[job.limit :]
            if returned:
                self.report(job, returned=Positions.of(returned))
        if rng.random() < faults.lost:
            return self.end_badly(job, Outcome.LOST)
        if rng.random() < faults.killed:
            return self.end_badly(job, Outcome.KILLED)
        if rng.random() < faults.duplicate:
            return self.end_badly(job, Outcome.DUPLICATE)
        if rng.random() < faults.died:
            return self.die(job, None)
        if rng.random() < faults.recall:
            job.recalled = True
        for _ in range(rng.choice((1, 2, 5, 1000))):
            if job.index >= job.limit:
                break
            if not self.run_item(job):
                return None
        if job.index >= job.limit:
            outcome = Outcome.DONE if job.limit == len(job.flight.chunk) else Outcome.RECALLED
            receipts = self.flush(job)
            self.report(job, receipts=receipts, end=End(outcome, seconds=0.01 * (job.index + 1)))
            del self.jobs[job.flight.id]
        elif rng.random() < 0.5:
            self.report(job, receipts=self.flush(job))
        return None

    def run_item(self, job: Job) -> bool:
        """Run one item through all stages; False if the worker died of it."""
        position = job.positions[job.index]
        job.index += 1
        for stage, node in enumerate(job.flight.nodes):
            key = (node.id, position)
            self.runs[key] += 1
            self.attempts[key] = max(self.attempts.get(key, 0), job.flight.attempts[stage])
            script = self.specs[node.id].script(position)
            if script.what == "crowd":
                if len(self.machine.flights) > 1:
                    self.end_badly(job, Outcome.DIED, (stage, position), memory=True)
                    return False
            elif script.what == "kill":
                if self.kills[key] < script.times:
                    self.kills[key] += 1
                    self.die(job, (stage, position))
                    return False
            elif self.bad[key] < script.times:
                self.bad[key] += 1
                if script.what == "late":
                    self.end_badly(job, Outcome.TIMEOUT, (stage, position))
                    return False
                job.failures.append(self.failure(job, stage, position, KINDS[script.what]))
                job.settled.add(position)
                return True
            if job.flight.committed[stage]:
                job.pending[stage].append(position)
            else:
                job.passed[stage].append(position)
        return True

    def failure(self, job: Job, stage: int, position: int, kind: FailureKind) -> Failure:
        flight = job.flight
        return Failure(
            flight.nodes[stage].id,
            position,
            flight.attempts[stage],
            kind,
            "ValueError",
            "scripted",
            "",
            None,
            self.now,
            self.now,
        )

    def flush(self, job: Job) -> tuple[Receipt, ...]:
        fresh: list[Receipt] = []
        for stage, node in enumerate(job.flight.nodes):
            held = job.pending[stage]
            if held:
                path = f"{node.id}/{job.flight.id}-{len(self.where)}"
                self.where[path] = (node.id, list(held))
                self.live[node.id] += len(held)
                self.most_live[node.id] = max(self.most_live[node.id], self.live[node.id])
                part = Part(path, "arrow", "int", 10, len(held), len(self.where))
                attempt = job.flight.attempts[stage]
                fresh.append(
                    Receipt(
                        node.id,
                        job.flight.id,
                        attempt,
                        part,
                        Positions.of(held),
                        1,
                        self.now,
                        self.now,
                        0.0,
                    )
                )
                job.pending[stage] = []
                if stage == len(job.flight.nodes) - 1:
                    job.settled.update(held)
        job.committed.extend(fresh)
        return tuple(fresh)

    def report(
        self,
        job: Job,
        *,
        receipts: tuple[Receipt, ...] = (),
        returned: Positions = Positions(()),
        end: End | None = None,
        mute: bool = False,
    ) -> None:
        # failures of a chain stand on values of the stages before: they wait for the flush
        tells = end is not None or not any(job.pending)
        failures = tuple(job.failures) if tells else ()
        passed = tuple(
            (node.id, Positions.of(done))
            for node, done in zip(job.flight.nodes, job.passed, strict=True)
            if done and tells
        )
        if tells:
            job.failures, job.passed = [], [[] for _ in job.flight.nodes]
        if mute:
            self.forget(failures)
            return
        self.tell(
            Report(
                "r",
                job.flight.id,
                None if job.announced else WORKER,
                receipts,
                failures,
                (),
                returned,
                passed,
                job.index,
                10,
                10 + self.specs[job.flight.nodes[0].id].memory,
                end,
            )
        )
        job.announced = True

    def forget(self, failures: Iterable[Failure]) -> None:
        """Nobody will hear of them: those items run once more, as if they had not."""
        for failure in failures:
            self.bad[failure.node, failure.position] -= 1

    def die(self, job: Job, guilty: tuple[int, int] | None) -> None:
        self.end_badly(job, Outcome.DIED, guilty)

    def end_badly(
        self,
        job: Job,
        outcome: Outcome,
        running: tuple[int, int] | None = None,
        *,
        memory: bool = False,
    ) -> None:
        if self.rng.random() < 0.5 and running is None:
            receipts = self.flush(job)
            self.report(job, receipts=receipts, mute=self.rng.random() < self.faults.mute)
        started = list(job.flight.chunk.positions)[: job.index]
        suspects = tuple(p for p in started if p not in job.settled)
        if outcome is Outcome.DIED and self.rng.random() < self.faults.unmarked:
            running = None
        if outcome is Outcome.LOST:
            suspects = ()
        committed = tuple(job.committed)
        if self.rng.random() < self.faults.late:
            self.late.extend(committed)
            committed = ()
        del self.jobs[job.flight.id]
        self.forget(job.failures)
        end = End(outcome, "simulated", suspects, running, out_of_memory=memory)
        self.tell(Report("r", job.flight.id, receipts=committed, started=job.index, end=end))

    # -------------------------------------------------------------------------------- checks

    def check(self) -> None:
        machine = self.machine
        assert sum(machine.in_flight.values()) == len(machine.flights) <= self.slots * 2
        for tag, limit in machine.tag_limits.items():
            now = sum(1 for f in machine.flights.values() if tag in f.nodes[0].options.tags)
            assert now <= limit and now == machine.tagged.get(tag, 0)
        for node in self.nodes:
            counts = node.items.counts
            assert sum(counts) == node.items.size and min(counts) >= 0
            self.most_queued[node.id] = max(self.most_queued[node.id], node.queued)
            if node.window is not None:
                assert counts[ItemState.RUNNING] <= node.window

    def check_end(self) -> None:
        machine = self.machine
        stuck = [node.key for node in self.nodes if not node.ended]
        assert not stuck, f"{stuck} did not end: " + self.story()
        assert all(self.ended[node.id] == 1 for node in self.nodes), "NodeEnded once per node"
        for node in self.nodes:
            assert node.items.ended == node.items.size == node.total
            assert not node.queue and not node.queued and not node.parked and not node.doomed
            assert (not node.flights and not node.lined_up) or node.ended
        assert not machine.flights and not machine.feedable and not machine.holding
        assert not machine.dependents, machine.dependents
        assert not machine.lanes, machine.lanes
        assert not machine.stalled
        assert not machine.delays
        assert not any(machine.in_flight.values()) and not any(machine.tagged.values())
        final = Counter((e.node.id, e.position) for e in self.events if e.state >= 3)
        assert not final or max(final.values()) == 1, "an item ended twice"

    def story(self) -> str:
        lines = [f"step {self.steps}, now {self.now}, jobs {len(self.jobs)}"]
        lines += [
            f"{node.key}: {node.state} {node.fate} {node.items.named_counts()} queued "
            f"{node.queued} waits {node.waits} exhausted {node.exhausted} "
            f"flights {node.flights} opened {node.opened}"
            for node in self.nodes
        ]
        return "\n".join(lines)

    def states(self) -> list[tuple[str, list[str]]]:
        """Per node its state and its items'."""
        return [
            (node.state, [node.items.state(p).name for p in range(node.items.size)])
            for node in self.nodes
        ]
