"""``headrace explain``: what was taken from the cache, and why the rest was not."""

from __future__ import annotations

import zlib
from dataclasses import asdict

import click

from ..core.explaining import Explanation
from ..core.interfaces import NodeRecord
from ..core.items import ItemState
from ..core.recorded import RecordedRun
from ..core.runs import settled_history
from .main import print_json
from .tables import table


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("node", metavar="[TASK", required=False)
@click.argument("item", metavar="[ITEM]]", required=False, type=int)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def explain(run: str, node: str | None, item: int | None, as_json: bool) -> None:
    """Say why items were taken from the cache, or were not.

    RUN is a run's name, its id, or the beginning of its id; TASK a task of it, such as clean-0; ITEM
    the number of one of its items. Without ITEM, one item of each outcome is explained.
    """
    history = settled_history()
    found = RecordedRun(history, history.run(run).id)
    records = [each for each in found.nodes() if node in (None, each.key)]
    if node is not None and (item is not None or not records):
        told = [found.explain(node, item or 0)]
    else:
        told = [found.explain(each.key, at) for each in records for at in _examples(each)]
    if as_json:
        print_json([asdict(each) for each in told])
    elif item is not None:
        click.echo(str(told[0]))
    else:
        counts = {each.key: each.counts.get("Cached", 0) for each in records}
        click.echo(table(("item", "outcome", "why"), list(map(_row, told)), "no tasks"))
        for key, count in counts.items():
            if count:
                click.echo(f"{key}: {count:,} from the cache")


def _row(told: Explanation) -> tuple[str, str, str]:
    return told.item, {True: "hit", False: "miss", None: "-"}[told.hit], told.reason


def _examples(record: NodeRecord) -> list[int]:
    """The first item that was taken from the cache, and the first that was not."""
    states = b"" if record.states is None else zlib.decompress(record.states)
    first = states.find(bytes([ItemState.CACHED]))
    other = next((i for i, state in enumerate(states) if state != ItemState.CACHED), -1)
    return sorted({place for place in (first, other) if place >= 0}) or [0]
