"""How far batches of the chosen sizes are from the best there can be: a simulation with fixed costs.

    python benchmarks/batch_sizes.py --slots 2 6 64 --costs 3 20

As `simulated.py`, but the machine, a batch and the pause before it take fixed times, so a figure is the
same on every machine and after each run. Half of a batch's cost is its own (arguments, partition), half
is the pause. Ideal is the least that it can take if all is known before: one batch for each slot (of each
map), and all slots end together, or wait for the longest item, or for the slots that must take one more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import ceil

import numpy as np
import report
from simulated import Costs, Simulation

from headrace.core.interfaces import Positions
from headrace.core.nodes import Node, NodeOptions

EVENT_SECONDS = 0.0004
"""The engine's own for a hand-out or a report."""


class Given:
    """Seconds of items by position."""

    def __init__(self, seconds: Iterable[float]) -> None:
        self.sums = [0.0, *accumulate(seconds)]

    def of(self, positions: Positions) -> float:
        return sum(self.sums[stop] - self.sums[start] for start, stop in positions.runs)

    def done(self, positions: Positions, seconds: float) -> int:
        """How many of the items, one after another, have ended after so many seconds."""
        count = 0
        for start, stop in positions.runs:
            reached = bisect_right(self.sums, self.sums[start] + seconds) - 1
            if reached < stop:
                return count + max(0, reached - start)
            count += stop - start
            seconds -= self.sums[stop] - self.sums[start]
        return count


def even(items: int, seconds: float) -> list[float]:
    return [seconds] * items


def heavy(items: int, total: float) -> list[float]:
    """Log-normal, as in `heavy_tail.py`."""
    drawn = np.random.default_rng(0).lognormal(0, 1.6, items)
    drawn = np.minimum(drawn, np.median(drawn) * 500)
    return (drawn * total / drawn.sum()).tolist()


def few_heavy(items: int, seconds: float) -> list[float]:
    """Every hundredth takes a thousand times as long."""
    return [seconds * (1000 if n % 100 == 50 else 1) for n in range(items)]


def growing(items: int, total: float) -> list[float]:
    """The last takes a thousand times as long as the first."""
    grown = np.geomspace(1, 1000, items)
    return (grown * total / grown.sum()).tolist()


SHAPES: dict[str, Callable[[], Sequence[float]]] = {
    "1,000,000 of 1 µs": lambda: even(1_000_000, 1e-6),
    "10,000 of 100 µs": lambda: even(10_000, 1e-4),
    "1,000 of 10 ms": lambda: even(1_000, 1e-2),
    "2,000 of 50 ms": lambda: even(2_000, 0.05),
    "200 of 1 s": lambda: even(200, 1.0),
    "20 of 10 s": lambda: even(20, 10.0),
    "2,000 log-normal, 30 s": lambda: heavy(2_000, 30.0),
    "5,000, each hundredth 1,000 times": lambda: few_heavy(5_000, 1e-3),
    "2,000 growing, 60 s": lambda: growing(2_000, 60.0),
    "2,000 shrinking, 60 s": lambda: growing(2_000, 60.0)[::-1],
}


def factor(seconds: Sequence[float], slots: int, cost: float, inputs: str) -> tuple[float, int]:
    """Time over the ideal, and batches."""
    costs = Costs(EVENT_SECONDS, batch=cost / 2, pause=cost / 2)
    simulation = Simulation(len(seconds), slots, Given(seconds), costs, failing=0)
    maps = 1
    if inputs != "unknown":
        simulation.node.expected = len(seconds)
    if inputs == "linked":
        maps = 2
        options = NodeOptions(fuse=False)
        simulation.then = Node(1, "then-0", "then", options, False, link=simulation.node)
    simulation.run()
    return simulation.now / ideal(seconds, slots, cost, maps), next(simulation.machine.numbers)


def ideal(seconds: Sequence[float], slots: int, cost: float, maps: int) -> float:
    """Seconds below which no schedule comes."""
    fullest = ceil(maps * len(seconds) / slots)
    shortest = sum(sorted(list(seconds) * maps)[:fullest])
    return max(maps * sum(seconds) / slots, maps * max(seconds), shortest) + maps * cost


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--slots", type=int, nargs="*", default=[2, 6, 16, 64])
    parser.add_argument("--costs", type=float, nargs="*", default=[1, 5, 20, 50], help="ms a batch")
    parser.add_argument(
        "--inputs",
        nargs="*",
        default=["known", "unknown", "linked"],
        help="known, unknown: their length; linked: a second map takes the first one's values",
    )
    arguments = parser.parse_args()
    report.machine()
    for shape, make in SHAPES.items():
        seconds = make()
        for inputs in arguments.inputs:
            for slots in arguments.slots:
                for cost in arguments.costs:
                    value, batches = factor(seconds, slots, cost / 1000, inputs)
                    facts = {"shape": shape, "inputs": inputs, "slots": slots, "cost_ms": cost}
                    report.figure(
                        "batch_sizes", "over_ideal", value, "times", batches=batches, **facts
                    )


if __name__ == "__main__":
    main()
