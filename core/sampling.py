"""Sample runs: the inputs of a run's maps are cut to a few items, and nothing else is different."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .flows import Flow
    from .forecasts import Forecast

TAG = "sample"
"""Every sample run has it."""


@dataclass(eq=False)
class Sample:
    """How one run's inputs are cut, and what it learns of them. Filled by the engine."""

    items: int
    seed: int | None = None
    """None: the first items; else items at random, the same ones of inputs of one length."""
    lengths: dict[int, int | None] = field(default_factory=dict[int, "int | None"])
    """Items that a node's input has in all; None: nobody knows, as it was not pulled to its end."""
    looked_at: dict[int, frozenset[int]] = field(default_factory=dict[int, frozenset[int]])
    """Nodes whose values the flow had looked at, or passes on, when it called a node."""
    given_whole: dict[int, frozenset[int]] = field(default_factory=dict[int, frozenset[int]])
    """Nodes whose values a node is given otherwise than item by item."""

    def another(self) -> Sample:
        """The same for the run of a flow that the sampled one calls."""
        return Sample(self.items, self.seed)

    def size(self, length: int | None) -> int | None:
        """Items that are left of an input's; None: nobody knows."""
        return None if length is None else min(length, self.items)

    def cut(self, inputs: list[Iterator[Any]], length: int | None) -> list[Iterator[Any]]:
        """The inputs of one map, all cut alike; of one whose length nobody knows the first items."""
        chosen = self._chosen(length)
        return [_picked(each, chosen) for each in inputs]

    def place(self, node: int, position: int) -> int:
        """Where an item of a node stands in its whole input."""
        return self._chosen(self.lengths.get(node))[position]

    def _chosen(self, length: int | None) -> Sequence[int]:
        """Places of the items that are left, ascending."""
        if length is None or self.seed is None or length <= self.items:
            return range(self.items)
        return sorted(random.Random(self.seed).sample(range(length), self.items))


def _picked(source: Iterator[Any], places: Sequence[int]) -> Iterator[Any]:
    at = 0
    for place in places:
        yield from islice(source, place - at, place - at + 1)
        at = place + 1


class Sampler:
    """A flow that runs on a few items of each input: call it with the flow's arguments.

    Made by `Flow.sample`.
    """

    def __init__(self, flow: Flow[..., Any], items: int, seed: int | None) -> None:
        self.flow, self.items, self.seed = flow, items, seed

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run it here; gives a `Forecast`, of an async flow an awaitable of it.

        A flow that fails gives one, too: of what it came to, with its failures.
        """
        flow = self.flow
        if flow.isasync:
            return self._call_async(args, kwargs)
        from .flow_engine import run_flow

        run, body = flow.sampled(Sample(self.items, self.seed), args, kwargs)
        run_flow(run, flow.options, body)
        return self._forecast(run)

    async def _call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Forecast:
        from .flow_engine import run_flow_async
        from .waiting import in_thread

        sample = Sample(self.items, self.seed)
        run, body = await in_thread(self.flow.sampled, sample, args, kwargs)
        await run_flow_async(run, self.flow.options, body)
        return await in_thread(self._forecast, run)

    def _forecast(self, run: Any) -> Forecast:
        from .forecasts import forecast_of

        return forecast_of(run)

    def __repr__(self) -> str:
        which = "the first" if self.seed is None else "random"
        return (
            f"<sample of flow {self.flow.name!r}, {which} {self.items:,} items of each input: call it "
            "with the flow's arguments>"
        )


def sampler(flow: Flow[..., Any], items: int, which: object) -> Sampler:
    """See `Flow.sample`."""
    if type(items) is not int or items < 1:
        raise ConfigurationError(
            f"flow {flow.name!r}: sample takes a number of items, at least 1, got {items!r}"
        )
    if not isinstance(which, int):
        raise ConfigurationError(
            f"flow {flow.name!r}: sample's random= is True, False or the number of a seed, got {which!r}"
        )
    if which is False:
        return Sampler(flow, items, None)
    return Sampler(flow, items, random.getrandbits(32) if which is True else which)
