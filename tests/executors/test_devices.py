"""GPUs on processes: a batch's child sees its own ones, and stays with them."""

from __future__ import annotations

import os

import pytest
from listening import BODY, Heard
from standin import make_batch

from headrace.core.interfaces import Outcome, Resources
from headrace.executors import wire
from headrace.executors.devices import VARIABLE, Devices, visible
from headrace.executors.processes import ProcessesExecutor


def test_whole_ones_are_somebodys_own():
    four = Devices(["0", "1", "2", "3"])
    assert four.take(0) == ()
    assert [four.take(2), four.take(1), four.take(1)] == [("0", "1"), ("2",), ("3",)]
    four.give(("0", "1"), 2)
    four.give(("3",), 1)
    assert four.take(3) == ("0", "1", "3")


def test_parts_share_one_and_leave_whole_ones_whole():
    two = Devices(["a", "b"])
    assert [two.take(0.5), two.take(1), two.take(0.5)] == [("a",), ("b",), ("a",)]
    two.give(("b",), 1)
    two.give(("a",), 0.5)
    assert two.take(0.25) == ("a",), "where there is least room"


def test_parts_of_several_may_have_to_stand_for_a_whole_one():
    two = Devices(["a", "b"])
    assert [two.take(0.6), two.take(0.6)] == [("a",), ("b",)]
    assert len(two.take(0.8)) == 1


@pytest.mark.parametrize(
    ("count", "known", "names"),
    [
        (2, None, ["0", "1"]),
        (1, "4,GPU-7f", ["4"]),
        (1.5, "4,GPU-7f", ["4", "GPU-7f"]),
        (3, "4,5", []),
        (0, None, []),
    ],
)
def test_they_are_those_that_this_process_may_use(count, known, names, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    given = {} if known is None else {VARIABLE: known}
    assert visible(count, given) == names
    monkeypatch.setattr(os, "environ", given)
    assert visible(count, {}) == names


def test_each_child_sees_its_own(monkeypatch):
    monkeypatch.setattr(wire, "BODY", BODY)
    pool = ProcessesExecutor(max_workers=2, gpus=2, env={VARIABLE: "5,6"}).open()

    def ran(*needs: float) -> list[tuple[str, str]]:
        """What batches that run at a time see, and in which process."""
        all_heard: list[Heard] = []
        for number, gpus in enumerate(needs):
            steps = [("env", VARIABLE), ("pid",), ("sleep", 0.2)]
            pool.submit(make_batch(steps, number, resources=Resources(gpus=gpus)), heard := Heard())
            all_heard.append(heard)
        assert {heard.end().outcome for heard in all_heard} == {Outcome.DONE}
        return sorted(tuple(heard.said()[:2]) for heard in all_heard)

    try:
        apart = ran(1, 1)
        assert [seen for seen, _ in apart] == ["5", "6"]
        assert ran(0.5) == apart[:1], "its child stays with it"
        assert ran(1, 1) == apart
        assert ran(0)[0] in apart, "a batch that asks for none takes any child"
    finally:
        pool.close()
