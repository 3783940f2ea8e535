"""A run in a terminal: a line per node that moves, and what stays when it has ended."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style

from ..core.interfaces import Display, NodeView, RunView
from . import formats, progress

QUIET_SECONDS = 0.5
"""A run that is over sooner shows nothing, unless something went wrong."""

BAR_CELLS = 24
ROWS_BESIDE_NODES = 8
"""Lines of the screen that are not for nodes: header, failures, and the prompt before them."""

SIGNATURES = 4
NAME_CELLS = 32

Line: TypeAlias = list[tuple[str, str]]
"""Texts, each with the name of a state or of another style."""

STYLES = {
    name: Style.parse(style)
    for name, style in {
        # The terminal's own colours: its theme knows which are readable on its ground.
        "Completed": "green",
        "Cached": "cyan",
        "Running": "blue",
        "Retrying": "blue",
        "AwaitingRetry": "yellow",
        "Paused": "yellow",
        "Suspended": "yellow",
        "Failed": "red",
        "TimedOut": "red",
        "Crashed": "magenta",
        "Cancelling": "bright_black",
        "Cancelled": "bright_black",
        "Skipped": "bright_black",
        "Pending": "bright_black dim",
        "bold": "bold",
        "dim": "dim",
    }.items()
}


class TerminalDisplay(Display):
    """Shows a run on standard error with rich, in place, and leaves its last picture.

    Parameters
    ----------
    stream
        A terminal; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream, stderr=stream is None)
        self._live: Live | None = None

    def update(self, view: RunView) -> None:
        """Show a newer snapshot."""
        if self._live is None:
            if view.elapsed_seconds < QUIET_SECONDS or not self._console.is_terminal:
                return  # a file gets the last picture alone, see `close`
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                # What the user prints goes above the lines; into a file it goes untouched.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            self._live.start()
        self._live.update(self._picture(view), refresh=True)

    def close(self, view: RunView) -> None:
        """Show the last one, and give the terminal back."""
        if self._live is not None:
            self._live.update(self._picture(view), refresh=True)
            self._live.stop()
            self._live = None
        elif view.elapsed_seconds >= QUIET_SECONDS or view.state != "Completed":
            self._console.print(self._picture(view))

    def _picture(self, view: RunView) -> Picture:
        room = max(3, self._console.height - ROWS_BESIDE_NODES)
        return Picture([header(view), *_node_lines(view.nodes, room), *_failure_lines(view)])


class Picture:
    """Lines of coloured text, cut at the terminal's width. Much cheaper than a table of rich's."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give rich the lines."""
        for line in self.lines:
            room = options.max_width
            for text, style in line:
                shown = text if cell_len(text) <= room else set_cell_size(text, room)
                room -= cell_len(shown)
                yield Segment(shown, STYLES.get(style))
                if room <= 0:
                    break
            yield Segment.line()


def header(view: RunView) -> Line:
    """Name, state, time, executor and slots in one line."""
    facts = [formats.duration(view.elapsed_seconds), view.executor]
    if view.slots:
        facts.append(f"{view.busy}/{view.slots} slots busy")
    facts.append(_flat(view.message))
    return [
        ("● ", view.state),
        (f"{_flat(view.flow)}/{_flat(view.name)}  ", "bold"),
        (f"{view.state}  ", view.state),
        ("  ".join(fact for fact in facts if fact), "dim"),
    ]


def _node_lines(nodes: Sequence[NodeView], room: int) -> list[Line]:
    shown = pick(nodes, room)
    lines = [progress.line(node) for node in shown]
    names = [_flat(line.name) for line in lines]
    etas = [f"{line.eta} left" if line.eta else "" for line in lines]
    name_width = min(NAME_CELLS, max((cell_len(name) for name in names), default=0))
    columns = [[line.done for line in lines], [line.rate for line in lines], etas]
    columns.append([line.size for line in lines])
    widths = [max((len(text) for text in column), default=0) for column in columns]
    result: list[Line] = []
    for i, (node, line) in enumerate(zip(shown, lines, strict=True)):
        texts = [column[i].rjust(width) for column, width in zip(columns, widths, strict=True)]
        numbers = "".join(f"  {text}" for text in texts if text)
        parts: Line = [
            (f"  {set_cell_size(names[i], name_width)}  ", ""),
            *bar(node),
            (numbers, ""),
        ]
        if line.failed:
            parts.append((f"  {line.failed}", "Failed"))
        result.append(parts)
    if len(shown) < len(nodes):
        result.append([(f"  and {len(nodes) - len(shown)} more nodes", "dim")])
    return result


def pick(nodes: Sequence[NodeView], room: int) -> list[NodeView]:
    """As many nodes as there is room for, in their order: those that move or failed come first."""
    if len(nodes) <= room:
        return list(nodes)
    ranks = {"Running": 0, "Failed": 1, "Crashed": 1, "TimedOut": 1, "Pending": 2}
    chosen = sorted(nodes, key=lambda node: (ranks.get(node.state, 3), -node.node))[: room - 1]
    return sorted(chosen, key=lambda node: node.node)


def bar(node: NodeView) -> Line:
    """A bar of `BAR_CELLS` characters."""
    parts: Line = []
    drawn = 0
    for part in progress.segments(node, BAR_CELLS, least=1.0):
        stop = min(BAR_CELLS, max(drawn + 1, round(part.stop)))
        parts.append(("━" * (stop - drawn), part.state))
        drawn = stop
    parts.append(("━" * (BAR_CELLS - drawn), "Pending"))
    return parts


def _failure_lines(view: RunView) -> list[Line]:
    found, more = progress.signatures(view, SIGNATURES)
    lines: list[Line] = [
        [(f"  {formats.exact(n)} x ", "Failed"), (f"{_flat(name)}: {_flat(signature)}", "")]
        for name, signature, n in found
    ]
    if more:
        lines.append([(f"  and {more} more kinds of failures", "dim")])
    return lines


def _flat(text: str) -> str:
    """One line, and nothing that would move the cursor or colour the terminal."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())
    )
