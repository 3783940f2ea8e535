"""The body of a batch on a worker: what it tells, whatever the user's code does."""

from __future__ import annotations

import asyncio
import ctypes
import dis
import functools
import itertools
import pickle
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pyarrow as pa
import pytest
from core.bodies import Bench

from headrace.core import worker
from headrace.core.context import context
from headrace.core.errors import StorageError, UnreachableStoreError
from headrace.core.interfaces import FailureKind, Mark, Outcome, Positions, RefColumn
from headrace.core.livecode import Live
from headrace.core.packing import pack
from headrace.core.tracebacks import unpickled
from headrace.core.worker import CancelRequest, TimeLimit


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def double(x: int) -> int:
    return 2 * x


def test_values_and_failures_and_the_end(bench: Bench) -> None:
    def fn(x: int) -> int:
        if x % 3 == 0:
            raise ValueError(f"no {x}")
        return 10 * x

    bench.map(fn, range(10))
    assert bench.end.outcome is Outcome.DONE and not bench.end.cause
    assert bench.values() == {x: 10 * x for x in range(10) if x % 3}
    assert set(bench.failures) == {0, 3, 6, 9}
    assert str(unpickled(bench.failures[3])) == "no 3"
    assert bench.reports[0].worker is not None
    assert all(report.worker is None for report in bench.reports[1:])
    assert bench.end.seconds > 0


def test_ctrl_c_in_the_waiting_thread_is_the_users(bench: Bench) -> None:
    def fn(x: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.map(fn, range(3))


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit()])
def test_an_item_cannot_end_its_batch(bench: Bench, error: BaseException) -> None:
    def fn(x: int) -> int:
        if x == 1:
            raise error
        return x

    bench.map(fn, range(3))
    assert bench.end.outcome is Outcome.DONE
    assert set(bench.values()) == {0, 2}
    assert bench.failures[1].type_name == type(error).__name__


def test_a_value_is_taken_when_the_item_ends(bench: Bench) -> None:
    """Later items may change an object that an earlier one returned."""
    shared: list[int] = []
    rows: dict[str, Any] = {}

    def fn(x: int) -> Any:
        shared.append(x)
        rows["n"] = x
        return [shared, rows, {"v": shared}]

    bench.run(bench.batch([bench.spec_of(fn)], range(3)))
    values = bench.values()
    assert values[0] == [[0], {"n": 0}, {"v": [0]}]
    assert values[2] == [[0, 1, 2], {"n": 2}, {"v": [0, 1, 2]}]


def test_a_row_is_taken_when_the_item_ends(bench: Bench) -> None:
    """Also where it holds plain values only, and whatever the next stage does to it."""
    row: dict[str, Any] = {}

    def fn(x: int) -> dict[str, Any]:
        row["n"] = x
        return row

    def spoil(x: dict[str, Any]) -> int:
        return x.pop("n")

    bench.run(bench.batch([bench.spec_of(fn), bench.spec_of(spoil)], range(3)))
    assert bench.values(0) == {x: {"n": x} for x in range(3)}
    assert bench.values(1) == {x: x for x in range(3)}


def test_each_stage_of_a_chain_knows_where_it_is(bench: Bench) -> None:
    def where(x: Any) -> str:
        return f"{x}{context.node_key}[{context.position}]"

    bench.run(bench.batch([bench.spec_of(where) for _ in range(3)], ["", "+"]))
    assert bench.values(2) == {0: "n0[0]n1[0]n2[0]", 1: "+n0[1]n1[1]n2[1]"}


def test_times_of_items_follow_each_other(bench: Bench) -> None:
    def fn(x: Any) -> Any:
        time.sleep(0.002)
        return x if isinstance(x, int) and x % 2 else [x]

    before = time.time()
    bench.run(bench.batch([bench.spec_of(fn), bench.spec_of(fn)], range(0, 12, 3)))
    spans: list[tuple[float, float]] = []
    receipts = [receipt for report in bench.reports for receipt in report.receipts]
    for position in range(4):
        for node in (0, 1):
            for receipt in receipts:
                if receipt.node == node and position in set(receipt.positions):
                    facts = bench.store.item(receipt, position)
                    spans.append((facts["started"], facts["ended"]))
    flat = [moment for span in spans for moment in span]
    assert all(a <= b + 1e-5 for a, b in itertools.pairwise(flat))
    assert before - 1 < flat[0] and flat[-1] < time.time() + 1
    assert all(ended - started > 0.001 for started, ended in spans)


def test_a_generator_is_consumed_as_part_of_its_item(bench: Bench) -> None:
    def fn(x: int) -> Iterator[dict[str, int]]:
        yield {"x": x}
        if x == 1:
            raise ValueError("half way")
        yield {"x": x + 10}

    bench.map(fn, range(3))
    assert set(bench.failures) == {1}
    assert bench.failures[1].type_name == "ValueError"
    assert set(bench.values()) == {0, 2}


def test_logs_are_complete(bench: Bench) -> None:
    def fn(x: int) -> int:
        print("line", x)
        if x == 7:
            raise ValueError(x)
        return x

    bench.map(fn, range(50), log_prints=True, flush_seconds=0.01)
    assert bench.logs == [f"line {x}" for x in range(50)]


# ------------------------------------------------------------------------------------- chains


def test_a_chain_commits_each_stage(bench: Bench) -> None:
    bench.run(bench.batch([bench.spec(double), bench.spec(lambda x: x + 1)], range(5)))
    assert bench.values(0) == {x: 2 * x for x in range(5)}
    assert bench.values(1) == {x: 2 * x + 1 for x in range(5)}


def test_a_failure_in_the_middle_ends_that_item_alone(bench: Bench) -> None:
    def picky(x: int) -> int:
        if x == 4:
            raise ValueError(x)
        return x

    bench.run(bench.batch([bench.spec(f) for f in (double, picky, double)], range(4)))
    assert bench.values(0) == {x: 2 * x for x in range(4)}
    assert bench.values(2) == {0: 0, 1: 4, 3: 12}
    assert bench.failures[2].node == 1


def test_values_that_are_not_kept_are_told_as_passed(bench: Bench) -> None:
    specs = [bench.spec(double), bench.spec(double)]
    bench.run(bench.batch(specs, range(4), persist=False))
    assert bench.values(0) == {}
    assert bench.values(1) == {x: 4 * x for x in range(4)}, "the last of a chain always commits"
    passed = [p for report in bench.reports for p in report.passed]
    assert passed == [(0, Positions.span(0, 4))]


def test_a_stream_in_the_middle_is_both_committed_and_passed_on(bench: Bench) -> None:
    def lines(x: int) -> Iterator[dict[str, int]]:
        return ({"i": i} for i in range(x))

    def reader(x: int) -> pa.RecordBatchReader:
        return pa.table({"i": list(range(x))}).to_reader()

    def count(rows: Any) -> int:
        return len(list(rows)) if not isinstance(rows, pa.Table) else rows.num_rows

    for first in (lines, reader):
        bench.run(bench.batch([bench.spec(first), bench.spec(count)], range(1, 4)))
        assert bench.failures == {}
        assert bench.values(1) == {0: 1, 1: 2, 2: 3}
        assert len(bench.values(0)) == 3


def test_a_fused_stage_gets_the_form_that_it_asks_for(bench: Bench) -> None:
    def rows(x: int) -> pa.Table:
        return pa.table({"i": list(range(x))})

    def mean(table: Any) -> str:
        return type(table).__module__.partition(".")[0]

    spec = bench.spec(mean, ["table"], adapt=(("table", "pd.DataFrame"),))
    bench.run(bench.batch([bench.spec(rows), spec], range(1, 3)))
    assert bench.values(1) == {0: "pandas", 1: "pandas"}


# -------------------------------------------------------------------------------------- flush


def test_finished_items_are_told_while_a_long_one_runs(bench: Bench) -> None:
    release = threading.Event()

    def fn(x: int) -> int:
        if x == 3:
            assert release.wait(20)
        return x

    batch = bench.batch([bench.spec_of(fn)], range(5), flush_seconds=0.05)
    thread = threading.Thread(target=bench.run, args=(batch,))
    thread.start()
    bench.wait(lambda b: any(r.receipts for r in b.reports))
    told = {p for r in bench.reports for receipt in r.receipts for p in receipt.positions}
    assert told <= {0, 1, 2}
    bench.wait(
        lambda b: {0, 1, 2} <= {p for r in b.reports for c in r.receipts for p in c.positions}
    )
    release.set()
    thread.join(20)
    assert set(bench.values()) == set(range(5))
    assert bench.end.outcome is Outcome.DONE


def clerks() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "headrace-clerk"}


def test_a_clerk_is_there_for_one_batch_after_another_and_goes_when_idle(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_IDLE_SECONDS", 60.0)
    bench.map(double, range(3))
    known = clerks()
    bench.map(double, range(3))
    assert clerks() <= known
    monkeypatch.setattr(worker, "_IDLE_SECONDS", 0.01)
    bench.map(double, range(3))
    while clerks() & known:
        time.sleep(0.01)


def test_a_recall_hands_back_what_has_not_started_at_once(bench: Bench) -> None:
    begun, release = threading.Event(), threading.Event()

    def fn(x: int) -> int:
        if x == 2:
            begun.set()
            assert release.wait(20)
        return x

    batch = bench.batch([bench.spec_of(fn)], range(10))
    thread = threading.Thread(target=bench.run, args=(batch,))
    thread.start()
    assert begun.wait(20)
    bench.marks[Mark.CONTROL] = 1
    bench.wait(lambda b: any(r.returned.runs for r in b.reports))
    release.set()
    thread.join(20)
    returned = {p for r in bench.reports for p in r.returned}
    assert bench.end.outcome is Outcome.RECALLED
    assert set(bench.values()) | returned == set(range(10))
    assert not set(bench.values()) & returned
    assert returned >= set(range(4, 10))


def test_a_store_that_fails_for_a_while_loses_nothing(bench: Bench) -> None:
    def fn(x: int) -> int:
        if x == 0:
            bench.store.broken = StorageError("no space")
        if x == 5:
            deadline = time.monotonic() + 20
            while bench.store.flushes < 2 and time.monotonic() < deadline:
                time.sleep(0.005)
            bench.store.broken = None
        return x

    bench.run(bench.batch([bench.spec_of(fn)], range(10), flush_seconds=0.01))
    assert bench.store.flushes >= 2
    assert bench.values() == {x: x for x in range(10)}
    assert bench.end.outcome is Outcome.DONE and not bench.end.cause


def test_a_store_that_fails_for_good_is_told_in_the_end(bench: Bench) -> None:
    def picky(x: int) -> int:
        bench.store.broken = StorageError("disk full")
        if x == 2:
            raise ValueError(x)
        return x

    bench.run(bench.batch([bench.spec(double), bench.spec_of(picky)], range(3)))
    assert bench.end.outcome is Outcome.DONE
    assert "disk full" in bench.end.cause
    assert bench.values() == {}
    assert set(bench.failures) == {1}, "a failure of user code is told all the same"


def test_failures_of_a_chain_come_with_the_values_that_they_stand_on(bench: Bench) -> None:
    """While the store fails, they wait: else the stage before would run again for nothing."""

    def fails(x: int) -> int:
        if x == 0:
            bench.store.broken = StorageError("busy")
            raise ValueError(x)
        deadline = time.monotonic() + 20
        while bench.store.flushes < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        bench.store.broken = None
        return x

    bench.run(bench.batch([bench.spec(double), bench.spec_of(fails)], range(2), flush_seconds=0.01))
    known: set[int] = set()
    for report in bench.reports:
        known |= {p for c in report.receipts if c.node == 0 for p in c.positions}
        assert all(failure.position in known for failure in report.failures)
    assert set(bench.failures) == {0}


# ------------------------------------------------------------------------------------ arguments


class Fragile:
    """Unpickles into an error."""

    def __reduce__(self) -> Any:
        return _explode, ()


def _explode() -> None:
    raise LookupError("its file is gone")


def test_arguments_that_do_not_load_are_tried_apart(bench: Bench) -> None:
    bench.map(double, [1, Fragile(), 3])
    assert bench.end.outcome is Outcome.RECALLED
    assert bench.end.suspects == (0, 1, 2)
    assert "its file is gone" in bench.end.cause
    bench.map(double, [Fragile()])
    assert bench.end.outcome is Outcome.DONE
    assert bench.failures[0].kind is FailureKind.ARGUMENT
    assert bench.failures[0].type_name == "LookupError"


def test_a_handle_that_does_not_load_fails_its_item(bench: Bench) -> None:
    bench.map(lambda x: x, [Handle(3), Handle(0), 5])
    assert bench.values() == {0: [0, 0, 0], 2: 5}
    assert bench.failures[1].kind is FailureKind.ARGUMENT
    assert "ZeroDivisionError" in bench.failures[1].type_name


class Handle:
    """A handle to data: loaded on the worker."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __headrace_load__(self, _annotation: Any) -> list[int]:
        return [0 // self.size] * self.size


def test_a_batch_that_cannot_begin_is_refused(bench: Bench) -> None:
    broken = bench.spec(double, setup=b"not a pickle")
    bench.run(bench.batch([bench.spec(double), broken], range(3)))
    assert bench.end.outcome is Outcome.REFUSED
    assert bench.end.running == (1, -1), "the stage that could not be loaded"
    bench.run(bench.batch(["specs/none"], range(3)))
    assert isinstance(pickle.loads(bench.end.error), UnreachableStoreError)


def test_a_claimed_batch_is_a_duplicate(bench: Bench) -> None:
    batch = bench.batch([bench.spec(double)], range(3), claim=True)
    assert bench.run(batch).end.outcome is Outcome.DONE
    assert bench.run(batch).end.outcome is Outcome.DUPLICATE
    assert bench.values() == {}


def test_setup_is_made_once(bench: Bench) -> None:
    made: list[int] = []

    def setup() -> int:
        made.append(1)
        return 41

    live = Live(setup)
    path = bench.spec_of(lambda x: x + context.setup, setup=pickle.dumps(live))
    for _ in range(3):
        bench.run(bench.batch([path], [1, 2]))
    assert bench.values() == {0: 42, 1: 43}
    assert made == [1]


def test_a_partial_that_stays_in_the_process_keeps_its_arguments() -> None:
    live = Live(functools.partial(divmod, 17))
    assert pickle.loads(pickle.dumps(live))(5) == (3, 2)


# -------------------------------------------------------------------------------- interruptions


def interrupt(ident: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(error))


def test_a_time_limit_ends_the_running_item_alone(bench: Bench) -> None:
    def fn(x: int) -> int:
        if x == 1:
            interrupt(threading.get_ident(), TimeLimit)
            for _ in range(10**6):
                pass
        return x

    bench.run(bench.batch([bench.spec_of(fn)], range(4), timeouts=[2.0]))
    assert set(bench.values()) == {0, 2, 3}
    assert bench.failures[1].kind is FailureKind.TIMEOUT
    assert "2.0 s" in bench.failures[1].message


def test_time_limits_that_strike_anywhere_lose_no_item(bench: Bench) -> None:
    """Each item ends exactly once, wherever between two bytecodes the exception lands."""
    stopped: list[bool] = []  # no event: struck while it is set, it would never be let go
    struck = [0]
    ident = threading.get_ident()

    def pester() -> None:
        late = -1
        while not stopped:
            time.sleep(0.0005)
            running = bench.marks[Mark.RUNNING]
            # Once per item, as an alarm does, however slow the machine is.
            if running not in (-1, late):
                late = running
                struck[0] += 1
                interrupt(ident, TimeLimit)

    def fn(x: int) -> int:
        # From here on nothing strikes any more, so that nothing hits the test itself.
        if x >= 9_000:
            stopped.append(True)
            thread.join()
        return sum(range(200)) + x

    specs = [bench.spec_of(fn), bench.spec(double)]
    for stages in (specs[:1], specs):
        stopped.clear()
        thread = threading.Thread(target=pester, daemon=True)
        thread.start()
        bench.run(bench.batch(stages, range(10_000), timeouts=[1.0] * len(stages)))
        assert bench.end.outcome is Outcome.DONE
        ended = set(bench.values(len(stages) - 1)) | set(bench.failures)
        assert ended == set(range(10_000))
    assert struck[0] > 0


class Strike:
    """Raises in the body of a batch, where the interpreter looks for the n-th time for what others raise.

    It does so behind a call, where a function begins, and before a loop goes round. Others strike
    while an item runs, as the marks tell; what they raise comes when it looks next.
    """

    def __init__(self, marks: memoryview, place: int, error: type[BaseException]) -> None:
        self.marks, self.left, self.error = marks, place, error
        self.in_body = self.aimed = self.struck = False
        self.before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> Any:
        code = frame.f_code
        self.in_body |= code is worker._Body.run.__code__
        if self.in_body and code.co_filename in (worker.__file__, threading.__file__):
            frame.f_trace_opcodes = True
            return self.step
        return None

    def step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode" and not self.struck:
            before = self.before.get(frame, "")
            self.before[frame] = operations(frame.f_code)[frame.f_lasti]
            if self.aimed and before.startswith(("CALL", "JUMP_BACKWARD", "RESUME")):
                self.aimed, self.left = False, self.left - 1
                if self.left < 0:
                    self.struck = True
                    raise self.error
            self.aimed |= self.marks[Mark.RUNNING] >= 0
        return self.step


@functools.cache
def operations(code: CodeType) -> dict[int, str]:
    """What is done at each place of a piece of code."""
    named: dict[int, str] = {}
    for each in reversed(list(dis.get_instructions(code))):
        extends = each.opname == "EXTENDED_ARG"
        named[each.offset] = named[each.offset + 2] if extends else each.opname
    return named


@pytest.mark.parametrize("error", [TimeLimit, CancelRequest])
@pytest.mark.parametrize("stages", [1, 2])
def test_no_strike_escapes_the_batch_or_leaves_its_clerk_behind(
    bench: Bench, error: type[BaseException], stages: int
) -> None:
    def fn(x: int) -> int:
        if x == 0:
            raise ValueError
        return x

    specs = [bench.spec_of(fn), bench.spec(double)][:stages]
    batch = functools.partial(bench.batch, specs, range(2), timeouts=[9.0] * stages)
    bench.run(batch())
    before = sys.gettrace()
    for place in itertools.count():
        strike = Strike(bench.marks, place, error)
        sys.settrace(strike)
        try:
            bench.run(batch())
        finally:
            sys.settrace(before)
        told = set(bench.values(stages - 1)), set(bench.failures)
        if not strike.struck:
            break
        if error is TimeLimit:
            assert bench.end.outcome is Outcome.DONE and set.union(*told) == {0, 1}, place
        else:
            assert bench.end.outcome is Outcome.KILLED, place
        assert worker._Clerk.idle[-1].is_alive()
        assert len(clerks()) == len(worker._Clerk.idle), place
    assert place > 10


def test_a_cancel_ends_the_batch_and_keeps_what_is_done(bench: Bench) -> None:
    def fn(x: int) -> int:
        if x == 2:
            bench.marks[Mark.CONTROL] = 2
            raise CancelRequest
        return x

    bench.run(bench.batch([bench.spec_of(fn)], range(5)))
    assert bench.end.outcome is Outcome.KILLED
    assert bench.values() == {0: 0, 1: 1}
    assert bench.end.suspects == (0, 1, 2)


def test_a_cancel_between_two_items(bench: Bench) -> None:
    def fn(x: int) -> int:
        bench.marks[Mark.CONTROL] = 2
        return x

    bench.run(bench.batch([bench.spec_of(fn), bench.spec(double)], range(5)))
    assert bench.end.outcome is Outcome.KILLED
    assert bench.values(1) == {0: 0}


# ---------------------------------------------------------------------------------------- async


def test_async_items_overlap_up_to_their_concurrency(bench: Bench) -> None:
    running = [0, 0]

    async def fn(x: int) -> int:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0.001)
        running[0] -= 1
        if x == 13:
            raise ValueError(x)
        return x

    bench.run(bench.batch([bench.spec_of(fn, is_async=True, concurrency=7)], range(50)))
    assert running == [0, 7]
    assert set(bench.values()) == set(range(50)) - {13}
    assert set(bench.failures) == {13}


def test_async_time_limits_and_the_users_own_cancellations(bench: Bench) -> None:
    async def fn(x: int) -> int:
        if x == 1:
            await asyncio.sleep(60)
        if x == 2:
            raise asyncio.CancelledError
        if x == 3:
            raise TimeoutError("the user's own")
        return x

    spec = bench.spec_of(fn, is_async=True, concurrency=10)
    bench.run(bench.batch([spec], range(5), timeouts=[0.2]))
    assert set(bench.values()) == {0, 4}
    kinds = {position: failure.kind for position, failure in bench.failures.items()}
    assert kinds == {1: FailureKind.TIMEOUT, 2: FailureKind.ERROR, 3: FailureKind.ERROR}
    assert bench.failures[2].type_name.endswith("CancelledError")


def test_an_async_batch_is_cancelled_while_it_waits(bench: Bench) -> None:
    async def fn(x: int) -> int:
        if x == 3:
            bench.marks[Mark.CONTROL] = 2
        await asyncio.sleep(60 if x >= 2 else 0)
        return x

    bench.run(bench.batch([bench.spec_of(fn, is_async=True, concurrency=4)], range(8)))
    assert bench.end.outcome is Outcome.KILLED
    assert bench.values() == {0: 0, 1: 1}


def test_an_async_chain(bench: Bench) -> None:
    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    specs = [bench.spec(slow, is_async=True, concurrency=3) for _ in range(2)]
    bench.run(bench.batch(specs, range(6)))
    assert bench.values(1) == {x: 4 * x for x in range(6)}


def test_a_column_of_references_is_loaded(bench: Bench) -> None:
    bench.map(double, range(4))
    receipts = [receipt for report in bench.reports for receipt in report.receipts]
    (receipt,) = receipts
    column = RefColumn((receipt.part,), [0, 0], [3, 1], [3, 1], [1, 1], (None,))
    bench.run(bench.batch([bench.spec(double)], [0, 0], payload=pack([column]).data))
    assert bench.values() == {0: 12, 1: 4}
