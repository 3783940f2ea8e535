"""What a notebook shows of a run, a future, a dataset and all else that is the last line of a cell."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from ..core.errors import HeadraceError
from ..core.forecasts import TITLES
from ..core.interfaces import RunRecord
from . import formats, html
from .timeline import timeline

MOST_BATCHES = 20_000
MOST_FAILURES = 5
MOST_LINES = 20
FIRST_ROWS = 5
MOST_COLUMNS = 12


def page_of(kind: str, thing: Any) -> str:
    """A thing as HTML that needs no style sheet, script or network.

    Parameters
    ----------
    kind
        What it is: the ``shown_as`` of its class (`core.shown`).
    """
    return html.framed(*_PAGES[kind](thing))


def _run(run: Any) -> Sequence[str]:
    """A run, live or recorded: its card, and when which worker ran what."""
    try:
        view = run.status
    except HeadraceError as error:  # its record is gone
        return (f"<b>{escape(run.name)}</b> {html.pill(run.state.name)} {escape(str(error))}",)
    names = {node.node: node.name for node in view.nodes}
    return (html.run_card(view, timeline(run.batches(limit=MOST_BATCHES), names)),)


def _forecast(forecast: Any) -> Sequence[str]:
    """A sample run, and what the whole would take."""
    run = forecast.run
    state = run.state
    message = "" if state.is_completed() else f"<div>{escape(state.message)}</div>"
    titles = ("", *(f">{title}" for title in TITLES[1:]))
    rows = [
        html.row(html.words(name, bold=True), *map(html.number, texts))
        for name, *texts in forecast.rows()
    ]
    took = formats.duration(forecast.took_seconds)
    source = f"from the sample run {escape(run.name)} {html.pill(state.name)} {took}"
    return (
        f"<div>forecast of <b>{escape(run.flow_name)}</b> {escape(' · '.join(forecast.facts()))}</div>",
        f'<div style="{html.FAINT}">{source}</div>',
        message,
        html.table(titles, rows) if rows else "",
    )


def _runs(records: Sequence[RunRecord]) -> Sequence[str]:
    rows = [
        html.row(
            html.words(record.name, bold=True),
            html.words(record.flow),
            html.markup(html.pill(record.state)),
            html.words(record.executor),
            html.number(_local(record.created)),
            html.number(_took(record)),
            html.words(record.message),
        )
        for record in records
    ]
    return (html.table(("run", "flow", "state", "executor", ">created", ">took", ""), rows),)


def _logs(logs: Any) -> Sequence[str]:
    return (f'<pre style="white-space:pre-wrap">{escape(repr(logs))}</pre>',)


def _took(record: RunRecord) -> str:
    if record.started is None:
        return ""
    return formats.duration(((record.ended or datetime.now(UTC)) - record.started).total_seconds())


def _local(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _state(state: Any) -> Sequence[str]:
    where = f' <span style="{html.FAINT}">{escape(state.run)}</span>' if state.run else ""
    told = f"<div>{escape(state.message)}</div>" if state.message else ""
    return (html.pill(state.name), where, told)


def _future(future: Any) -> Sequence[str]:
    return (f"<b>{escape(future.node.key)}</b>[{future.position}]", *_state(future.state))


def _map(future: Any) -> Sequence[str]:
    """All items of a mapped task: its line of the run's table, and what failed."""
    view = future.engine.node_view(future.node)
    parts = [html.node_table([view])]
    if view.failures:
        parts.append(html.signature_table([(view.name, s, n) for s, n in view.failures.items()]))
        parts.append(html.failure_table(future.failures(), MOST_FAILURES))
    return parts


def _failures(table: Any) -> Sequence[str]:
    """A table of failed items: the first of them."""
    count = table.num_rows
    facts = f"{formats.exact(count)} {'item' if count == 1 else 'items'}"
    return (f"<div><b>Failures</b> {facts}</div>", html.failure_table(table, MOST_LINES))


def _item(item: Any) -> Sequence[str]:
    """One item as history and storage know it: what it was given and gave, its log and traceback."""
    took = ""
    if item.started is not None and item.ended is not None:
        took = formats.duration((item.ended - item.started).total_seconds())
    facts = [f"attempt {item.attempt}" if item.attempt else "", took, item.worker]
    rows = [html.row(html.words("input"), html.code(_told(lambda: item.input), 1000))]
    if item.state.is_completed():
        rows.append(html.row(html.words("output"), html.code(_told(lambda: item.output), 1000)))
    rows += [
        html.row(html.words("log"), html.code(line.message, 400)) for line in item.logs[:MOST_LINES]
    ]
    return (
        f"<b>{escape(item.node)}</b>[{item.position}] {html.pill(item.state.name)}",
        f' <span style="{html.FAINT}">{" · ".join(escape(fact) for fact in facts if fact)}</span>',
        f"<div>{escape(item.state.message)}</div>",
        html.table(("", ""), rows),
        f"<pre>{escape(item.traceback)}</pre>" if item.traceback else "",
    )


def _lineage(lineage: Any) -> Sequence[str]:
    """By task, from the last to the first; and the files that all began with."""
    rows = [
        html.row(
            html.words(task),
            html.words(run),
            html.code(code[:8], 8),
            html.number(formats.exact(outputs)),
            html.words(of),
        )
        for task, run, code, outputs, of in lineage.by_task()
    ]
    sources = lineage.sources
    names = ", ".join(sources[:FIRST_ROWS]) + (" …" if len(sources) > FIRST_ROWS else "")
    return (
        f"<div><b>Lineage</b> {formats.exact(len(sources))} source files</div>",
        html.table(("task", "run", "code", ">outputs", "from"), rows),
        f'<div style="{html.FAINT}">{escape(names)}</div>',
    )


def _told(read: Callable[[], Any]) -> str:
    """A value, or why it cannot be had."""
    try:
        return repr(read())
    except HeadraceError as error:
        return f"({error})"


def _dataset(dataset: Any) -> Sequence[str]:
    """Schema, size and first rows."""
    schema, files = dataset.schema, dataset.files
    facts = [
        f"{formats.exact(rows)} rows" if (rows := dataset.known_rows) is not None else "",
        formats.size(dataset.bytes),
        f"{formats.exact(len(files))} {'file' if len(files) == 1 else 'files'}",
        f"{len(schema.names)} columns",
    ]
    name = escape(files[0] + (" …" if len(files) > 1 else "")) if files else "nothing"
    head = dataset.head(FIRST_ROWS)
    shown = schema.names[:MOST_COLUMNS]
    titles = [
        f"{escape(name)}<br/><span>{escape(_cut(str(schema.field(name).type), 40))}</span>"
        for name in shown
    ]
    rows = [
        html.row(*(html.code(_value(row[i]), 80) for i in range(len(shown))))
        for row in zip(*(head.column(i).to_pylist() for i in range(len(shown))), strict=True)
    ]
    if len(schema.names) > len(shown):
        left_out = ", ".join(schema.names[len(shown) :])
        facts.append(f"not shown: {_cut(left_out, 200)}")
    return (
        f"<div><b>Dataset</b> {' · '.join(escape(fact) for fact in facts if fact)}</div>",
        f'<div style="{html.FAINT}">{name}</div>',
        html.table(titles, rows, escaped=True),
    )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _callable(made: Any) -> Sequence[str]:
    """A flow or a task: signature, what it says of itself, and the options that were given."""
    kind = type(made).__name__.lower()
    told = inspect.cleandoc(made.description).partition("\n\n")[0] if made.description else ""
    options = {k: v for k, v in made.given.items() if k not in ("name", "description")}
    return (
        f"<div>{kind} <b>{escape(made.name)}</b><code>{escape(str(made.shape.signature))}</code></div>",
        f'<div style="{html.FAINT}">{escape(told)}</div>' if told else "",
        _options(options),
    )


def _executor(executor: Any) -> Sequence[str]:
    """An executor: what was set of it. Values of environment variables may be secrets."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(executor):
        value = getattr(executor, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default:
            given[field.name] = sorted(value) if field.name == "env" else value
    name = f"<b>{escape(type(executor).__name__)}</b>"
    return (f"<div>{name} <code>{escape(executor.name)}</code></div>", _options(given))


def _options(given: Mapping[str, Any]) -> str:
    if not given:
        return ""
    rows = [
        html.row(html.words(name), html.code(repr(value), 120)) for name, value in given.items()
    ]
    return html.table(("", ""), rows)


_PAGES: Mapping[str, Callable[[Any], Sequence[str]]] = {
    "run": _run,
    "runs": _runs,
    "logs": _logs,
    "view": lambda view: (html.run_card(view),),
    "forecast": _forecast,
    "state": _state,
    "future": _future,
    "map": _map,
    "failures": _failures,
    "item": _item,
    "dataset": _dataset,
    "lineage": _lineage,
    "callable": _callable,
    "executor": _executor,
}
