"""Batches in child processes of the driver: user code may crash, hang or hold the GIL."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from ..core.errors import ConfigurationError
from ..core.shown import Shown
from . import capacity
from .capacity import Capacity, cores
from .launch import Launch
from .pool import SlotPool


@dataclass(frozen=True)
class ProcessesExecutor(Shown):
    """Runs batches in child processes, which start when they are needed and stay warm.

    Parameters
    ----------
    max_workers
        Cpus to share out, one per slot unless a task asks for more or less. Default: the cores
        that this process may use.
    env
        Environment variables of the children, beside this process's own.
    max_items_per_child
        A child that has run so many items is replaced by a fresh one (for code that leaks).
    gpus, memory, resources
        What tasks may ask for in all, beside cpus: a count, bytes, and amounts by name. A task that
        asks for GPUs sees its own ones (``CUDA_VISIBLE_DEVICES``), parts of one share it. Where
        batches turn out to need more memory than all slots together have, fewer run at a time.
        Default of ``memory``: the setting of that name, or most of what the machine has.
    """

    shown_as = "executor"

    max_workers: int | None = None
    env: Mapping[str, str] | None = None
    max_items_per_child: int | None = None
    gpus: float = 0.0
    memory: int = 0
    resources: Mapping[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        for name in ("max_workers", "max_items_per_child"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value}")

    @property
    def name(self) -> str:
        return "processes"

    @property
    def _memory(self) -> int:
        return self.memory or capacity.memory()

    def key(self) -> Hashable:
        return (
            *("processes", self.max_workers, self.max_items_per_child, self.gpus, self._memory),
            tuple(sorted((self.env or {}).items())),
            tuple(sorted(self.resources.items())),
        )

    def open(self) -> SlotPool:
        workers = self.max_workers or cores()
        there = Capacity(workers, self.gpus, self._memory, dict(self.resources))
        launch = Launch(environment=dict(self.env or {}))
        return SlotPool(self.name, there, launch, max_items=self.max_items_per_child)
