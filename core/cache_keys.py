"""Cache keys: 16 bytes that say that a call's value is the same as that of an earlier call.

A key is made of the task's identity, of the parts that all items of a node have in common (the
*base*: code, flow parameters, run), and of the arguments, each by its fingerprint and in the order
of their names; so a single call finds what an item of a map has left, and the other way round.
What has no fingerprint is an error that names the task and the part.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .calls import Call, TaskRun
from .errors import FingerprintError
from .fingerprint import fingerprint, source_parts
from .futures import Future, MapFuture
from .identity import NOBODY, SIZE, item_ids
from .interfaces import RefColumn
from .provenance import value_ids

if TYPE_CHECKING:
    from .runs import RunInfo

_WIDTH = 80
_FEW = 8
_KEY = "(key)"
"""In place of an argument's name: what the policy's functions give."""
_LABEL = re.compile(r"[^A-Za-z0-9_]+")
_PLAIN = frozenset({int, float, bool, type(None)})

Arguments = dict[str, list[tuple[str, str]]]
"""Argument -> digest (hex) and short text, of each of some items or one for all."""


class KeyPart(NamedTuple):
    """One part of a key, as it is kept to explain hits and misses."""

    name: str
    digest: str
    """Hexadecimal."""
    text: str
    """The value in short."""


@dataclass(frozen=True, slots=True)
class KeyContext:
    """What a ``cache_key_fn`` is told beside the parameters."""

    task: Any
    """The `Task`."""
    task_run: TaskRun
    """``run_count`` is 0: nothing has run yet."""
    parameters: Mapping[str, Any]


@dataclass(slots=True)
class Keys:
    """Keys of items in a row, and what they were made of."""

    packed: bytes
    """`SIZE` bytes each; zeros: none, that item is not cached."""
    names: tuple[str, ...] = ()
    digests: tuple[Any, ...] = ()
    """By argument: an array of digests, or one for all."""
    values: tuple[Any, ...] = ()
    """By argument: the column, or a list of one."""
    errors: dict[int, Exception] = field(default_factory=dict[int, Exception])
    """By index: why an item has no key."""

    def arguments(self, at: Sequence[int]) -> Arguments:
        """Digests and short texts of the arguments of some items."""
        found: Arguments = {}
        for name, digests, values in zip(self.names, self.digests, self.values, strict=True):
            one = len(digests) == len(values) == 1
            chosen = [0] if one else at
            packed = digests[np.asarray(chosen, np.int64)].tobytes().hex()
            hexes = [packed[i : i + 2 * SIZE] for i in range(0, len(packed), 2 * SIZE)]
            found[name] = list(zip(hexes, _texts(values, chosen), strict=True))
        return found


def _texts(values: Any, at: Sequence[int]) -> list[str]:
    if isinstance(values, RefColumn):
        path, part, index = [p.path for p in values.parts], values.part, values.index
        return [short(Referred(f"{path[part[i]]}[{index[i]}]")) for i in at]
    return [short(values[i]) for i in at]


@dataclass(frozen=True, slots=True)
class Referred:
    """The place of a committed value."""

    place: str

    def __repr__(self) -> str:
        return f"<{self.place}>"


# ------------------------------------------------------------------------------------- the base


def task_folder(call: Call) -> str:
    """A task's identity as a plain name: its function's name, and a digest of where it is from.

    Where that does not tell it from others (a lambda, a nested or interactive function), its code and
    what it closes over count as well.

    Raises
    ------
    FingerprintError
        What it closes over has no fingerprint.
    """
    function = call.task.fn
    name = getattr(function, "__qualname__", type(function).__qualname__)
    home = _home(getattr(function, "__module__", None) or "")
    known = isinstance(function, FunctionType) and home and "<" not in name
    code = b"" if known else b"".join(_sources(call, outside=False).values())
    digest = blake2b(f"{home}\0{name}\0".encode() + code, digest_size=8).hexdigest()
    return f"{_LABEL.sub('-', name).strip('-')[:48]}-{digest}"


def _home(module: str) -> str:
    """A module's name; of a script its file's, of a notebook the notebook's, or nothing."""
    if module != "__main__":
        return module
    main: Any = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None) or os.environ.get("JPY_SESSION_NAME")
    return Path(file or getattr(main, "__vsc_ipynb_file__", "")).stem


def base_parts(call: Call, info: RunInfo) -> list[KeyPart]:
    """The parts that all items of a call have in common.

    Raises
    ------
    FingerprintError
        Names the part that has none.
    """
    policy, task = call.options.cache_policy, call.options.name
    parts = [_part("policy", repr(policy).encode(), repr(policy))]
    if call.options.schema is not None:
        schema = fingerprint(call.options.schema)
        parts.append(KeyPart("schema", schema.hex(), " ".join(str(call.options.schema).split())))
    if "TASK_SOURCE" in policy.parts:
        sources = _sources(call, outside=True)
        parts += [KeyPart(f"code: {what}", d.hex(), d.hex()[:8]) for what, d in sources.items()]
    if "FLOW_PARAMETERS" in policy.parts:
        for name, value in sorted(info.parameters.items()):
            try:
                digest = fingerprint(value)
            except FingerprintError as error:
                where = f"flow parameter {name!r}, for the cache key of task {task!r}"
                raise FingerprintError(f"{where}: {error}") from None
            parts.append(KeyPart(f"flow parameter {name!r}", digest.hex(), short(value)))
    if "RUN_ID" in policy.parts:
        parts.append(_part("run", info.id.bytes, str(info.id)))
    return parts


def _sources(call: Call, *, outside: bool) -> dict[str, bytes]:
    try:
        return source_parts(call.task.fn, outside=outside)
    except FingerprintError as error:
        raise FingerprintError(f"task {call.options.name!r}, {error}") from None


def _part(name: str, content: bytes, text: str) -> KeyPart:
    return KeyPart(name, blake2b(content, digest_size=SIZE).hexdigest(), text)


def base_digest(task: str, parts: Sequence[KeyPart]) -> str:
    """The base as a plain name."""
    content = "\0".join([task, *(f"{part.name}\0{part.digest}" for part in parts)])
    return blake2b(content.encode(), digest_size=SIZE).hexdigest()


# ------------------------------------------------------------------------------------- the items


def argument_keys(
    base: str, call: Call, mapped: Mapping[str, Any], contexts: Sequence[KeyContext], count: int
) -> Keys:
    """Keys of items, from their arguments: ``mapped`` by columns, the others as the call has them.

    ``contexts`` are for the policy's own functions.
    """
    policy = call.options.cache_policy
    names = tuple(sorted(n for n in (*call.static, *mapped) if n not in policy.without))
    if not policy.inputs:
        names = ()
    errors: dict[int, Exception] = {}
    digests: list[Any] = []
    values: list[Any] = []
    for name in names:
        column: Any = mapped[name] if name in mapped else [call.static[name]]
        where = f"argument {name!r} of task {call.options.name!r}"
        ids, broken = _digests(column, where)
        if name not in mapped and broken:
            broken = dict.fromkeys(range(count), broken[0])
        errors.update(broken)
        digests.append(ids)
        values.append(column)
    if policy.key_fns:
        texts, broken = function_texts(call, contexts)
        errors.update(broken)
        skipped = {index for index, key in enumerate(texts) if key is None}
        names = (*names, _KEY)
        digests.append(np.frombuffer(item_ids([texts]), np.uint8).reshape(-1, SIZE))
        values.append(texts)
    else:
        skipped = set[int]()
    rows = np.empty((count, SIZE * len(names)), np.uint8)
    for place, ids in enumerate(digests):
        rows[:, SIZE * place : SIZE * (place + 1)] = ids
    start = blake2b("\0".join([base, *names]).encode(), digest_size=SIZE)
    return Keys(
        _hashed(start, rows.tobytes(), count, SIZE * len(names), errors.keys() | skipped),
        names,
        tuple(digests),
        tuple(values),
        errors,
    )


def _hashed(start: Any, data: bytes, count: int, width: int, none: Collection[int]) -> bytes:
    keys: list[bytes] = []
    for index in range(count):
        digest = start.copy()
        digest.update(data[index * width : (index + 1) * width])
        keys.append(digest.digest() if index not in none else NOBODY)
    return b"".join(keys)


def _digests(column: Any, where: str) -> tuple[Any, dict[int, Exception]]:
    """A column's digests as an array, and the errors of elements that have none, by index."""
    if isinstance(column, RefColumn):
        return np.frombuffer(value_ids(column), np.uint8).reshape(-1, SIZE), {}
    packed = item_ids([column])
    ids = np.frombuffer(packed, np.uint8).reshape(-1, SIZE)
    errors: dict[int, Exception] = {}
    for index in np.flatnonzero(~ids.any(axis=1)).tolist():
        try:
            fingerprint(column[index])
        except Exception as error:  # noqa: BLE001 - users' classes may raise anything
            told = FingerprintError(f"{where}: {error}")
            told.__cause__ = error
            errors[index] = told
    return ids, errors


def function_texts(
    call: Call, contexts: Sequence[KeyContext]
) -> tuple[list[str | None], dict[int, Exception]]:
    """What the policy's own functions give for each item (None: it is not cached), and errors."""
    found: list[str | None] = []
    errors: dict[int, Exception] = {}
    for index, context in enumerate(contexts):
        texts: list[Any] = []
        try:
            texts = [
                fn(context, dict(context.parameters)) for fn in call.options.cache_policy.key_fns
            ]
        except Exception as error:  # noqa: BLE001 - user code
            errors[index] = error
        wrong = [each for each in texts if each is not None and not isinstance(each, str)]
        if wrong:
            errors[index] = FingerprintError(
                f"the cache_key_fn of task {call.options.name!r} must give a text or None, not a "
                f"{type(wrong[0]).__name__}"
            )
        usable = bool(texts) and None not in texts and not wrong
        found.append("\0".join(texts) if usable else None)
    return found, errors


def short(value: Any) -> str:
    """A value in a few words, without looking at much of it."""
    kind = type(value)
    if kind is str or kind is bytes:
        value = value[:_WIDTH]
    elif kind in _PLAIN:
        pass
    elif isinstance(value, (Future, MapFuture)):
        return repr(value)[:_WIDTH]
    else:
        size = getattr(value, "shape", None) or getattr(value, "num_rows", None)
        if size is not None:
            return f"<{kind.__qualname__} {size}>"
        if isinstance(value, (list, tuple, dict, set, frozenset)) and len(value) > _FEW:
            return f"<{kind.__qualname__} of {len(value)}>"
    try:
        text = repr(value)
    except Exception as broken:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<{kind.__qualname__}, whose repr raised {type(broken).__name__}>"
    return text if len(text) <= _WIDTH else text[:_WIDTH] + "..."
