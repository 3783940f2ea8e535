"""How the tests of the storage room commit values and read them back, without an engine."""

from collections.abc import Iterable, Sequence
from typing import Any

from headrace.core.interfaces import Batch, Manifest, Positions, RunStore, Stage, StageSpec

SPEC = StageSpec("task", b"", None, (), b"")


def encoder(
    run: RunStore,
    *,
    batch: int = 0,
    node: int = 0,
    spec: StageSpec = SPEC,
    positions: Positions = Positions(()),
    ids: bytes | None = None,
    **more: Any,
):
    stage = Stage(node, f"task-{node}", "specs/x", more.pop("attempt", 1))
    made = Batch(run.run_id, batch, run, (stage,), positions, b"", **more)
    return run.encoder(spec, made, 0, ids)


def commit(
    run: RunStore,
    values: Sequence[Any],
    cuts: Iterable[int] = (),
    *,
    node: int = 0,
    spec: StageSpec = SPEC,
    **more: Any,
) -> Manifest:
    """Commit values in batches that end at the cuts; returns the node's manifest."""
    receipts: list[Any] = []
    first = 0
    for number, stop in enumerate([*cuts, len(values)]):
        one = encoder(run, batch=number, node=node, spec=spec, **more)
        for position in range(first, stop):
            one.add(position, values[position], 10**18 + position, 10**18 + position + 1000)
        receipts.extend(one.flush())
        first = stop
    return Manifest(node, f"task-{node}", tuple(receipts), len(values), schema=spec.schema)
