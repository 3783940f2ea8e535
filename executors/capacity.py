"""How much there is to run on, and who holds how much of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import ResourceError
from ..core.interfaces import Resources
from ..core.sizes import size_text

_MOST_OF_MEMORY = 0.9
"""The rest is for the driver and the system."""
_FREE_SLOTS = 4
"""Batches per cpu at a time of a task that asks for no cpu at all."""


def cores() -> int:
    """Cores that this process may use: its affinity, and its control group's quota."""
    count = float(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, int(quota) / int(period))
    with suppress(OSError, ValueError, ZeroDivisionError):
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            count = min(count, quota_us / int((folder / "cpu.cfs_period_us").read_text()))
    return max(1, math.ceil(count))


def memory() -> int:
    """Bytes that batches on this machine may take together.

    The setting ``memory`` says how much; else it is most of what the machine has, or of what its
    control group lets this process have. 0: nobody knows.
    """
    from ..core.settings import get_settings

    return get_settings().memory_bytes or int(_MOST_OF_MEMORY * _installed())


def _installed() -> int:
    found: list[int] = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max": no limit
            found.append(int((Path("/sys/fs/cgroup") / path).read_text()))
    return min(found, default=0)


@dataclass(frozen=True)
class Capacity:
    """What one place offers: ``memory`` in bytes (0: not counted), ``custom`` by name."""

    cpus: float
    gpus: float = 0.0
    memory: int = 0
    custom: Mapping[str, float] = field(default_factory=dict[str, float])

    def amounts(self) -> dict[str, float]:
        """All of it by name."""
        counted = {"memory": float(self.memory)} if self.memory else {}
        return {"cpus": self.cpus, "gpus": self.gpus, **counted, **self.custom}

    def fits(self, need: Resources, executor: str) -> int:
        """How often a need fits at a time.

        Raises
        ------
        ResourceError
            Not even once.
        """
        there = self.amounts()
        for name, amount in demands(need).items():
            if name == "memory" and not self.memory:
                continue  # nobody said how much there is
            if amount > there.get(name, 0.0):
                offered = ", ".join(_told(*each) for each in sorted(there.items()))
                raise ResourceError(
                    f"a task asks for {_told(name, amount)}, and executor {executor!r} can never"
                    f" give it: it has {offered}. Ask for less, or give the executor more."
                )
        counts = [
            math.floor(there[name] / amount + 1e-9)
            for name, amount in demands(need).items()
            if name in there
        ]
        return max(1, int(min([*counts, self.cpus * _FREE_SLOTS])))


def _told(name: str, amount: float) -> str:
    return f"{name}={size_text(amount) if name == 'memory' else f'{amount:g}'}"


def demands(need: Resources) -> dict[str, float]:
    """What is asked for, by name; what is not is left out."""
    amounts = {
        "cpus": need.cpus,
        "gpus": need.gpus,
        "memory": float(need.memory),
        **dict(need.custom),
    }
    return {name: amount for name, amount in amounts.items() if amount > 0}


class Ledger:
    """Who holds how much. Not thread-safe: its owner has a lock."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._places = 0

    def take(self, need: Resources, capacity: Capacity) -> bool:
        """Take what is needed, if all of it is free now."""
        there, asked = capacity.amounts(), demands(need)
        if self._places >= capacity.cpus * _FREE_SLOTS or any(
            self._used.get(name, 0.0) + amount > there[name] + 1e-9
            for name, amount in asked.items()
            if name in there
        ):
            return False
        self._move(asked, 1)
        return True

    def give(self, need: Resources) -> None:
        """Give it back."""
        self._move(demands(need), -1)

    def _move(self, asked: Mapping[str, float], sign: int) -> None:
        self._places += sign
        for name, amount in asked.items():
            self._used[name] = self._used.get(name, 0.0) + sign * amount
