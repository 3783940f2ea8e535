"""Which committed items a later driver knows again: a matching of ids, those in their place first."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.earlier import _Table
from headrace.core.identity import NOBODY, item_id, item_ids, split_ids
from headrace.core.interfaces import Part, Positions, Receipt
from headrace.core.items import ItemTable

INPUTS = st.lists(st.integers(0, 9), max_size=30)


def receipt_of(number: int, positions: list[int]) -> Receipt:
    part = Part(f"data/00000/{number}", "arrow", "int", 1, len(positions), number)
    return Receipt(0, number, 1, part, Positions.of(positions), 1, 0.0, 0.0, 0.0)


@given(
    INPUTS, INPUTS, st.lists(st.integers(1, 7), min_size=1), st.lists(st.integers(1, 9), min_size=1)
)
def test_as_many_are_known_as_there_are_equal_ones(
    then: list[int], now: list[int], cuts: list[int], chunks: list[int]
):
    """Whatever the inputs were and are, and however they were and are cut."""
    receipts, ids, first = [], [], 0
    while first < len(then):
        stop = min(len(then), first + cuts[len(receipts) % len(cuts)])
        receipts.append(receipt_of(len(receipts), list(range(first, stop))))
        ids.append(item_ids([then[first:stop]]))
        first = stop
    table = _Table.of(receipts, ids)
    items = ItemTable()
    items.grow(len(now))
    found = []
    first = 0
    while table is not None and first < len(now):
        stop = min(len(now), first + chunks[len(found) % len(chunks)])
        found += table.take(3, item_ids([now[first:stop]]), first)
        first = stop
    for each in found:
        assert each.node == 3
        assert items.complete(each) == each.positions, "an item was given twice"
    known = [p for each in found for p in each.positions]
    expected = Counter(then) & Counter(now)
    assert Counter(now[p] for p in known) == expected
    if known:
        column = items.column(Positions.of(sorted(known)))
        for position, part, index in zip(sorted(known), column.part, column.index, strict=True):
            batch = int(column.parts[part].path.rpartition("/")[2])
            then_at = receipts[batch].positions.runs[0][0] + int(index)
            assert then[then_at] == now[position], "it is another item's value"
    if then == now:
        assert all(each.places is None or len(found) > len(receipts) for each in found)


def test_nobody_equals_nobody():
    table = _Table.of([receipt_of(0, [0, 1])], [NOBODY + item_id(5)])
    assert table is not None
    (found,) = table.take(0, NOBODY + item_id(5), 0)
    assert list(found.positions) == [1]
    assert found.places == (1,)


def test_a_partition_without_ids_is_never_known():
    assert _Table.of([receipt_of(0, [0, 1])], [b""]) is None


class Odd:
    def __reduce__(self):
        raise RuntimeError("not me")


@given(
    st.lists(
        st.one_of(
            st.integers(), st.floats(), st.text(), st.binary(), st.booleans(), st.none(),
            st.tuples(st.integers(), st.text()), st.dictionaries(st.text(), st.floats()),
            st.lists(st.lists(st.integers())),
        )
    )
)  # fmt: skip
def test_an_id_does_not_depend_on_the_neighbours(values: list[object]):
    assert split_ids(item_ids([values])) == [item_id(value) for value in values]


def test_alike_is_not_equal():
    alike = [
        1, 1.0, True, "1", b"1", (1,), [1], {"a": 1}, {"a": 1.0}, {"a": True}, ("a", 1), None, "None",
        0.0, -0.0, 2**70, np.int64(1), np.float32(1), [np.int32(1)], [np.float32(1.4e-45)],
        (b"\x01\x00\x00\x00",), bytearray(b"1"), {1: "a"}, {"b": 1, "a": 2}, {"a": 2, "b": 1}, [[1]], [(1,)],
    ]  # fmt: skip
    ids = [item_id(value) for value in alike]
    assert len(set(ids)) == len(alike)
    assert NOBODY not in ids
    assert item_id(Odd()) == item_id([Odd()]) == NOBODY
    assert item_ids([[1, 2], ["a", "b"]]) == item_id((1, "a")) + item_id((2, "b"))
