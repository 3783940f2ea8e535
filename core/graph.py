"""The graph of a run: nodes with their states, edges between them; as SVG, Mermaid and text.

Pure functions of a `Graph`: the same graph gives the same text, and nothing outside the standard
library is imported.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from .graph_layout import HEIGHT, WIDTH, Point, place
from .interfaces import NodeRecord

COLOURS: Mapping[str, str] = {
    "Completed": "#2f9e58",
    "Cached": "#1f9aa5",
    "Running": "#3b7ddd",
    "Retrying": "#3b7ddd",
    "AwaitingRetry": "#d99a00",
    "Paused": "#d99a00",
    "Suspended": "#d99a00",
    "Failed": "#d13a3f",
    "TimedOut": "#e0662b",
    "Crashed": "#9a38b5",
    "Cancelling": "#7d8590",
    "Cancelled": "#7d8590",
    "Skipped": "#b3a594",
    "Pending": "#cfd6de",
}
"""Colour of each state; each is readable on light and dark ground."""

BAD = ("Failed", "TimedOut", "Crashed")

OTHER_COLOUR = "#aab2bd"


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One node. ``counts`` are items by state name; ``total`` is None while it is not known."""

    id: int
    label: str
    mapped: bool = False
    state: str = "Pending"
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    total: int | None = None

    @property
    def summary(self) -> str:
        """State and counts in a line, e.g. ``Running, 980 of 1,000, 20 Failed``."""
        if not self.mapped:
            return self.state
        done = sum(self.counts.get(name, 0) for name in ("Completed", "Cached"))
        parts = [self.state, f"{done:,} of {'?' if self.total is None else f'{self.total:,}'}"]
        parts += [
            f"{count:,} {name}"
            # What went wrong comes first: a card may cut the rest.
            for name, count in sorted(self.counts.items(), key=lambda one: one[0] not in BAD)
            if count and name not in ("Completed", "Cached", "Pending", "Running")
        ]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """``target`` takes data from ``source``, or only waits for it."""

    source: int
    target: int
    kind: Literal["data", "wait_for"] = "data"


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes and edges of a flow or a run. Shows itself in notebooks.

    Raises
    ------
    ValueError
        Two nodes have one id, or an edge ends at no node.
    """

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...] = ()
    title: str = ""

    def __post_init__(self) -> None:
        ids = {node.id for node in self.nodes}
        if len(ids) != len(self.nodes):
            raise ValueError("two nodes of a graph have the same id")
        for edge in self.edges:
            if not {edge.source, edge.target} <= ids:
                raise ValueError(f"edge {edge.source} -> {edge.target} ends at no node")

    @classmethod
    def of_records(cls, records: Iterable[NodeRecord], title: str = "") -> Graph:
        """Graph of a run's nodes as history has them."""
        records = tuple(records)
        nodes = tuple(
            GraphNode(r.node, r.key, r.mapped, r.state, dict(r.counts), r.total) for r in records
        )
        edges = tuple(
            GraphEdge(source, r.node, "wait_for" if kind == "wait_for" else "data")
            for r in records
            for source, kind in r.upstream
        )
        return cls(nodes, edges, title)

    @property
    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart."""
        return to_mermaid(self)

    @property
    def svg(self) -> str:
        """The graph as an SVG document."""
        return to_svg(self)

    def _repr_svg_(self) -> str:
        return to_svg(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"image/svg+xml": to_svg(self), "text/plain": to_text(self)}

    def __str__(self) -> str:
        return to_text(self)


def _edges_once(graph: Graph) -> dict[tuple[int, int], str]:
    """Each pair once and no loops; data wins over waiting."""
    kinds: dict[tuple[int, int], str] = {}
    for edge in graph.edges:
        pair = (edge.source, edge.target)
        if edge.source != edge.target and kinds.get(pair) != "data":
            kinds[pair] = edge.kind
    return kinds


# ------------------------------------------------------------------------------------------- text


def to_text(graph: Graph) -> str:
    """Lay the graph out as a table: a line for each node, what it needs behind an arrow."""
    labels = {node.id: _plain(node.label) for node in graph.nodes}
    width = max((len(label) for label in labels.values()), default=0)
    lines = [_plain(graph.title)] if graph.title else []
    for node in graph.nodes:
        needs = [
            labels[source] + (" (waits)" if kind == "wait_for" else "")
            for (source, target), kind in _edges_once(graph).items()
            if target == node.id
        ]
        arrow = f"  <- {', '.join(needs)}" if needs else ""
        lines.append(f"{labels[node.id]:<{width}}  {node.summary}{arrow}")
    return "\n".join(lines) if lines else "(no nodes)"


def _plain(text: str) -> str:
    """One line without control characters or anything that XML forbids."""
    return "".join(
        c
        if unicodedata.category(c) not in ("Cc", "Cs", "Cn", "Co")
        else "\N{REPLACEMENT CHARACTER}"
        for c in " ".join(text.split())
    )


# ---------------------------------------------------------------------------------------- mermaid


def to_mermaid(graph: Graph) -> str:
    """Write the graph as a Mermaid flowchart: mapped nodes are double-walled, waits are dotted."""
    lines = ["flowchart LR"]
    for node in graph.nodes:
        text = _mermaid_text(_cut(_plain(node.label), 60))
        if node.mapped or node.state != "Pending":
            text += f"<br/>{_mermaid_text(node.summary)}"
        opening, closing = ("[[", "]]") if node.mapped else ("(", ")")
        name = _mermaid_class(node.state)
        lines.append(f'    n{node.id}{opening}"{text}"{closing}:::{name}')
    for (source, target), kind in _edges_once(graph).items():
        lines.append(f"    n{source} {'-.->' if kind == 'wait_for' else '-->'} n{target}")
    for state in dict.fromkeys(node.state for node in graph.nodes):
        colour = COLOURS.get(state, OTHER_COLOUR)
        lines.append(
            f"    classDef {_mermaid_class(state)}"
            f" fill:#f7f9fb,stroke:{colour},stroke-width:2px,color:#1f2933"
        )
    return "\n".join(lines) + "\n"


def _mermaid_class(state: str) -> str:
    # Not the bare name: Mermaid has words of its own, such as "end" and "default".
    return "state" + re.sub(r"\W", "", state, flags=re.ASCII)


def _mermaid_text(text: str) -> str:
    """The text with all that Mermaid would read as its own as numbered entities."""
    safe = re.sub(r"[^\w ,:?()/.\-]", lambda match: f"#{ord(match[0])};", text)
    # A label that begins like a list is refused by Mermaid's Markdown.
    return re.sub(r"^(\s*\d*)([.)\-])", lambda match: f"{match[1]}#{ord(match[2])};", safe)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# -------------------------------------------------------------------------------------------- svg

STYLE = (
    "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;"
    "max-width:100%;height:auto"
)
EDGE, INK, QUIET, CARD, LINE = "#8792a2", "#1f2933", "#5b6775", "#f7f9fb", "#c3ccd6"


def to_svg(graph: Graph) -> str:
    """Draw the graph: a card per node with state, counts and a bar; waits are dashed.

    The cards bring their own ground, so the drawing is readable on a light and on a dark page,
    inline and as an image.
    """
    layout = place([node.id for node in graph.nodes], list(_edges_once(graph)))
    name = f"g{zlib.crc32(to_text(graph).encode('utf-8', 'replace')):08x}"
    parts = [_opening(graph, name, layout.width, layout.height)]
    for pair, kind in _edges_once(graph).items():
        dashes = ' stroke-dasharray="5 4"' if kind == "wait_for" else ""
        path = _path(layout.routes[pair], across=layout.across)
        parts.append(
            f'<path d="{path}" fill="none" stroke="{EDGE}" stroke-width="1.5"{dashes}'
            f' marker-end="url(#{name}a)"/>'
        )
    parts += [_card(node, *layout.corners[node.id]) for node in graph.nodes]
    return "\n".join([*parts, "</svg>"])


def _opening(graph: Graph, name: str, width: float, height: float) -> str:
    """The beginning of the document; ``name`` begins the names in it, which a page shares."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" role="img"'
        f' aria-labelledby="{name}t {name}d" style="{STYLE}">\n'
        f'<title id="{name}t">{_xml(graph.title or "Graph")}</title>\n'
        f'<desc id="{name}d">{_xml(to_text(graph), lines=True)}</desc>\n'
        f'<defs><marker id="{name}a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        f' markerHeight="7" orient="auto">'
        f'<path d="M0 .5 7.5 4 0 7.5z" fill="{EDGE}"/></marker></defs>'
    )


def _path(points: Sequence[Point], *, across: bool) -> str:
    """Smooth between boxes, straight where a layer is crossed."""
    x, y = points[0]
    path = [f"M{x:.1f} {y:.1f}"]
    for i, (to_x, to_y) in enumerate(points[1:]):
        if i % 2:
            path.append(f"L{to_x:.1f} {to_y:.1f}")
        elif across:
            half = (x + to_x) / 2
            path.append(f"C{half:.1f} {y:.1f} {half:.1f} {to_y:.1f} {to_x:.1f} {to_y:.1f}")
        else:
            half = (y + to_y) / 2
            path.append(f"C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(path)


def _card(node: GraphNode, x: float, y: float) -> str:
    colour = COLOURS.get(node.state, OTHER_COLOUR)
    box = f'width="{WIDTH}" height="{HEIGHT}" rx="8" stroke-width="1.2"'
    stack = "".join(
        f'<rect x="{shift}" y="{shift}" {box} fill="{CARD}" stroke="{LINE}"/>'
        for shift in ((6, 3) if node.mapped else ())
    )
    return (
        f'<g transform="translate({x:.1f} {y:.1f})"><title>{_xml(node.label)}: '
        f"{_xml(node.summary)}</title>{stack}"
        f'<rect {box} fill="{CARD}" stroke="{colour}"/>'
        f'<circle cx="17" cy="21" r="5" fill="{colour}"/>'
        f'<text x="30" y="25.5" font-size="13" font-weight="600" fill="{INK}">'
        f"{_xml(_fit(_plain(node.label), WIDTH - 44, 7.7))}</text>"
        f'<text x="12" y="45" font-size="11" fill="{QUIET}">'
        f"{_xml(_fit(_second_line(node), WIDTH - 24, 5.9))}</text>{_bar(node, colour)}</g>"
    )


def _second_line(node: GraphNode) -> str:
    """The summary, without a state that the counts tell anyway: there is little room."""
    if node.mapped and node.state in ("Pending", "Running", "Completed"):
        return node.summary.removeprefix(f"{node.state}, ")
    return node.summary


def _bar(node: GraphNode, colour: str) -> str:
    """The node's items by state, as parts of a bar."""
    room = WIDTH - 24
    known = sum(node.counts.values())
    whole = max(node.total or 0, known)
    ground = COLOURS["Pending"]
    parts = [f'<rect x="12" y="53" width="{room}" height="5" rx="2.5" fill="{ground}"/>']
    shown = [(state, n) for state, n in node.counts.items() if n > 0 and state != "Pending"]
    if node.mapped and node.total is None and node.state in ("Running", "Pending"):
        shown = []  # a bar would claim to know the total
    shown.sort(key=lambda pair: list(COLOURS).index(pair[0]) if pair[0] in COLOURS else 99)
    if not shown and not node.mapped and node.state != "Pending":
        shown, whole = [(node.state, 1)], 1
    # What is there is seen, however few they are.
    widths = [max(3.0, room * n / whole) for _, n in shown]
    over = max(1.0, sum(widths) / room)
    x = 12.0
    for (state, _), width in zip(shown, widths, strict=True):
        fill = COLOURS.get(state, colour)
        parts.append(
            f'<rect x="{x:.1f}" y="53" width="{width / over:.1f}" height="5" rx="1.5" fill="{fill}"/>'
        )
        x += width / over
    return "".join(parts)


def _fit(text: str, room: float, each: float) -> str:
    """As much of the text as fits by an estimate of its characters' widths, in pixels."""
    used = 0.0
    for i, character in enumerate(text):
        used += each * (1.75 if unicodedata.east_asian_width(character) in "WF" else 1.0)
        if used > room and i < len(text):
            return text[: max(i - 1, 0)].rstrip() + "…"
    return text


def _xml(text: str, *, lines: bool = False) -> str:
    if lines:
        return "\n".join(_xml(line) for line in text.split("\n"))
    return escape(_plain(text))
