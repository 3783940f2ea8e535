"""User errors as records: whatever an exception does, the item's failure is told."""

from __future__ import annotations

import pickle
import threading
import traceback
from typing import Any

import pytest

from headrace.core.errors import UnstorableError
from headrace.core.interfaces import FailureKind, Stage
from headrace.core.stages import ArgumentError
from headrace.core.tracebacks import Interner, failure_of, pickled, unpickled

STAGE = Stage(3, "clean-0", "specs/x", attempt=2, timeout_seconds=1.5)


def caught(raise_: Any) -> BaseException:
    try:
        raise_()
    except BaseException as error:  # noqa: BLE001 - also those that are no Exception
        return error
    raise AssertionError("nothing was raised")


def refuse(*_: Any) -> Any:
    raise TypeError("it takes other arguments")


class Unreadable(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")

    def __reduce__(self) -> Any:
        return refuse, ()


class BrokenText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class NoReduce(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("no")


def raising(error: BaseException) -> Any:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("cls", [ValueError, KeyError, SystemExit, KeyboardInterrupt, OSError])
def test_builtin_exceptions_come_back_as_themselves(cls: type[BaseException]) -> None:
    failure = failure_of(STAGE, 17, caught(raising(cls("what", 3))), 10**9)
    back = unpickled(failure)
    assert type(back) is cls and back.args == ("what", 3)
    assert (failure.node, failure.position, failure.attempt) == (3, 17, 2)
    assert failure.kind is FailureKind.ERROR
    assert failure.type_name == cls.__name__
    assert failure.started == 1.0
    assert "in fail\n    raise error" in failure.traceback


def test_an_exception_that_does_not_unpickle_travels_as_text() -> None:
    failure = failure_of(STAGE, 0, caught(raising(Unreadable(1, "x"))), 0)
    assert failure.exception is None
    assert unpickled(failure) is None
    assert failure.message == "1: x" and failure.type_name.endswith("Unreadable")


def test_exceptions_that_do_not_pickle_or_print() -> None:
    broken = failure_of(STAGE, 0, caught(raising(BrokenText())), 0)
    assert broken.message == "<no message: its __str__ raised ValueError>"
    assert broken.traceback
    assert failure_of(STAGE, 0, caught(raising(NoReduce("x"))), 0).exception is None
    holds = failure_of(STAGE, 0, caught(raising(ValueError(threading.Lock()))), 0)
    assert holds.exception is None and "lock" in holds.message


def test_causes_notes_and_groups_are_told_and_travel() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            outer = ValueError("outer")
            outer.add_note("a note")
            raise outer from error

    failure = failure_of(STAGE, 0, caught(fail), 0)
    assert "KeyError: 'inner'" in failure.traceback
    assert "direct cause" in failure.traceback and "a note" in failure.traceback
    back = unpickled(failure)
    assert back is not None and back.__notes__ == ["a note"]
    group = failure_of(
        STAGE, 0, caught(raising(ExceptionGroup("g", [ValueError("a"), KeyError("b")]))), 0
    )
    told = unpickled(group)
    assert isinstance(told, ExceptionGroup) and len(told.exceptions) == 2
    assert "ValueError: a" in group.traceback


def test_kinds() -> None:
    assert failure_of(STAGE, 0, UnstorableError("x"), 0).kind is FailureKind.UNSTORABLE
    argument = ArgumentError()
    argument.__cause__ = LookupError("gone")
    failure = failure_of(STAGE, 0, argument, 0)
    assert (failure.kind, failure.type_name) == (FailureKind.ARGUMENT, "LookupError")
    late = failure_of(STAGE, 4, TimeoutError(), 0, FailureKind.TIMEOUT)
    assert late.message == "task 'clean-0' item 4 exceeded its 1.5 s limit"


def test_a_changed_line_is_told_as_it_is() -> None:
    """Kept frame texts are by code and place: two places in one function differ."""

    def fail(which: int) -> None:
        if which:
            raise ValueError(1)
        raise ValueError(2)

    one, two, again = (
        failure_of(STAGE, 0, caught(lambda which=which: fail(which)), 0) for which in (1, 0, 1)
    )
    assert "raise ValueError(1)" in one.traceback and "raise ValueError(2)" in two.traceback
    assert one.traceback == again.traceback


class Named(ValueError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        ValueError(),
        ValueError("two\nlines"),
        KeyError("key"),
        OSError(2, "gone", "file"),
        UnicodeDecodeError("ascii", b"x", 0, 1, "no"),
        SyntaxError("wrong", ("f.py", 1, 2, "a b", 1, 3)),
        NameError("name 'lenn' is not defined", name="lenn"),
        Named("own"),
        ZeroDivisionError(1, 2),
    ],
    ids=repr,
)
@pytest.mark.parametrize("note", ["", "a note"])
def test_the_last_lines_are_pythons_own(error: BaseException, note: str) -> None:
    error = pickle.loads(pickle.dumps(error)) if not isinstance(error, NameError) else error
    if note and not hasattr(error, "__notes__"):
        error.add_note(note)
    failure = failure_of(STAGE, 0, error, 0)
    assert failure.traceback == "".join(traceback.format_exception_only(error))


def test_a_failure_pickles_whole() -> None:
    failure = failure_of(STAGE, 3, caught(raising(ValueError("x"))), 7)
    assert pickle.loads(pickle.dumps(failure)) == failure


def test_equal_failures_share_their_texts() -> None:
    interner = Interner(most=8)
    first, second = (
        interner.shared(failure_of(STAGE, p, caught(raising(ValueError("same"))), 0))
        for p in (1, 2)
    )
    assert first.traceback is second.traceback and first.exception is second.exception
    many = [interner.shared(failure_of(STAGE, p, ValueError(p), 0)) for p in range(100)]
    assert [f.message for f in many] == [str(p) for p in range(100)]
    assert len(interner.known) <= 8
    both = pickle.dumps((first, second))
    assert len(both) < len(pickle.dumps(first)) * 1.6


def test_a_shadowed_builtin_is_not_taken_for_the_builtin() -> None:
    fake = type("ValueError", (Exception,), {"__module__": "builtins"})
    assert pickled(fake("x")) is None or type(pickle.loads(pickled(fake("x")) or b"")) is fake
