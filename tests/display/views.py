"""Snapshots of runs to show."""

from __future__ import annotations

from typing import Any

from headrace.core.interfaces import NodeView, RunView


def a_node(node: int = 0, **changes: Any) -> NodeView:
    fields: dict[str, Any] = {
        "node": node,
        "name": f"clean-{node}",
        "state": "Running",
        "mapped": True,
        "total": 2000,
        "counts": {"Completed": 980, "Failed": 20, "Running": 4},
        "rate": 123.4,
        "eta_seconds": 130.0,
        "bytes": 3_400_000_000,
        "elapsed_seconds": 12.0,
        "failures": {"ValueError: bad <input>": 15, "KeyError: 'x'": 5},
    }
    return NodeView(**(fields | changes))


def a_view(*nodes: NodeView, **changes: Any) -> RunView:
    fields: dict[str, Any] = {
        "id": "0",
        "name": "brave-otter",
        "flow": "prepare",
        "executor": "dask",
        "state": "Running",
        "message": "",
        "elapsed_seconds": 65.0,
        "slots": 4,
        "busy": 3,
        "nodes": nodes,
    }
    return RunView(**(fields | changes))
