"""The terminal's display: what it says, what it leaves, and when it is quiet."""

from __future__ import annotations

import io
import sys

import pytest

from headrace.core.graph import COLOURS
from headrace.core.interfaces import NodeView, RunView
from headrace.core.states import FINAL_TYPES
from headrace.display import progress
from headrace.display.lines import LineDisplay
from headrace.display.terminal import BAR_CELLS, STYLES, TerminalDisplay, bar, pick

from .views import a_node, a_view


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "JUPYTER_COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("LINES", "30")


def shown(view: RunView, columns: str = "120") -> list[str]:
    """What a closed display leaves in a stream that is no terminal."""
    stream = io.StringIO()
    TerminalDisplay(stream).close(view)
    return stream.getvalue().splitlines()


def test_a_file_gets_the_last_picture_whole() -> None:
    stream = io.StringIO()
    display = TerminalDisplay(stream)
    display.update(a_view(a_node()))
    assert not stream.getvalue()
    display.close(a_view(a_node()))
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue().count("brave-otter") == 1


def test_a_node_s_line_has_all_there_is_to_say() -> None:
    header, line, first, second = shown(a_view(a_node(), message="retry\n2 of 3"))
    assert header == "● prepare/brave-otter  Running  1 min 5 s  dask  3/4 slots busy  retry 2 of 3"
    assert line.split("━" * BAR_CELLS) == [
        "  clean-0  ",
        "  980/2,000  123/s  2 min 10 s left  3.4 GB  20 failed",
    ]
    assert first == "  15 x clean-0: ValueError: bad <input>"
    assert second == "  5 x clean-0: KeyError: 'x'"


def test_a_finished_node_has_no_rate_and_no_time_left() -> None:
    _, line, *_ = shown(a_view(a_node(state="Completed", failures={})))
    assert "/s" not in line
    assert "left" not in line
    assert "980/2,000" in line


def test_columns_stand_below_each_other() -> None:
    nodes = [
        a_node(0, name="a", rate=1.0),
        a_node(1, name="日本", total=2_000_000),
        a_node(2, name="abcdef"),
    ]
    _, *lines = shown(a_view(*nodes))[:4]
    from rich.cells import cell_len

    bars = {cell_len(line[: line.index("━")]) for line in lines}
    ends = {cell_len(line[: line.index(" failed")]) for line in lines}
    assert len(bars) == 1
    assert len(ends) == 1


def test_lines_are_cut_at_the_terminal_s_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = shown(a_view(a_node(name="x" * 100), message="y" * 100))
    assert max(map(len, lines)) == 40
    assert len(lines) == 4


def test_names_cannot_speak_to_the_terminal() -> None:
    node = a_node(name="[red]a\x1b[31m\nb[/red]", failures={"E: \x1b]0;x\x07": 1})
    text = "\n".join(shown(a_view(node, flow="[bold]f")))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]a" in text
    assert "[bold]f" in text


def test_a_high_graph_is_folded_to_what_moves() -> None:
    nodes = [a_node(i, state="Completed", failures={}) for i in range(50)]
    nodes[3] = a_node(3, failures={})
    nodes[40] = a_node(40, state="Failed", failures={})
    kept = pick(nodes, 5)
    assert {3, 40} < {node.node for node in kept}
    assert len(kept) == 4
    assert kept == sorted(kept, key=lambda node: node.node)
    lines = shown(a_view(*nodes))
    assert lines[-1].strip().startswith("and ")
    assert len(lines) <= 30
    assert sum(map(int, [lines[-1].split()[1]])) + len(lines) - 2 == 50


def test_the_bar_is_always_as_wide() -> None:
    for node in (
        a_node(),
        a_node(counts={}),
        a_node(total=None),
        a_node(state="Completed", total=3, counts={"Completed": 3}),
        a_node(counts=dict.fromkeys(COLOURS, 1), total=10_000_000),
        a_node(mapped=False, counts={}, total=1, state="Crashed"),
    ):
        assert sum(len(text) for text, _ in bar(node)) == BAR_CELLS


def test_one_failed_of_a_million_is_seen() -> None:
    node = a_node(counts={"Completed": 999_999, "Failed": 1}, total=1_000_000)
    assert ("━", "Failed") in bar(node)


def test_every_state_has_a_style() -> None:
    assert set(COLOURS) <= set(STYLES)
    assert {t.value.capitalize() for t in FINAL_TYPES} <= set(progress.FINISHED_RUN)


def test_a_short_run_that_went_well_leaves_nothing() -> None:
    stream = Terminal()
    display = TerminalDisplay(stream)
    display.update(a_view(a_node(), elapsed_seconds=0.1))
    display.close(a_view(a_node(), elapsed_seconds=0.2, state="Completed"))
    assert stream.getvalue() == ""


def test_a_short_run_that_went_wrong_is_shown() -> None:
    stream = Terminal()
    display = TerminalDisplay(stream)
    display.close(a_view(a_node(), elapsed_seconds=0.2, state="Failed"))
    assert "Failed" in stream.getvalue()


def test_it_moves_in_place_and_gives_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, out = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    display = TerminalDisplay(stream)
    display.update(a_view(a_node(counts={"Completed": 1})))
    assert "1/2,000" in stream.getvalue()
    before = len(stream.getvalue())
    display.update(a_view(a_node(counts={"Completed": 2})))
    moved = stream.getvalue()[before:]
    assert "2/2,000" in moved
    assert "\x1b[1A" in moved  # up again: the old lines are written over
    display.close(a_view(a_node(counts={"Completed": 2000}), state="Completed"))
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back
    assert sys.stdout is out


def test_prints_into_a_file_stay_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, out = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    display = TerminalDisplay(stream)
    display.update(a_view(a_node()))
    print("to the file")
    display.close(a_view(a_node(), state="Completed"))
    assert out.getvalue() == "to the file\n"


def test_plain_lines_come_now_and_then_and_at_the_end() -> None:
    stream = io.StringIO()
    display = LineDisplay(stream)
    for second in range(25):
        display.update(a_view(a_node(), elapsed_seconds=float(second)))
    display.close(
        a_view(a_node(), elapsed_seconds=25.0, state="Failed", message="20 items\nfailed")
    )
    lines = stream.getvalue().splitlines()
    assert lines == [
        "prepare/brave-otter: Running after 10 s, 980 items, 20 failed",
        "prepare/brave-otter: Running after 20 s, 980 items, 20 failed",
        "prepare/brave-otter: Failed after 25 s, 980 items, 20 failed, 20 items failed",
    ]


def test_bars_and_totals_never_divide_by_zero() -> None:
    empty: NodeView = a_node(total=0, counts={}, failures={})
    assert "0/0" in "\n".join(shown(a_view(empty)))
