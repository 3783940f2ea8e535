"""Packed item states, sets of positions, columns and chunks: each against a plain Python model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.columns import Chunk, cut, joined, pick, pruned
from headrace.core.errors import RunError, TransitionError
from headrace.core.interfaces import Part, Positions, Receipt, RefColumn
from headrace.core.items import (
    TRANSITIONS,
    ItemState,
    ItemTable,
    Tally,
    common,
    indices,
    split,
    without,
)
from headrace.core.sizing import AIM_SECONDS, GROWTH, Sizer

POSITIONS = st.lists(st.integers(0, 120), unique=True).map(sorted)


def receipt(number: int, positions: list[int], rows: int | tuple[int, ...] = 1) -> Receipt:
    count = rows * len(positions) if isinstance(rows, int) else sum(rows)
    part = Part(f"p{number}", "arrow", "int", 8, count, number)
    return Receipt(0, number, 1, part, Positions.of(positions), rows, 0.0, 0.0, 0.0)


@given(POSITIONS, POSITIONS)
def test_sets_of_positions_are_sets(a: list[int], b: list[int]) -> None:
    x, y = Positions.of(a), Positions.of(b)
    assert list(x) == a and len(x) == len(a)
    assert indices(x).tolist() == a
    assert list(without(x, y)) == sorted(set(a) - set(b))
    assert list(common(x, y)) == sorted(set(a) & set(b))


@given(POSITIONS, st.integers(0, 130))
def test_split_cuts_behind_the_first(a: list[int], count: int) -> None:
    head, tail = split(Positions.of(a), count)
    assert (list(head), list(tail)) == (a[:count], a[count:])


@given(st.lists(st.tuples(POSITIONS, st.sampled_from(list(ItemState))), max_size=12))
def test_a_table_is_a_list_of_states(moves: list[tuple[list[int], ItemState]]) -> None:
    table, model = ItemTable(), [ItemState.PENDING] * 121
    table.grow(100)
    table.grow(21)
    for where, to in moves:
        known = all(model[p] == to or to in TRANSITIONS[model[p]] for p in where)
        if not known:
            with pytest.raises(TransitionError):
                table.move(Positions.of(where), to)
            return
        table.move(Positions.of(where), to)
        for p in where:
            model[p] = to
        assert [table.state(p) for p in range(121)] == model
        assert table.counts == [model.count(state) for state in ItemState]
        assert list(table.where(to)) == [p for p in range(121) if model[p] == to]
    assert table.packed() == bytes(model)


def test_an_unknown_transition_names_the_item() -> None:
    table = ItemTable()
    table.grow(50)
    table.move(Positions.span(7, 8), ItemState.RUNNING)
    table.move(Positions.span(7, 8), ItemState.FAILED)
    for where in (Positions.span(0, 50), Positions.span(7, 8), Positions.of(range(1, 50, 2))):
        with pytest.raises(TransitionError, match="item 7: Failed cannot become Running"):
            table.move(where, ItemState.RUNNING)


@given(st.data())
def test_columns_refer_to_the_winning_values(data: st.DataObject) -> None:
    """Whatever overlapping receipts come, each item refers to the first that held it."""
    table, model = ItemTable(), dict[int, tuple[str, int, int, int]]()
    table.grow(60)
    for number in range(data.draw(st.integers(1, 6))):
        held = data.draw(st.lists(st.integers(0, 59), min_size=1, unique=True).map(sorted))
        rows = data.draw(
            st.one_of(st.just(1), st.lists(
                st.integers(0, 3), min_size=len(held), max_size=len(held)).map(tuple))
        )  # fmt: skip
        fresh = table.complete(receipt(number, held, rows))
        assert list(fresh) == [p for p in held if p not in model]
        first = 0
        for index, position in enumerate(held):
            count = rows if isinstance(rows, int) else rows[index]
            model.setdefault(position, (f"p{number}", index, first, count))
            first += count
    asked = data.draw(st.lists(st.sampled_from(sorted(model)), min_size=1, unique=True).map(sorted))
    column = pruned(table.column(Positions.of(asked)))
    got = [
        (column.parts[column.part[i]].path, column.index[i], column.first_row[i], column.rows[i])
        for i in range(len(column))
    ]
    assert got == [model[p] for p in asked]
    assert {part.path for part in column.parts} == {model[p][0] for p in asked}
    winners = {p: r.part.path for r, positions in table.winners() for p in positions}
    assert winners == {p: entry[0] for p, entry in model.items()}


def test_a_value_that_was_not_kept_is_an_error() -> None:
    table = ItemTable()
    table.grow(3)
    table.move(Positions.span(0, 3), ItemState.COMPLETED)
    assert not table.kept(Positions.span(0, 3)).runs
    with pytest.raises(RunError, match=r"item 0 was not kept.*persist_result=False"):
        table.column(Positions.span(0, 2))


@given(st.lists(POSITIONS, max_size=6))
def test_a_tally_counts(adds: list[list[int]]) -> None:
    tally, model = Tally(), [0] * 121
    for where in adds:
        tally.add(Positions.of(where))
        for p in where:
            model[p] += 1
    assert [tally.at(p) for p in range(121)] == model
    assert tally.of(np.arange(121)).tolist() == model


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_chunks_keep_arguments_with_their_items(parts: list[int], data: st.DataObject) -> None:
    """Taken apart and joined in any order, of values and of references alike."""
    count = len(parts)
    refs = RefColumn(
        tuple(receipt(n, [0]).part for n in range(4)),
        np.asarray(parts),  # type: ignore[arg-type]
        np.arange(count),  # type: ignore[arg-type]
        np.arange(count),  # type: ignore[arg-type]
        np.ones(count, dtype=int),  # type: ignore[arg-type]
        (None,) * 4,
    )
    for column in (list(range(count)), refs):
        chunk: Chunk | None = Chunk(Positions.span(0, count), [column])
        pieces: list[Chunk] = []
        while chunk is not None:
            head, chunk = chunk.take(data.draw(st.integers(1, count)))
            pieces.append(head)
        whole = Chunk.join(data.draw(st.permutations(pieces)))
        assert whole.positions == Positions.span(0, count)
        some = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1).map(sorted))
        (picked,) = whole.only(Positions.of(some)).columns
        if isinstance(picked, RefColumn):
            assert [picked.index[i] for i in range(len(some))] == some
            used = [picked.parts[picked.part[i]].path for i in range(len(some))]
            assert used == [f"p{parts[p]}" for p in some]
        else:
            assert picked == some


def test_cut_pick_and_join_of_lists() -> None:
    assert cut([1, 2, 3], 1, None) == [2, 3]
    assert pick([1, 2, 3], np.asarray([2, 0])) == [3, 1]
    assert joined([[1], [2, 3]]) == [1, 2, 3]


# ---------------------------------------------------------------------------------- sizing


def test_batches_start_small_grow_boundedly_and_aim_at_a_second_or_two() -> None:
    sizer = Sizer()
    first = sizer.next(2, 10**9, 10**9)
    assert first == 1
    sizer.measured(1, 1e-6)
    assert sizer.next(2, 10**9, 10**9) == GROWTH
    for _ in range(30):
        size = sizer.next(2, 10**9, 10**9)
        sizer.measured(size, size * 1e-3)
    assert sizer.next(2, 10**9, 10**9) == pytest.approx(2 * AIM_SECONDS / 1e-3, rel=0.2)
    sizer.measured(2000, 2000 * 1.3e-3)  # not as expected
    assert sizer.per_item is not None
    assert sizer.next(2, 10**9, 10**9) == pytest.approx(AIM_SECONDS / sizer.per_item, rel=0.01)


def test_batches_shrink_toward_the_end_and_never_to_nothing() -> None:
    sizer = Sizer()
    sizer.measured(1000, 10.0)
    sizes, remaining = [], 500
    while remaining:
        size = sizer.next(4, remaining, remaining)
        sizes.append(size)
        remaining -= size
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= 500 / 8 + 1 and sizes[-1] <= 2


def test_what_a_batch_costs_by_itself_is_not_taken_for_its_items() -> None:
    sizer = Sizer()
    own, each = 5e-3, 1e-6
    size = 1
    for _ in range(4):
        sizer.measured(size, own + size * each)
        size = sizer.next(1, 10**9, 10**9)
    assert sizer.per_item == pytest.approx(each, rel=0.2)
    assert not sizer.growing


def test_batches_that_are_full_of_bytes_grow_no_more() -> None:
    sizer = Sizer(batch_bytes=64 << 20)
    for size in (1, 4):
        sizer.weighed(size, size * (16 << 20))
        assert sizer.growing is (size == 1)
        sizer.measured(size, size * 1e-3)
    assert sizer.next(2, 10**9, 10**9) == 4


def test_faster_than_expected_is_a_surprise_unless_the_batch_has_grown() -> None:
    grown, same = Sizer(), Sizer()
    for sizer, items in ((grown, 1000), (same, 10)):
        sizer.measured(10, 1.0)
        before = sizer.surprise
        sizer.measured(items, items * 1e-2)
        sizer_fell = sizer.surprise < before
        assert sizer_fell is (sizer is grown)
    slower = Sizer()
    slower.measured(10, 1.0)
    slower.measured(1000, 1000.0)
    assert slower.surprise > 2


def test_nobody_takes_all_of_an_input_whose_length_is_unknown() -> None:
    sizer = Sizer()
    sizer.measured(100, 0.1)
    assert sizer.next(4, 400, 400) <= 100


def test_an_item_of_minutes_travels_alone() -> None:
    sizer = Sizer()
    sizer.measured(1, 120.0)
    assert sizer.next(2, 1000, 1000) == 1


def test_batches_are_bounded_in_bytes() -> None:
    sizer = Sizer(batch_bytes=1000)
    sizer.measured(10_000, 0.001)
    sizer.weighed(10, 1000)
    assert sizer.next(2, 10**6, 10**6) == 10


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 500), st.floats(1e-7, 30))
def test_a_size_is_between_one_and_what_waits(
    waiting: int, slots: int, concurrency: int, seconds: float
) -> None:
    sizer = Sizer(concurrency=concurrency)
    for _ in range(4):
        size = sizer.next(slots, waiting, waiting)
        assert 1 <= size <= waiting
        sizer.measured(size, size * seconds)
