"""The engine's own decisions for very many items and slots: no worker, no I/O, a fake clock.

    python benchmarks/simulated.py --items 100000000 --slots 10000

`core.machine.Machine` alone is driven: a simulated pool runs what it hands out, tells what workers
tell (that a batch has begun, what is committed each second, how it ended) and moves the clock to
whatever is next. The machine's own time on the core counts on that clock: what happens meanwhile
waits for it, so `slots_busy` shows when it has too much to do. Items take the times that single
files took in a real run of the corpus job, over and over; every hundredth fails.
"""

from __future__ import annotations

import heapq
import sys
import time
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import report

from headrace.core.commands import Ask, Command, Feed, Submit
from headrace.core.interfaces import (
    Control,
    End,
    Failure,
    FailureKind,
    Outcome,
    Part,
    Positions,
    Receipt,
    Report,
    WorkerInfo,
)
from headrace.core.items import split
from headrace.core.machine import Machine
from headrace.core.nodes import Flight, Node, NodeOptions

RECORDED = (
    1080, 2519, 1079, 1374, 3947, 1396, 1605, 7905, 27606, 2840, 35469, 3174, 23915, 42869, 961,
    3832, 28087, 11883, 5926, 1213, 394, 37839, 9122, 2200, 4477, 7656, 4736, 2426, 3246, 4047,
    28730, 2103, 2725, 1894, 48706, 1286, 2700, 3650, 1841, 40655, 2368, 8098, 1959, 8561, 22148,
    10186, 2521, 3670, 10027, 506, 2462, 2335, 3694, 4031, 5418, 25575, 1701, 3874, 12969, 13576,
    8650, 2813, 5463, 2481, 625, 1737, 1959, 6834, 770, 6317, 3068, 2804, 3912, 1298, 29800, 11414,
    642, 11286, 47427, 3309, 3865, 2064, 577, 2271, 3515, 90729, 10568, 11645, 2879, 7027, 1397,
    3931, 1780, 4859, 2647, 1213, 6215, 15071, 6608, 4523, 1581, 4519, 3505, 602, 1081, 14237,
    15295, 8066, 8911, 10474, 1999, 2934, 1727, 2034, 37748, 1531, 1233, 3184, 4345, 13472, 1924,
    1699, 4518, 1228, 15159, 3891, 3050, 7178, 15041, 48880, 15191, 13029, 717, 1510, 1348, 7671,
    11877, 4881, 6747, 4223, 21122, 606, 2321, 9371, 4111, 64588, 1715, 48036, 3400, 1348, 1369,
    672, 1099, 12529, 1665, 2603, 3169, 15453, 1592, 19001, 27899, 6750, 1341, 5207, 351, 2743,
    1020, 20192, 1698, 7813, 4784, 1607, 1443, 2715, 3597, 6747, 1949, 425, 803, 2803, 322, 1395,
    307, 1963, 1163, 2216, 7393, 4938, 2236, 6673, 1384, 1844, 22857, 2302, 1375, 2064, 3583, 1980,
    1293,
)  # fmt: skip
"""Microseconds of `examples.corpus.clean` for a file each, drawn from the installed sources."""

FAILING = 100
"""Every so-manieth item fails."""
FLUSH_SECONDS = 1.0
TICK_SECONDS = 0.05
"""How often the engine ticks while batches are under way."""
INPUT_BYTES = 16
"""What the feeder reckons for a whole number."""


class Durations:
    """Seconds of items by position: the recorded ones over and over, times a factor."""

    def __init__(self, factor: float) -> None:
        self.sums = [0.0, *accumulate(each * factor / 1e6 for each in RECORDED)]
        self.total, self.count = self.sums[-1], len(RECORDED)

    def until(self, position: int) -> float:
        """Seconds of all items before a position."""
        rounds, rest = divmod(position, self.count)
        return rounds * self.total + self.sums[rest]

    def of(self, positions: Positions) -> float:
        return sum(self.until(stop) - self.until(start) for start, stop in positions.runs)

    def done(self, positions: Positions, seconds: float) -> int:
        """How many of the items, one after another, have ended after so many seconds."""
        count = 0
        for start, stop in positions.runs:
            rounds, rest = divmod(self.until(start) + seconds, self.total)
            reached = int(rounds) * self.count + bisect_right(self.sums, rest) - 1
            if reached < stop:
                return count + max(0, reached - start)
            count += stop - start
            seconds -= self.until(stop) - self.until(start)
        return count


@dataclass(eq=False, slots=True)
class Job:
    """A batch in the simulated pool."""

    flight: Flight
    left: Positions
    """What is not committed yet."""
    came: float
    """When the pool got it."""
    began: float = 0.0
    told: float = 0.0
    """When it last committed, or began."""
    ends: float = 0.0
    done: int = 0
    version: int = 0
    """Of its next event: what was planned before is void."""
    returned: bool = False


@dataclass(frozen=True)
class Costs:
    """Seconds beside the items' own."""

    event: float | None = None
    """Of the machine for an event; None: what it takes on the core."""
    batch: float = 0.0
    """Of a batch by itself on its worker, which tells it with its items'."""
    pause: float = 0.0
    """Of a slot before each batch."""


class Simulation:
    """One map of ``items`` items on a pool of ``slots`` slots; every ``failing``-th fails (0: none)."""

    def __init__(
        self,
        items: int,
        slots: int,
        durations: Any,
        costs: Costs = Costs(),
        failing: int = FAILING,
    ) -> None:
        self.total, self.slots = items, slots
        self.durations, self.costs, self.failing = durations, costs, failing
        self.machine = Machine(lambda _pool, _need: slots)
        self.node = Node(0, "work-0", "work", NodeOptions(on_error="quarantine"), False)
        self.then: Node | None = None
        """A map of that one's values."""
        self.now = 0.0
        """When what is going on happens."""
        self.ready = 0.0
        """When the machine has done with all events so far."""
        self.events: Counter[str] = Counter()
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.waiting: deque[Job] = deque()
        self.jobs: dict[int, Job] = {}
        self.free = slots
        self.plan: list[tuple[float, int, int, Job]] = []
        self.fed = 0
        self.receipts = 0
        self.busy = 0.0
        self.in_flight = 0
        self.workers = [WorkerInfo(f"w{n}", f"host-{n // 64}", n) for n in range(slots)]

    def tell(self, kind: str, event: Callable[..., list[Command]], *args: Any, **more: Any) -> None:
        """Give the machine an event when it has the time, and carry its commands out."""
        self.ready = max(self.ready, self.now)
        before = time.thread_time()
        commands = event(*args, now=self.ready, **more)
        took = self.costs.event
        if took is None:
            took = time.thread_time() - before
        self.ready += took
        self.spent[kind] += took
        self.events[kind] += 1
        for command in commands:
            match command:
                case Submit(flight):
                    self.submit(flight)
                case Feed(_node, items, size):
                    self.feed(items, size)
                case Ask(flight, Control.RECALL) if flight.id in self.jobs:
                    self.recall(self.jobs[flight.id])
                case _:
                    pass

    def run(self) -> None:
        self.tell("add", self.machine.add, self.node, None)
        if self.then is not None:
            self.tell("add", self.machine.add, self.then, None)
        self.tell("tick", self.machine.blocked)
        ticked = 0.0
        while self.plan:
            if ticked + TICK_SECONDS < max(self.plan[0][0], self.ready):
                self.now = ticked = max(ticked + TICK_SECONDS, self.ready)
                self.tell("tick", self.machine.tick)
                continue
            when, _, version, job = heapq.heappop(self.plan)
            if version == job.version:
                self.now = when
                self.step(job)
        counts = self.node.items.named_counts()
        failed = self.total // self.failing if self.failing else 0
        wanted = {"Completed": self.total - failed, **({"Failed": failed} if failed else {})}
        if not self.node.ended or counts != wanted:
            raise RuntimeError(f"{self.node.state}: {counts}")

    # ------------------------------------------------------------------------------ the pool

    def feed(self, items: int, size: int) -> None:
        count = min(items, max(1, size // INPUT_BYTES), self.total - self.fed)
        column = list(range(self.fed, self.fed + count))
        self.fed += count
        self.tell(
            "fed",
            self.machine.fed,
            self.node,
            [column],
            INPUT_BYTES * count,
            exhausted=self.fed == self.total,
            error=None,
        )

    def submit(self, flight: Flight) -> None:
        job = self.jobs[flight.id] = Job(flight, flight.chunk.positions, self.ready)
        self.in_flight = max(self.in_flight, len(self.jobs))
        self.waiting.append(job)
        self.fill()

    def fill(self) -> None:
        while self.free and self.waiting:
            self.free -= 1
            job = self.waiting.popleft()
            job.began = job.told = max(self.now, job.came) + self.costs.pause
            job.ends = job.told + self.durations.of(job.left) + self.costs.batch
            self.plan_next(job)

    def plan_next(self, job: Job) -> None:
        """Its next event: the first report a moment after it began, then a flush, or its end."""
        job.version += 1
        flush = max(self.now + FLUSH_SECONDS, job.began) if job.version > 1 else job.began + 0.01
        heapq.heappush(self.plan, (min(job.ends, flush), job.flight.id, job.version, job))

    def step(self, job: Job) -> None:
        """Its time has come: it tells what it has done, and perhaps its end."""
        over = self.now >= job.ends - 1e-6
        count = len(job.left) if over else self.durations.done(job.left, self.now - job.told)
        mine, job.left = split(job.left, count)
        seconds = self.durations.of(mine)
        job.told += seconds
        self.busy += seconds
        job.done += count
        end = None
        if over:
            outcome = Outcome.RECALLED if job.returned else Outcome.DONE
            end = End(outcome, seconds=self.now - job.began)
            del self.jobs[job.flight.id]
            self.free += 1
            self.fill()
        self.tell("report", self.machine.report, self.told(job, mine, seconds, end))
        if not over:
            self.plan_next(job)

    def recall(self, job: Job) -> None:
        """Draw a line behind the running item; what is behind it goes back at once."""
        if job not in self.waiting:
            keep = self.durations.done(job.left, max(0.0, self.now - job.told)) + 1
            job.left, back = split(job.left, keep)
            job.ends = job.told + self.durations.of(job.left) + self.costs.batch
            job.returned = True
            if back.runs:
                answer = Report("r", job.flight.id, returned=back, started=job.done + keep)
                self.tell("report", self.machine.report, answer)
            self.plan_next(job)

    def told(self, job: Job, mine: Positions, seconds: float, end: End | None) -> Report:
        number = job.flight.id
        failing = [
            position
            for start, stop in (mine.runs if self.failing else ())
            for position in range(
                start + (self.failing - 1 - start) % self.failing, stop, self.failing
            )
        ]
        receipts: tuple[Receipt, ...] = ()
        good = apart(mine, failing)
        if good.runs:
            self.receipts += 1
            path = f"data/00000/{number:08d}-{self.receipts:08x}-0-{number:08x}.arrow"
            count = len(good)
            part = Part(path, "arrow", "int", 400 + 40 * count, count, number)
            node = job.flight.nodes[0].id
            receipts = (Receipt(node, number, 1, part, good, 1, job.told, self.now, seconds),)
        return Report(
            "r",
            number,
            worker=self.workers[number % self.slots],
            receipts=receipts,
            failures=tuple(failure(position, self.now) for position in failing),
            started=job.done,
            end=end,
        )


def apart(positions: Positions, failing: Sequence[int]) -> Positions:
    """The positions without those that fail."""
    runs: list[tuple[int, int]] = []
    failed = iter(failing)
    hole = next(failed, None)
    for start, stop in positions.runs:
        while hole is not None and hole < stop:
            if hole > start:
                runs.append((start, hole))
            start, hole = hole + 1, next(failed, None)  # noqa: PLW2901 - what is left of the run
        if start < stop:
            runs.append((start, stop))
    return Positions(tuple(runs))


def failure(position: int, now: float) -> Failure:
    return Failure(
        0, position, 1, FailureKind.ERROR, "ValueError", "no", "", None, started=now, ended=now
    )


def measure(items: int, slots: int, factor: float) -> None:
    import psutil

    me = psutil.Process()
    idle = me.memory_info().rss
    simulation = Simulation(items, slots, Durations(factor))
    began = time.perf_counter()
    simulation.run()
    wall = time.perf_counter() - began
    table = simulation.node.items
    batches = next(simulation.machine.numbers)
    simulated = simulation.ready
    facts = {"items": items, "slots": slots, "seconds_per_item": round(mean(factor), 5)}
    own = sum(simulation.spent.values())
    say = report.figure
    say("simulated", "machine_time", own, "s", wall=round(wall, 1), **facts)
    say("simulated", "batches", batches / own, "batches/s", batches=batches, **facts)
    say("simulated", "items", items / own, "items/s", **facts)
    say(
        "simulated",
        "events",
        sum(simulation.events.values()) / own,
        "events/s",
        counts=dict(simulation.events),
        seconds={name: round(took, 2) for name, took in simulation.spent.items()},
        **facts,
    )
    say(
        "simulated",
        "machine_busy",
        own / simulated,
        "share of one core",
        simulated_seconds=round(simulated, 1),
        slots_busy=round(simulation.busy / simulated / slots, 4),
        most_flights=simulation.in_flight,
        **facts,
    )
    say(
        "simulated",
        "peak_memory",
        (peak_bytes() - idle) / 1e6,
        "MB above idle",
        item_table=round(table_bytes(table) / 1e6, 1),
        receipts=round(receipt_bytes(table.receipts) / 1e6, 1),
        receipt_count=len(table.receipts),
        **facts,
    )


def mean(factor: float) -> float:
    return sum(RECORDED) / len(RECORDED) / 1e6 * factor


def peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table_bytes(table: Any) -> int:
    return sum(each.nbytes for each in vars(table).values() if isinstance(each, np.ndarray))


def receipt_bytes(receipts: Sequence[Receipt]) -> int:
    """Of all receipts, from a sample of them."""
    sample = receipts[:: max(1, len(receipts) // 1000)]
    sizes = [
        sum(map(sys.getsizeof, (r, r.part, r.part.path, r.positions, r.positions.runs, r.started)))
        + sum(sys.getsizeof(run) + 2 * sys.getsizeof(run[0]) for run in r.positions.runs)
        for r in sample
    ]
    return round(sum(sizes) / max(1, len(sizes)) * len(receipts))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--items", type=int, default=100_000_000)
    parser.add_argument("--slots", type=int, default=10_000)
    parser.add_argument("--factor", type=float, default=1.0, help="times the recorded durations")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    arguments = parser.parse_args()
    report.machine()
    work: tuple[Any, ...] = (arguments.items, arguments.slots, arguments.factor)
    if not arguments.profile:
        measure(*work)
        return
    import cProfile
    import pstats

    profiler = cProfile.Profile()
    profiler.runcall(measure, *work)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
