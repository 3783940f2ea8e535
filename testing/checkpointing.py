"""A long item goes on where it was: after a failure, and after the death of its process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.annotations import unmapped
from ..core.context import context
from ..core.runs import FlowRun
from ..core.tasks import task
from .faults import Death, InjectedFault, die
from .suite import Suite
from .tally import Tally

_STEPS = 4
_BREAKS_AT = 2


def _walk(tally: Tally, name: str, breaks: Death | bool) -> None:
    """Take some steps, each of them noted; what breaks does so once, behind its last checkpoint."""
    for step in range(context.checkpoint.load(0), _STEPS):
        tally.note(name, str(step))
        context.checkpoint.save(step + 1)
        if breaks and step == _BREAKS_AT:
            if isinstance(breaks, Death):
                die(breaks)
            raise InjectedFault(name)


@task(retries=1, infra_retries=1)
def walk(tally: Tally, breaks: Death | bool, same: int) -> int:
    """One item; its checkpoint is its own, though others have the same input."""
    _walk(tally, f"walk-{context.position}", breaks)
    return same


@task(retries=1)
async def walk_async(tally: Tally, item: int) -> int:
    """Items that run at a time have a checkpoint each."""
    _walk(tally, f"async-{item}", breaks=True)
    return item


@task(retries=1)
def walk_on(tally: Tally, item: int) -> int:
    """The next stage of a chain."""
    _walk(tally, f"on-{context.position}", breaks=item == 1)
    return item


class CheckpointingConformance(Suite):
    """`context.checkpoint` holds on every executor, and nothing of it is left in the end."""

    def test_items_go_on_where_they_were(self, shared: Path) -> None:
        tally = Tally(shared / "tally")
        death = Death.KILL if self.able.kills else True
        breaks = [death, True, False, death, True, False]

        def body() -> Any:
            walked = walk.map(unmapped(tally), breaks, unmapped(1))
            on = walk_on.map(unmapped(tally), walked)
            return on.result(), walk_async.map(unmapped(tally), range(3)).result()

        run = self.watched(body)
        assert run.result() == ([1] * 6, [0, 1, 2])
        names = [
            f"{name}-{n}"
            for name, count in (("walk", 6), ("on", 6), ("async", 3))
            for n in range(count)
        ]
        steps = {name: [note.text for note in tally.notes(name)] for name in names}
        assert steps == {name: [str(step) for step in range(_STEPS)] for name in names}, (
            "each step once"
        )
        assert _left(run) == []


def _left(run: FlowRun[Any]) -> list[str]:
    store = run.info.store.run(str(run.id))
    return [each.path for each in store.list("checkpoints/")]
