"""Batches on threads of the driver's process: for what waits, or releases the GIL."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ..core.errors import ConfigurationError
from ..core.shown import Shown
from .capacity import Capacity, cores
from .pool import SlotPool

_MOST_THREADS = 32


@dataclass(frozen=True)
class ThreadsExecutor(Shown):
    """Runs batches on threads.

    Parameters
    ----------
    max_workers
        Batches at a time. Default: four more than there are cores, at most 32 (as
        `concurrent.futures` has it), since threads mostly wait.
    memory
        Bytes that tasks may ask for in all; 0: not counted.
    """

    shown_as = "executor"

    max_workers: int | None = None
    memory: int = 0

    def __post_init__(self) -> None:
        if self.max_workers is not None and self.max_workers < 1:
            raise ConfigurationError(f"max_workers must be at least 1, not {self.max_workers}")

    @property
    def name(self) -> str:
        return "threads"

    def key(self) -> Hashable:
        return self

    def open(self) -> SlotPool:
        workers = self.max_workers or min(_MOST_THREADS, cores() + 4)
        return SlotPool(self.name, Capacity(workers, memory=self.memory), None)
