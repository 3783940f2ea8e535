"""Pieces of HTML about runs, nodes and failures, for live displays and for reprs.

Styles are inline and colours come from the page (``currentColor``, Jupyter's variables with a
fallback), because front ends strip style sheets from saved notebooks. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ..core.graph import Graph, GraphEdge, GraphNode
from ..core.interfaces import NodeView, RunView
from . import formats, progress

FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.45"
FAINT = "opacity:.65"
LINE = "border-bottom:1px solid color-mix(in srgb,currentColor 14%,transparent)"
NUMBER = "text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;padding:3px 10px"
WORDS = "text-align:left;padding:3px 10px;max-width:60em"
SHORT = f"{WORDS};white-space:nowrap"


MOST_DRAWN = 40
"""A run with more nodes has no drawing of its graph: nobody could read it."""


def run_card(view: RunView, *more: str) -> str:
    """A run: its header, graph, nodes and failures, and what else there is to show of it."""
    parts = [run_header(view)]
    if any(node.upstream for node in view.nodes) and len(view.nodes) <= MOST_DRAWN:
        parts.append(f'<div style="max-width:100%;overflow-x:auto">{graph_of(view).svg}</div>')
    if view.nodes:
        parts.append(node_table(view.nodes))
    parts += more
    found, left_out = progress.signatures(view, 5)
    if found:
        parts.append(signature_table(found, left_out))
    return framed(*parts)


def framed(*parts: str) -> str:
    """Parts of a page in headrace's type."""
    return f'<div style="{FONT};color:inherit">{"".join(parts)}</div>'


def graph_of(view: RunView) -> Graph:
    """The drawing of a snapshot's nodes."""
    nodes = [
        GraphNode(n.node, n.name, n.mapped, n.state, dict(n.counts), n.total) for n in view.nodes
    ]
    edges = [GraphEdge(source, n.node) for n in view.nodes for source in n.upstream]
    return Graph(tuple(nodes), tuple(edges), view.flow)


def run_header(view: RunView) -> str:
    """Name, state, time, executor and slots."""
    facts = [formats.duration(view.elapsed_seconds), escape(view.executor)]
    if view.slots:
        facts.append(f"{view.busy} of {view.slots} slots busy")
    message = f'<div style="{FAINT}">{escape(view.message)}</div>' if view.message else ""
    return (
        f'<div style="margin:2px 0 6px"><b>{escape(view.flow)}</b>'
        f' <span style="{FAINT}">/ {escape(view.name)}</span> {pill(view.state)}'
        f' <span style="{FAINT}">{" · ".join(facts)}</span>{busy_line(view)}{message}</div>'
    )


def busy_line(view: RunView) -> str:
    """The slots in use over time, as a small drawing; nothing where there is too little to draw."""
    if len(view.busy_past) < 3 or not view.slots:
        return ""
    width, height = 140, 18
    last = view.busy_past[-1][0] or 1.0
    points = " ".join(
        f"{width * seconds / last:.1f},{height * (1 - min(1.0, busy / view.slots)):.1f}"
        for seconds, busy in view.busy_past
    )
    return (
        f' <svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' style="vertical-align:-4px;border-bottom:1px solid currentColor;opacity:.75">'
        f"<title>slots in use over time, of {view.slots}</title>"
        f'<polygon points="0,{height} {points} {width},{height}" fill="{progress.colour("Running")}"'
        ' fill-opacity=".55"/></svg>'
    )


def pill(state: str) -> str:
    """A state's name on its colour."""
    colour = progress.colour(state)
    return (
        f'<span style="border:1px solid {colour};border-left:8px solid {colour};border-radius:4px;'
        f'padding:0 6px;margin:0 6px;font-size:12px">{escape(state)}</span>'
    )


def node_table(nodes: Sequence[NodeView]) -> str:
    """A row for each node: name, bar, items, rate, time so far and left, bytes, failures."""
    titles = ("", "", ">items", ">rate", ">time", ">left", ">size", "")
    rows = [_node_row(node) for node in nodes]
    return table(titles, rows)


def _node_row(node: NodeView) -> str:
    line = progress.line(node)
    failed = f'<span style="color:{progress.colour("Failed")}">{escape(line.failed)}</span>'
    return row(
        _cell(escape(_short(line.name, 60)), SHORT),
        markup(bar(node)),
        *(number(text) for text in (line.done, line.rate, line.time, line.eta, line.size)),
        _cell(failed, SHORT),
    )


def bar(node: NodeView) -> str:
    """A node's items by state, as a bar; its title tells the counts."""
    counts = ", ".join(f"{formats.exact(n)} {state}" for state, n in node.counts.items() if n)
    parts = "".join(
        f'<span style="display:block;height:8px;flex:none;'
        f'width:{part.stop - part.start:.2f}%;background:{progress.colour(part.state)}"></span>'
        for part in progress.segments(node, 100.0, least=2.0)
    )
    return (
        f'<span title="{escape(counts or node.state)}" style="display:flex;width:160px;height:8px;'
        "border-radius:4px;overflow:hidden;"
        f'background:color-mix(in srgb,currentColor 14%,transparent)">{parts}</span>'
    )


def signature_table(found: Sequence[tuple[str, str, int]], more: int = 0) -> str:
    """Failures by kind: (node, signature, items), and how many kinds are left out."""
    rows = [
        row(number(formats.exact(n)), words(name), code(signature, 200))
        for name, signature, n in found
    ]
    if more:
        rows.append(_remark(f"and {formats.exact(more)} more kinds of failures", 3))
    return table((">failed", "node", "error"), rows)


def failure_table(failures: Any, most: int) -> str:
    """Failed items, of a table as `core.failure_tables` makes it: the first ``most`` of them."""
    rows = [
        row(
            words(item["name"]),
            number(str(item["attempt"])),
            code(f"{item['exception'] or item['kind']}: {item['message']}", 200),
            code(item["input"] or "", 120),
            words(item["worker"] or ""),
        )
        for item in failures.slice(0, most).to_pylist()
    ]
    if (more := failures.num_rows - most) > 0:
        rows.append(_remark(f"and {formats.exact(more)} more", 5))
    return table(("item", ">attempt", "error", "input", "worker"), rows)


def _remark(text: str, columns: int) -> str:
    return f'<tr><td colspan="{columns}" style="{WORDS};{FAINT}">{escape(text)}</td></tr>'


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def row(*cells: str) -> str:
    """A line of a table, out of `number`, `words`, `code` and `markup`."""
    return f'<tr style="background:none">{"".join(cells)}</tr>'


def number(text: str) -> str:
    """A cell with a number, or what is read like one."""
    return _cell(escape(text), NUMBER)


def words(text: str, *, bold: bool = False) -> str:
    """A cell with words."""
    return _cell(f"<b>{escape(text)}</b>" if bold else escape(text), WORDS)


def code(text: str, length: int) -> str:
    """A cell with at most so much of a text of the user's."""
    return _cell(f"<code>{escape(_short(text, length))}</code>", f"{WORDS};overflow-wrap:anywhere")


def markup(text: str) -> str:
    """A cell with what is HTML already."""
    return _cell(text, WORDS)


def _cell(text: str, style: str) -> str:
    return f'<td style="{style};{LINE}">{text}</td>'


def table(titles: Sequence[str], rows: Sequence[str], *, escaped: bool = False) -> str:
    """A table; the titles of columns of numbers begin with ``>``.

    Parameters
    ----------
    rows
        Made by `row`.
    escaped
        The titles are HTML already.
    """
    cells = "".join(
        f'<th style="{NUMBER if title.startswith(">") else WORDS};{FAINT};font-weight:normal">'
        f"{title.removeprefix('>') if escaped else escape(title.removeprefix('>'))}</th>"
        for title in titles
    )
    return (
        '<table style="border-collapse:collapse;border:none;margin:0 0 6px;color:inherit;'
        f'font:inherit"><thead><tr style="background:none">{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
