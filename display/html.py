"""Pieces of HTML about runs, nodes and failures, for live displays and for reprs.

Styles are inline and colours come from the page (``currentColor``, Jupyter's variables with a
fallback), because front ends strip style sheets from saved notebooks. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..core.interfaces import ItemRecord, NodeView, RunView
from . import formats, progress

FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.45"
FAINT = "opacity:.65"
LINE = "border-bottom:1px solid color-mix(in srgb,currentColor 14%,transparent)"
NUMBER = "text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;padding:3px 10px"
WORDS = "text-align:left;padding:3px 10px;max-width:60em"
SHORT = f"{WORDS};white-space:nowrap"


def run_card(view: RunView) -> str:
    """A run: its header, its nodes and its failures."""
    parts = [run_header(view)]
    if view.nodes:
        parts.append(node_table(view.nodes))
    found, more = progress.signatures(view, 5)
    if found:
        parts.append(signature_table(found, more))
    return f'<div style="{FONT};color:inherit">{"".join(parts)}</div>'


def run_header(view: RunView) -> str:
    """Name, state, time, executor and slots."""
    facts = [formats.duration(view.elapsed_seconds), escape(view.executor)]
    if view.slots:
        facts.append(f"{view.busy} of {view.slots} slots busy")
    message = f'<div style="{FAINT}">{escape(view.message)}</div>' if view.message else ""
    return (
        f'<div style="margin:2px 0 6px"><b>{escape(view.flow)}</b>'
        f' <span style="{FAINT}">/ {escape(view.name)}</span> {pill(view.state)}'
        f' <span style="{FAINT}">{" · ".join(facts)}</span>{message}</div>'
    )


def pill(state: str) -> str:
    """A state's name on its colour."""
    colour = progress.colour(state)
    return (
        f'<span style="border:1px solid {colour};border-left:8px solid {colour};border-radius:4px;'
        f'padding:0 6px;margin:0 6px;font-size:12px">{escape(state)}</span>'
    )


def node_table(nodes: Sequence[NodeView]) -> str:
    """A row for each node: name, bar, items, rate, time left, bytes, failures."""
    titles = ("", "", ">items", ">rate", ">left", ">size", "")
    rows = [_node_row(node) for node in nodes]
    return _table(titles, rows)


def _node_row(node: NodeView) -> str:
    line = progress.line(node)
    failed = f'<span style="color:{progress.colour("Failed")}">{escape(line.failed)}</span>'
    return (
        f'<tr style="background:none"><td style="{SHORT};{LINE}">{escape(_short(line.name, 60))}</td>'
        f'<td style="{WORDS};{LINE}">{bar(node)}</td>'
        + "".join(
            f'<td style="{NUMBER};{LINE}">{escape(text)}</td>'
            for text in (line.done, line.rate, line.eta, line.size)
        )
        + f'<td style="{SHORT};{LINE}">{failed}</td></tr>'
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
        f'<tr style="background:none"><td style="{NUMBER};{LINE}">{formats.exact(n)}</td>'
        f'<td style="{WORDS};{LINE}">{escape(name)}</td>'
        f'<td style="{WORDS};{LINE}"><code>{escape(_short(signature, 200))}</code></td></tr>'
        for name, signature, n in found
    ]
    if more:
        rows.append(_remark(f"and {formats.exact(more)} more kinds of failures", 3))
    return _table((">failed", "node", "error"), rows)


def failure_table(items: Sequence[ItemRecord], most: int = 20) -> str:
    """Failed attempts of items: where, what, and the input; at most ``most`` of them."""
    rows = [
        f'<tr style="background:none"><td style="{NUMBER};{LINE}">{item.node}[{item.position}]</td>'
        f'<td style="{NUMBER};{LINE}">{item.attempt}</td>'
        f'<td style="{WORDS};{LINE}">{escape(item.state)}</td>'
        f'<td style="{WORDS};{LINE}"><code>{escape(_short(_error(item), 200))}</code></td>'
        f'<td style="{WORDS};{LINE}"><code>{escape(_short(item.input, 80))}</code></td></tr>'
        for item in items[:most]
    ]
    if len(items) > most:
        rows.append(_remark(f"and {formats.exact(len(items) - most)} more", 5))
    return _table((">item", ">attempt", "state", "error", "input"), rows)


def _error(item: ItemRecord) -> str:
    return f"{item.type_name}: {item.message}" if item.message else item.type_name


def _remark(text: str, columns: int) -> str:
    return f'<tr><td colspan="{columns}" style="{WORDS};{FAINT}">{escape(text)}</td></tr>'


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _table(titles: Sequence[str], rows: Sequence[str]) -> str:
    """A table; the titles of columns of numbers begin with ``>``."""
    cells = "".join(
        f'<th style="{NUMBER if title.startswith(">") else WORDS};{FAINT};font-weight:normal">'
        f"{title.removeprefix('>')}</th>"
        for title in titles
    )
    return (
        '<table style="border-collapse:collapse;border:none;margin:0 0 6px;color:inherit;'
        f'font:inherit"><thead><tr style="background:none">{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
