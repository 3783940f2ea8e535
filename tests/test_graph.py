"""The drawing of graphs: what is in it, that it is well formed, and that nothing gets out of it."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter

import headrace
from headrace.core.graph import COLOURS, Graph, GraphEdge, GraphNode
from headrace.core.graph_layout import BETWEEN_BOXES, HEIGHT, WIDEST, WIDTH, place
from headrace.core.interfaces import NodeRecord
from headrace.core.items import STATE_NAMES

SVG = "{http://www.w3.org/2000/svg}"


def a_graph() -> Graph:
    return Graph(
        (
            GraphNode(0, "list_files", state="Completed"),
            GraphNode(1, "clean", True, "Running", {"Completed": 980, "Failed": 20}, 2000),
            GraphNode(2, "report"),
        ),
        (GraphEdge(0, 1), GraphEdge(1, 2), GraphEdge(0, 2, "wait_for")),
        "prepare",
    )


def cards(svg: str) -> dict[str, ET.Element]:
    """Cards of a drawing by their full title."""
    root = ET.fromstring(svg)
    return {g.findtext(f"{SVG}title", ""): g for g in root.iter(f"{SVG}g")}


# ---------------------------------------------------------------------------------------- contents


def test_a_graph_comes_from_records() -> None:
    run = uuid4()
    records = [
        NodeRecord(run, 0, "list", "list", False, "Completed", 1, {"Completed": 1}),
        NodeRecord(
            run, 1, "clean-2", "clean", True, "Running", None, {"Failed": 2}, ((0, "data"),)
        ),
        NodeRecord(run, 2, "end", "end", False, "Pending", 1, {}, ((0, "wait_for"), (1, "data"))),
    ]
    graph = Graph.of_records(records, "prepare")
    assert graph.nodes[1] == GraphNode(1, "clean-2", True, "Running", {"Failed": 2}, None)
    assert graph.edges == (GraphEdge(0, 1), GraphEdge(0, 2, "wait_for"), GraphEdge(1, 2))


def test_the_svg_tells_states_and_counts() -> None:
    svg = a_graph().svg
    found = cards(svg)
    assert list(found) == [
        "list_files: Completed",
        "clean: Running, 980 of 2,000, 20 Failed",
        "report: Pending",
    ]
    texts = [
        "".join(t.itertext())
        for t in found["clean: Running, 980 of 2,000, 20 Failed"].iter(f"{SVG}text")
    ]
    assert texts == ["clean", "980 of 2,000, 20 Failed"]


def test_the_svg_has_a_title_and_a_description_for_readers() -> None:
    root = ET.fromstring(a_graph().svg)
    assert root.get("role") == "img"
    labels = (root.get("aria-labelledby") or "").split()
    ids = {e.get("id"): e for e in root.iter()}
    assert [ids[label].tag for label in labels] == [f"{SVG}title", f"{SVG}desc"]
    assert ids[labels[0]].text == "prepare"
    assert "list_files (waits)" in (ids[labels[1]].text or "")


def test_waits_are_dashed_and_data_is_not() -> None:
    root = ET.fromstring(a_graph().svg)
    lines = root.findall(f"{SVG}path")
    assert [line.get("stroke-dasharray") is not None for line in lines] == [False, False, True]


def test_the_bar_shows_each_state_in_proportion() -> None:
    counts = {"Completed": 500, "Failed": 250, "Pending": 250}
    svg = Graph((GraphNode(0, "x", True, "Running", counts, 1000),)).svg
    parts = [r for r in ET.fromstring(svg).iter(f"{SVG}rect") if r.get("y") == "53"]
    widths = {r.get("fill"): float(r.get("width", 0)) for r in parts}
    ground = widths[COLOURS["Pending"]]
    assert widths[COLOURS["Completed"]] == pytest.approx(ground / 2, abs=0.1)
    assert widths[COLOURS["Failed"]] == pytest.approx(ground / 4, abs=0.1)


def test_what_went_wrong_is_told_first() -> None:
    node = GraphNode(0, "x", True, "Running", {"Cached": 1, "Skipped": 2, "Failed": 3}, 9)
    assert node.summary == "Running, 1 of 9, 3 Failed, 2 Skipped"


def test_one_failed_of_a_million_is_seen_and_the_bar_does_not_overflow() -> None:
    counts = {"Completed": 1_000_000} | dict.fromkeys(("Failed", "TimedOut", "Crashed"), 1)
    svg = Graph((GraphNode(0, "x", True, "Running", counts, 1_000_003),)).svg
    parts = [r for r in ET.fromstring(svg).iter(f"{SVG}rect") if r.get("y") == "53"]
    assert all(float(r.get("width", 0)) > 2 for r in parts)
    ground = parts[0]
    last = parts[-1]
    end = float(last.get("x", 0)) + float(last.get("width", 0))
    assert end <= float(ground.get("x", 0)) + float(ground.get("width", 0)) + 0.5


def test_every_item_state_has_a_colour() -> None:
    assert set(STATE_NAMES.values()) <= set(COLOURS)


def test_the_same_graph_gives_the_same_text() -> None:
    assert a_graph().svg == a_graph().svg
    assert a_graph().mermaid == a_graph().mermaid


def test_two_drawings_on_a_page_do_not_share_names() -> None:
    other = Graph((GraphNode(0, "other"),))
    ids = [set(re.findall(r'id="([^"]+)"', graph.svg)) for graph in (a_graph(), other)]
    assert ids[0].isdisjoint(ids[1])


def test_text_mermaid_and_bundle() -> None:
    graph = a_graph()
    assert str(graph).splitlines() == [
        "prepare",
        "list_files  Completed",
        "clean       Running, 980 of 2,000, 20 Failed  <- list_files",
        "report      Pending  <- clean, list_files (waits)",
    ]
    lines = graph.mermaid.splitlines()
    assert lines[0] == "flowchart LR"
    assert '    n0("list_files<br/>Completed"):::stateCompleted' in lines
    assert '    n1[["clean<br/>Running, 980 of 2,000, 20 Failed"]]:::stateRunning' in lines
    assert '    n2("report"):::statePending' in lines
    assert "    n0 --> n1" in lines
    assert "    n0 -.-> n2" in lines
    assert any(line.startswith("    classDef stateRunning ") for line in lines)
    shown, _ = DisplayFormatter().format(graph)
    assert shown == {"image/svg+xml": graph.svg, "text/plain": str(graph)}


# ----------------------------------------------------------------------------------- odd and wrong


def test_an_empty_graph_is_drawn_too() -> None:
    graph = Graph(())
    ET.fromstring(graph.svg)
    assert graph.mermaid == "flowchart LR\n"
    assert str(graph) == "(no nodes)"


def test_wrong_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match="7"):
        Graph((GraphNode(0, "a"),), (GraphEdge(0, 7),))
    with pytest.raises(ValueError, match="same id"):
        Graph((GraphNode(0, "a"), GraphNode(0, "b")))


def test_doubled_edges_are_drawn_once_and_data_wins() -> None:
    nodes = (GraphNode(0, "a"), GraphNode(1, "b"))
    edges = (GraphEdge(0, 1, "wait_for"), GraphEdge(0, 1), GraphEdge(0, 1, "wait_for"))
    graph = Graph(nodes, edges)
    assert graph.mermaid.count("n0 -") == 1
    assert "n0 --> n1" in graph.mermaid
    assert graph.svg.count("marker-end") == 1


def test_a_long_label_is_cut_in_the_card_and_whole_in_the_title() -> None:
    label = "a_rather_long_name_" * 9
    found = cards(Graph((GraphNode(0, label),)).svg)
    (title, card), *_ = found.items()
    assert title == f"{label}: Pending"
    shown = card.findtext(f"{SVG}text") or ""
    assert shown.endswith("…")
    assert len(shown) < 30
    wide = cards(Graph((GraphNode(0, "日本語の名前" * 9),)).svg).popitem()[1].findtext(f"{SVG}text")
    assert wide is not None
    assert len(wide) < len(shown)


@given(label=st.text(max_size=80), state=st.text(max_size=12))
def test_no_name_breaks_the_svg(label: str, state: str) -> None:
    # Surrogates, controls, markup: the document parses, and has no element of the name's making.
    graph = Graph((GraphNode(0, label, True, state, {state: 3}),), title=label)
    root = ET.fromstring(graph.svg.encode())
    known = {"svg", "title", "desc", "defs", "marker", "path", "g", "rect", "circle", "text"}
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= known


@given(label=st.text(max_size=80))
def test_no_name_breaks_the_mermaid(label: str) -> None:
    line = Graph((GraphNode(0, label),)).mermaid.splitlines()[1]
    match = re.fullmatch(r'    n0\("((?:[\w ,:?()/.\-]|#\d+;)*)"\):::statePending', line)
    assert match, line
    # Markdown lists are refused inside labels.
    assert not re.match(r"\s*([-*+]|\d+[.)])", match[1])


# ------------------------------------------------------------------------------------------ layout

graphs = st.integers(1, 14).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda p: p[0] != p[1]),
            unique=True,
            max_size=25,
        ),
    )
)


@given(graphs)
def test_boxes_stay_apart_and_inside(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = graph  # cycles too: a drawing never hangs
    layout = place(range(count), pairs)
    corners = list(layout.corners.values())
    assert len(corners) == count
    for x, y in corners:
        assert 0 <= x <= layout.width - WIDTH
        assert 0 <= y <= layout.height - HEIGHT
    for i, (x, y) in enumerate(corners):
        for other_x, other_y in corners[:i]:
            assert abs(x - other_x) >= WIDTH or abs(y - other_y) >= HEIGHT


@given(graphs)
def test_lines_run_forward_and_past_the_boxes(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, pairs = graph
    forward = [(a, b) for a, b in pairs if a < b]
    layout = place(range(count), forward)
    for source, target in forward:
        route = layout.routes[source, target]
        axis = 0 if layout.across else 1
        assert all(b[axis] > a[axis] for a, b in pairwise(route))
        for x, y in route[1:-1]:
            for left, top in layout.corners.values():
                assert not (left < x < left + WIDTH and top < y < top + HEIGHT)


def test_a_chain_is_straight_and_turns_down_when_it_is_long() -> None:
    short, long = (place(range(n), list(pairwise(range(n)))) for n in (4, 9))
    assert short.across
    assert len({y for _, y in short.corners.values()}) == 1
    assert not long.across
    assert len({x for x, _ in long.corners.values()}) == 1
    assert short.width <= WIDEST
    assert long.width < WIDTH + 2 * BETWEEN_BOXES


def test_only_the_standard_library_is_imported() -> None:
    code = (
        "import sys; before = set(sys.modules); import headrace.core.graph;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'headrace'}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(headrace.__file__).parent.parent)},
    )
    assert found.stdout == "[]\n"
