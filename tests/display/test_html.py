"""The HTML about runs: well formed, complete, and nothing of the user's is markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.failure_tables import failures_table
from headrace.core.interfaces import ItemRecord
from headrace.display import html, progress

from .views import a_node, a_view


def texts(document: str) -> list[str]:
    """All texts of a fragment, which must be well formed."""
    return [t.strip() for t in ET.fromstring(document).itertext() if t.strip()]


def test_a_card_has_all_there_is_to_say() -> None:
    card = html.run_card(a_view(a_node(), message="almost there"))
    assert texts(card) == [
        "prepare", "/ brave-otter", "Running", "1 min 5 s · dask · 3 of 4 slots busy",
        "almost there",
        "items", "rate", "time", "left", "size",
        "clean-0", "980/2,000", "123/s", "12 s", "2 min 10 s", "3.4 GB", "20 failed",
        "failed", "node", "error",
        "15", "clean-0", "ValueError: bad <input>",
        "5", "clean-0", "KeyError: 'x'",
    ]  # fmt: skip


def test_a_card_without_failures_has_no_table_of_them() -> None:
    assert "error" not in texts(html.run_card(a_view(a_node(failures={}))))


def test_only_the_commonest_failures_are_shown() -> None:
    failures = {f"E: {i}": i + 1 for i in range(12)}
    found = texts(html.run_card(a_view(a_node(failures=failures))))
    assert "E: 11" in found
    assert "E: 7" in found
    assert "E: 6" not in found
    assert found[-1] == "and 7 more kinds of failures"


def test_a_card_needs_no_style_sheet_script_or_network() -> None:
    card = html.run_card(a_view(a_node()))
    for word in ("<style", "<script", "http", "url(", "class="):
        assert word not in card


def test_the_bar_s_parts_are_the_counts() -> None:
    counts = {"Completed": 500, "Failed": 250}
    parts = progress.segments(a_node(counts=counts, total=1000), 100.0, least=1.0)
    assert [(p.state, p.start, p.stop) for p in parts] == [
        ("Completed", 0.0, 50.0),
        ("Failed", 50.0, 75.0),
    ]
    assert "500 Completed, 250 Failed" in html.bar(a_node(counts=counts))


def test_a_bar_does_not_claim_to_know_a_total() -> None:
    assert progress.segments(a_node(total=None), 100.0, least=1.0) == []
    assert progress.segments(a_node(total=None, state="Completed"), 100.0, least=1.0) != []


@given(
    st.dictionaries(
        st.sampled_from(["Completed", "Failed", "Crashed", "Odd"]), st.integers(0, 10**9)
    ),
    st.none() | st.integers(0, 10**9),
)
def test_a_bar_never_overflows(counts: dict[str, int], total: int | None) -> None:
    parts = progress.segments(a_node(counts=counts, total=total), 24, least=1.0)
    assert all(part.stop > part.start for part in parts)
    assert not parts or parts[-1].stop <= 24 + 1e-6


XML_TEXT = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="\ufffe\uffff")
)


@given(XML_TEXT)
def test_no_name_is_markup(name: str) -> None:
    node = a_node(name=name, failures={name: 1}, state=name)
    view = a_view(node, flow=name, message=name, executor=name, state=name)
    tags = {e.tag for e in ET.fromstring(html.run_card(view)).iter()}
    assert tags <= {"div", "b", "span", "table", "thead", "tbody", "tr", "th", "td", "code"}


def test_a_table_of_failed_items() -> None:
    now = datetime.now(UTC)
    item = ItemRecord(
        uuid4(), 3, 17, 2, "Failed", "error", "ValueError", "bad\n<x>", "", "w", "h", now, now, "'a'"
    )  # fmt: skip
    items = [replace(item, position=i) for i in range(25)]
    found = texts(html.failure_table(failures_table(items, lambda _: ("it-0", True)), most=2))
    assert found == [
        "item", "attempt", "error", "input", "worker",
        "'it-0' item 0", "2", "ValueError: bad <x>", "'a'", "w",
        "'it-0' item 1", "2", "ValueError: bad <x>", "'a'", "w",
        "and 23 more",
    ]  # fmt: skip


@pytest.mark.parametrize("state", ["Failed", "no such state"])
def test_a_pill_names_its_state(state: str) -> None:
    assert texts(html.pill(state)) == [state]
