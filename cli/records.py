"""``headrace runs`` and ``headrace cancel``: what history tells, and what it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from ..core.errors import ConfigurationError, StorageError
from ..core.interfaces import History, NodeRecord, RunRecord
from ..core.log_lists import Logs
from ..core.recorded import RecordedRun, all_logs
from ..core.removal import delete_run
from ..core.runs import settled_history
from ..core.states import State, StateType
from .main import print_json
from .spans import SPAN
from .tables import table

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_NUMBERS: dict[str, int] = dict(zip(_LEVELS, (10, 20, 30, 40, 50), strict=True))
_NAMED, _PAGE = 5, 500
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
_run_argument = click.argument("run", metavar="RUN")


@click.group()
def runs() -> None:
    """Look at runs, past and present.

    RUN is a run's name, its id, or the beginning of its id.
    """


@runs.command("list")
@click.option("--flow", help="Only runs of this flow.")
@click.option("--state", help="Only runs in this state, such as Failed.")
@click.option("--limit", default=20, show_default=True, help="The newest so many.")
@_json_option
def list_runs(flow: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List runs, the newest first."""
    found = settled_history().runs(flow=flow, state=state, limit=limit)
    if as_json:
        print_json([asdict(record) for record in found])
        return
    rows = [
        (str(r.id)[:8], r.name, r.flow, r.state, r.executor, _local(r.created), _took(r))
        for r in found
    ]
    click.echo(
        table(("id", "name", "flow", "state", "executor", "created", "took"), rows, "no runs")
    )


@runs.command("show")
@_run_argument
@_json_option
def show(run: str, as_json: bool) -> None:
    """Show a run and its tasks."""
    history = settled_history()
    record = history.run(run)
    nodes = history.nodes(record.id)
    if as_json:
        shown = [{k: v for k, v in asdict(node).items() if k != "states"} for node in nodes]
        print_json({**asdict(record), "nodes": shown})
        return
    for name, value in {
        "run": f"{record.name} ({record.id})",
        "flow": f"{record.flow} {record.version}".strip(),
        "state": f"{record.state}{': ' if record.message else ''}{' '.join(record.message.split())}",
        "executor": record.executor,
        "storage": record.storage,
        "created": f"{_local(record.created)}, took {_took(record)}",
        "driver": f"process {record.pid} on {record.host}",
        "parameters": record.parameters,
    }.items():
        click.echo(f"{name:11}{value}")
    rows = [(n.key, n.state, _items(n), _counts(n)) for n in nodes]
    click.echo()
    click.echo(table(("task", "state", "items", "by state"), rows, "no tasks"))


@runs.command("logs")
@_run_argument
@click.option(
    "--level", type=click.Choice(_LEVELS, case_sensitive=False), default="INFO", show_default=True
)
@_json_option
def logs(run: str, level: str, as_json: bool) -> None:
    """Print a run's log lines, the oldest first."""
    history = settled_history()
    record = history.run(run)
    keys = {node.node: node.key for node in history.nodes(record.id)}
    lines = all_logs(history, record.id, _NUMBERS[level.upper()])
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    told = Logs(run=record.name, keys=keys)
    for line in lines:
        click.echo(told.line(line))


@runs.command("failures")
@_run_argument
@_json_option
@click.option("--tracebacks", is_flag=True, help="Show them whole.")
def failures(run: str, as_json: bool, tracebacks: bool) -> None:
    """Print the items of a run that failed."""
    history = settled_history()
    found: list[dict[str, Any]] = RecordedRun(history, history.run(run).id).failures().to_pylist()
    if as_json:
        print_json(found)
    elif tracebacks:
        for each in found:
            click.echo(
                f"{each['node']}[{each['item']}], attempt {each['attempt']}, input {each['input']}"
            )
            click.echo(each["traceback"] or f"{each['exception']}: {each['message']}")
    else:
        rows = [
            (f"{each['node']}[{each['item']}]", each["kind"], each["attempt"], _cause(each))
            for each in found
        ]
        click.echo(table(("item", "kind", "attempt", "error"), rows, "no item failed"))


def _cause(failure: dict[str, Any]) -> str:
    return f"{failure['exception']}: {' '.join(str(failure['message']).split())}"


def _ask_for_end(run: str) -> None:
    history = settled_history()
    record = history.run(run)
    if _ended(record):
        raise ConfigurationError(f"run {record.name} has ended already: {record.state}")
    history.ask(record.id, "cancel")
    click.echo(f"asked for the end of run {record.name} ({record.id})")


@runs.command("cancel")
@_run_argument
def cancel_run(run: str) -> None:
    """Ask for a run's end."""
    _ask_for_end(run)


@click.command()
@_run_argument
def cancel(run: str) -> None:
    """Ask for a run's end: its driver looks every few seconds, wherever it is."""
    _ask_for_end(run)


@runs.command("delete")
@click.argument("which", metavar="[RUN]...", nargs=-1)
@click.option("--older-than", type=SPAN, help="Runs that ended so long ago, such as 30d.")
@click.option("--state", help="Runs in this state, such as Failed.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also those whose driver seems to be alive.")
@click.option("--keep-values", is_flag=True, help="Leave its values in their storage.")
def delete(
    which: Sequence[str],
    older_than: float | None,
    state: str | None,
    yes: bool,
    force: bool,
    keep_values: bool,
) -> None:
    """Delete runs: their records, and their values.

    Either those that are named, or all that have ended and are as --older-than and --state say.
    """
    history = settled_history()
    chosen = older_than is not None or state is not None
    if chosen == bool(which):
        raise click.UsageError("name runs, or say which by --older-than and --state")
    records = (
        list(_ended_runs(history, older_than, state)) if chosen else list(map(history.run, which))
    )
    if not records:
        click.echo("no runs")
        return
    names = ", ".join(record.name for record in records[:_NAMED])
    if len(records) > _NAMED:
        names = f"{names} and {len(records) - _NAMED} more"
    if not yes:
        click.confirm(f"Delete {names} for good?", abort=True)
    for record in sorted(records, key=lambda each: each.created, reverse=True):  # users first
        try:
            freed = delete_run(history, record.id, force=force, keep_values=keep_values)
        except StorageError as error:
            raise StorageError(f"{error}; --keep-values deletes the records alone") from error
        click.echo(f"deleted {record.name}, {freed:,} bytes of values")


def _ended_runs(
    history: History, older_than: float | None, state: str | None
) -> Iterator[RunRecord]:
    now, offset = datetime.now(UTC), 0
    while page := history.runs(state=state, limit=_PAGE, offset=offset):
        offset += len(page)
        for record in page:
            age = (now - (record.ended or record.heartbeat or record.created)).total_seconds()
            if _ended(record) and (older_than is None or age >= older_than):
                yield record


runs.add_command(list_runs, "ls")  # as Prefect calls them
runs.add_command(show, "inspect")

# ------------------------------------------------------------------------------------- in words


def _ended(record: RunRecord) -> bool:
    return State(StateType(record.state_type)).is_final()


def _local(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _took(record: RunRecord) -> str:
    from ..display.formats import duration

    if record.started is None or record.ended is None:
        return "-"
    return duration((record.ended - record.started).total_seconds())


def _items(node: NodeRecord) -> str:
    return "-" if not node.mapped else "?" if node.total is None else f"{node.total:,}"


def _counts(node: NodeRecord) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in node.counts.items() if count)
