"""Turns what user code raised into a `Failure`: the user's own frames, and an exception that travels."""

from __future__ import annotations

import builtins
import linecache
import os
import pickle
import time
import traceback
from types import TracebackType
from typing import Any, TypeVar

import cloudpickle

from .errors import UnstorableError
from .interfaces import Failure, FailureKind, Stage
from .stages import ArgumentError

Text = TypeVar("Text", str, bytes)

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN = tuple(_HERE + room + os.sep for room in ("core", "executors", "storage"))
_PLAIN = frozenset({str, int, float, bool, type(None), bytes})
_BUILTIN = frozenset(v for v in vars(builtins).values() if isinstance(v, type))
_TOLD_AT_LENGTH = (SyntaxError, NameError, AttributeError, ImportError, BaseExceptionGroup)
"""Their last lines show more than the message: source, suggestions, members."""
_ONE_LINE = frozenset(
    cls
    for cls in _BUILTIN
    if issubclass(cls, BaseException) and not issubclass(cls, _TOLD_AT_LENGTH)
)


def failure_of(
    stage: Stage,
    position: int,
    error: BaseException,
    start_ns: int,
    kind: FailureKind | None = None,
) -> Failure:
    """The record of one failed attempt; ``kind`` is derived from the error unless given."""
    if isinstance(error, ArgumentError) and error.__cause__ is not None:
        kind, error = FailureKind.ARGUMENT, error.__cause__
    if kind is None:
        kind = FailureKind.UNSTORABLE if isinstance(error, UnstorableError) else FailureKind.ERROR
    if kind is FailureKind.TIMEOUT:
        seconds = stage.timeout_seconds
        error = TimeoutError(f"task {stage.key!r} item {position} exceeded its {seconds} s limit")
    return Failure(
        node=stage.node,
        position=position,
        attempt=stage.attempt,
        kind=kind,
        type_name=type_name(error),
        message=_text(error),
        traceback=formatted(error),
        exception=pickled(error),
        started=start_ns / 1e9,
        ended=time.time(),
    )


class Interner:
    """Makes equal texts and pickles of failures one object, so that a report holds each once."""

    def __init__(self, most: int = 1024) -> None:
        self.most = most
        self.known: dict[str | bytes, str | bytes] = {}

    def shared(self, failure: Failure) -> Failure:
        """An equal failure whose long parts are shared with earlier ones."""
        exception = failure.exception
        return Failure(  # not `replace`, which costs as much as all else here
            failure.node,
            failure.position,
            failure.attempt,
            failure.kind,
            self._one(failure.type_name),
            self._one(failure.message),
            self._one(failure.traceback),
            None if exception is None else self._one(exception),
            failure.started,
            failure.ended,
        )

    def _one(self, text: Text) -> Text:
        found = self.known.get(text)
        if found is None:
            if len(self.known) >= self.most:
                self.known.clear()
            self.known[text] = found = text
        return found  # type: ignore[return-value]


def type_name(error: BaseException) -> str:
    """Qualified class name, without ``builtins``."""
    cls = type(error)
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"<no message: its __str__ raised {type(broken).__name__}>"


def formatted(error: BaseException) -> str:
    """Format an exception with the user's own frames first; headrace's frames are left out."""
    try:
        user = _user_frames(error.__traceback__)
        alone = error.__cause__ is None and error.__context__ is None
        if alone and not isinstance(error, BaseExceptionGroup):
            return _frames_text(user) + _last_lines(error)
        return "".join(traceback.format_exception(type(error), error, user))
    except Exception as broken:  # noqa: BLE001 - a user's __str__ or source may raise anything
        return f"{type(error).__name__} (its traceback cannot be formatted: {broken!r})"


def _last_lines(error: BaseException) -> str:
    """What `traceback.format_exception_only` gives, at a tenth of its price for most exceptions."""
    cls = type(error)
    if cls in _ONE_LINE and not hasattr(error, "__notes__"):
        text = _text(error)
        return f"{cls.__name__}: {text}\n" if text else f"{cls.__name__}\n"
    return "".join(traceback.format_exception_only(error))


def _user_frames(tb: TracebackType | None) -> TracebackType | None:
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_OWN):
        tb = tb.tb_next
    return tb


_texts: dict[Any, str] = {}
_MOST_TEXTS = 256


def _frames_text(tb: TracebackType | None) -> str:
    """The frames as text; kept, because many items fail in the same place."""
    places: list[Any] = []
    frame = tb
    while frame is not None:
        places.append((frame.tb_frame.f_code, frame.tb_lasti))
        frame = frame.tb_next
    key = tuple(places)
    text = _texts.get(key)
    if text is None:
        summary = traceback.StackSummary.extract(_walk(tb), lookup_lines=False)
        lines = ["Traceback (most recent call last):\n", *summary.format()] if summary else []
        if len(_texts) >= _MOST_TEXTS:
            _texts.clear()
        _texts[key] = text = "".join(lines)
    return text


def _walk(tb: TracebackType | None):
    while tb is not None:
        linecache.lazycache(tb.tb_frame.f_code.co_filename, tb.tb_frame.f_globals)
        yield tb.tb_frame, tb.tb_lineno
        tb = tb.tb_next


def pickled(error: BaseException) -> bytes | None:
    """The exception as a pickle that is known to unpickle, or None."""
    plain = type(error) in _BUILTIN and not error.__dict__ and error.__cause__ is None
    if plain and _PLAIN.issuperset(map(type, error.args)):
        return pickle.dumps(error)
    try:
        data = cloudpickle.dumps(error)
        if type(pickle.loads(data)) is not type(error):
            return None
    except Exception:  # noqa: BLE001 - a user's class may raise anything, both ways
        return None
    return data


def unpickled(failure: Failure) -> BaseException | None:
    """The exception of a failure, or None if it did not travel."""
    if failure.exception is None:
        return None
    try:
        error = pickle.loads(failure.exception)
    except Exception:  # noqa: BLE001 - its class may be missing here: the text stands in
        return None
    return error if isinstance(error, BaseException) else None
