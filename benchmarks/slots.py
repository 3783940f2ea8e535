"""Executors of a given number of slots, which is what scheduling is measured on."""

from __future__ import annotations

from typing import Any

import headrace

EXECUTORS = ("threads", "processes", "dask", "ray")


def with_slots(name: str, slots: int) -> Any:
    """An executor by name, with so many slots."""
    if name == "threads":
        return headrace.ThreadsExecutor(max_workers=slots)
    if name == "processes":
        return headrace.ProcessesExecutor(max_workers=slots)
    if name == "dask":
        return headrace.DaskExecutor(n_workers=slots)
    if name == "ray":
        return headrace.RayExecutor(num_cpus=slots)
    raise SystemExit(f"no executor {name!r} here; use one of {', '.join(EXECUTORS)}")
