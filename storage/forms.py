"""Columns that hold Python values exactly: which Arrow type a single value takes, and the way back.

The form of a value is a function of that value alone. What Arrow would return changed (an int beyond
64 bits, a tuple inside a list, text with a lone surrogate, a subclass of ``int``) is pickled into a
binary column that is marked as such. ``None`` is a null in a column of any form.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from . import pickles

PICKLE = "pickle"
PICKLE_NAME = b"headrace.pickle"
EXTENSION_KEY = b"ARROW:extension:name"

_ARROW_ERRORS = (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError)
_BIG = (1 << 31) - 1024
_DIGITS, _MOST_DIGITS = 38, 76
"""Of `pyarrow.decimal128`, and of the longest decimals that Arrow has."""
MAX_FIELDS = 64
"""A dict inside a row with more keys is a mapping, not a struct, and is pickled."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a column holds its values: the Arrow type, and what turns an element into the value."""

    type: Any
    restore: str = ""
    raw: bool = False
    """What is frozen in this form is the Python value, or a copy of it, and not an Arrow array."""

    def field(self, name: str) -> Any:
        """The column's field; a pickled one is marked as an extension that any reader passes over."""
        if self.restore != PICKLE:
            return pa.field(name, self.type)
        return pa.field(
            name,
            self.type,
            metadata={EXTENSION_KEY: PICKLE_NAME, b"ARROW:extension:metadata": b""},
        )


def is_pickled(field: Any) -> bool:
    """Whether a field is marked as one of pickles."""
    return (field.metadata or {}).get(EXTENSION_KEY) == PICKLE_NAME


NULL = Form(pa.null(), raw=True)
PICKLED = Form(pa.binary(), PICKLE, raw=True)
BIG_PICKLED = Form(pa.large_binary(), PICKLE, raw=True)

SCALARS: dict[type, Form] = {
    int: Form(pa.int64(), raw=True),
    float: Form(pa.float64(), raw=True),
    bool: Form(pa.bool_(), raw=True),
    str: Form(pa.string(), raw=True),
    bytes: Form(pa.binary(), raw=True),
    type(None): NULL,
}
"""Immutable Python types whose form follows from the exact type, but for the rare values that
`array_of` refuses (ints beyond 64 bits, lone surrogates)."""

_LISTS = {cls: Form(pa.list_(form.type), raw=True) for cls, form in SCALARS.items()}
_TUPLES = {cls: Form(pa.list_(form.type), "tuple", raw=True) for cls, form in SCALARS.items()}
_DEEP = frozenset({list, dict, datetime, date, time, timedelta, Decimal})
_structs: dict[Any, Form | None] = {}
ARRAYS = (pa.Array, pa.ChunkedArray)


# ------------------------------------------------------------------------------ one value, frozen


def sketch(value: Any) -> tuple[Form, Any]:
    """`freeze` without a look at each scalar: `array_of` may refuse what it gives.

    It is for bulk: whoever is refused freezes one value after the other.
    """
    cls = type(value)
    form = SCALARS.get(cls)
    if form is not None:
        return form, value
    if cls is list or cls is tuple:
        form = _flat_form(value, _LISTS if cls is list else _TUPLES)
        if form is not None:
            return form, list(value)
    elif cls is dict:
        form = _struct_form(value)
        if form is not None:
            return form, dict(value)
    return freeze(value)


def freeze(value: Any) -> tuple[Form, Any]:
    """Form and snapshot of one value: later changes of the object do not reach the snapshot.

    Raises
    ------
    UnstorableError
    """
    cls = type(value)
    form = SCALARS.get(cls)
    if form is not None:
        return (form, value) if _fits(cls, value) else pickled(value)
    maker = _MAKERS.get(cls)
    if maker is None and isinstance(value, np.generic):
        maker = _numpy_scalar
    frozen = maker(value) if maker is not None else None
    return frozen if frozen is not None else pickled(value)


def _fits(cls: type, value: Any) -> bool:
    if cls is int:
        return -(1 << 63) <= value < (1 << 63)
    if cls is str:
        if len(value) >= _BIG // 4:
            return False
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return cls is not bytes or len(value) < _BIG


def pickled(value: Any) -> tuple[Form, Any]:
    """Any value as a pickle. Raises `UnstorableError`."""
    data = pickles.dump(value)
    return (PICKLED if len(data) < _BIG else BIG_PICKLED), data


def _inferred(value: Any) -> tuple[Form, Any] | None:
    """The form that Arrow infers from this one value, if it comes back exactly."""
    try:
        array = pa.array([value])
        if exactly_equal(array[0].as_py(), value):
            return Form(array.type), array
    except _ARROW_ERRORS:
        pass
    return None


def _datetime(value: datetime) -> tuple[Form, Any] | None:
    if value.tzinfo is not UTC:
        return _inferred(value)
    if value.fold:
        return None
    kind = pa.timestamp("us", "UTC")
    return Form(kind, "utc"), pa.array([value], kind)


def _flat_form(value: Any, forms: dict[type, Form]) -> Form | None:
    """The form of a list or tuple of scalars of one type and ``None``."""
    types = set(map(type, value))
    if len(types) > 1:
        types.discard(type(None))
    return forms.get(types.pop() if types else type(None)) if len(types) <= 1 else None


def is_plain_name(name: str) -> bool:
    """Whether Arrow can hold a text as a column's name."""
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError:
            return False
    return "\0" not in name


def _struct_form(value: dict[Any, Any]) -> Form | None:
    """The form of a dict of scalars, by its keys in order and their types."""
    key = (tuple(value), tuple(map(type, value.values())))
    try:
        return _structs[key]
    except KeyError:
        pass
    form = None
    if len(value) <= MAX_FIELDS and (
        all(type(name) is str and is_plain_name(name) for name in key[0])
        and all(cls in SCALARS for cls in key[1])
    ):
        fields = [pa.field(n, SCALARS[cls].type) for n, cls in zip(*key, strict=True)]
        form = Form(pa.struct(fields), raw=True)
    if len(_structs) > 4096:
        _structs.clear()
    _structs[key] = form
    return form


def _sequence(value: list[Any]) -> tuple[Form, Any] | None:
    return _flat(value, list(value), _flat_form(value, _LISTS))


def _dict(value: dict[Any, Any]) -> tuple[Form, Any] | None:
    return _flat(value, dict(value), _struct_form(value))


def _tuple(value: tuple[Any, ...]) -> tuple[Form, Any] | None:
    frozen = _flat(list(value), list(value), _flat_form(value, _TUPLES))
    return None if frozen is None else (Form(frozen[0].type, "tuple", frozen[0].raw), frozen[1])


def _flat(value: Any, copy: Any, form: Form | None) -> tuple[Form, Any] | None:
    """A container of scalars, if they fit; else what Arrow infers for it."""
    if form is not None:
        try:
            pa.array([copy], form.type)
        except _ARROW_ERRORS:
            return None
        return form, copy
    inside = set(map(type, value.values() if type(value) is dict else value))
    if not inside & _DEEP or not inside <= _DEEP | SCALARS.keys():
        return None
    return _inferred(value)


def _numpy_scalar(value: np.generic) -> tuple[Form, Any] | None:
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        return None
    array = pa.array(np.asarray([value]))
    return Form(array.type, f"np:{value.dtype.str}"), array


def _ndarray(value: np.ndarray[Any, Any]) -> tuple[Form, Any] | None:
    """1-D: a list. Other shapes: data and shape, as Arrow's variable-shape tensor. Else ``.npy``."""
    dtype = value.dtype
    if dtype.hasobject or dtype.metadata:
        return None
    plain = dtype.kind in "biuf" and dtype.isnative and dtype.itemsize <= 8
    if not plain or value.size >= _BIG:
        buffer = io.BytesIO()
        np.save(buffer, value, allow_pickle=False)
        if not _same_dtype(dtype) or buffer.tell() >= _BIG:
            return None
        return Form(pa.binary(), "npy"), pa.array([buffer.getvalue()], pa.binary())
    flat = pa.array(np.array(value, order="C").reshape(-1))
    data = pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), flat)
    if value.ndim == 1:
        return Form(data.type, f"nd:{dtype.str}"), data
    shape = pa.array([list(value.shape)], pa.list_(pa.int32(), value.ndim))
    array = pa.StructArray.from_arrays([data, shape], ["data", "shape"])
    return Form(array.type, f"tensor:{dtype.str}"), array


def _same_dtype(dtype: np.dtype[Any]) -> bool:
    """Whether ``.npy`` brings this dtype back (it loses titles and some alignments)."""
    return np.lib.format.descr_to_dtype(np.lib.format.dtype_to_descr(dtype)) == dtype


_MAKERS: dict[type, Callable[[Any], tuple[Form, Any] | None]] = {
    list: _sequence,
    dict: _dict,
    tuple: _tuple,
    datetime: _datetime,
    date: _inferred,
    time: _inferred,
    timedelta: _inferred,
    Decimal: _inferred,
    np.ndarray: _ndarray,
}


def exactly_equal(a: Any, b: Any) -> bool:
    """Equal in value and in every type, at any depth; -0.0, nan, key order and scale tell apart."""
    cls = type(a)
    if cls is not type(b):
        return False
    if cls is float:
        return _same_bits(a, b)
    if cls is list:
        return len(a) == len(b) and all(map(exactly_equal, a, b))
    if cls is dict:
        return list(a) == list(b) and all(map(exactly_equal, a.values(), b.values()))
    if cls is Decimal:
        return bool(a.as_tuple() == b.as_tuple())
    if cls is datetime or cls is time:
        return (
            a == b
            and a.fold == b.fold
            and type(a.tzinfo) is type(b.tzinfo)
            and a.tzinfo == b.tzinfo
        )
    return cls in (int, bool, str, bytes, type(None), date, timedelta) and bool(a == b)


def _same_bits(a: float, b: float) -> bool:
    """Tells 0.0 from -0.0, and one nan from another."""
    return struct.pack("d", a) == struct.pack("d", b)


# --------------------------------------------------------------------------------- whole columns


def array_of(form: Form, frozen: Any) -> Any:
    """The column (array or chunked array) of many values frozen in one form; ``None`` is null.

    Raises
    ------
    OverflowError, UnicodeEncodeError
        A value that was only sketched does not fit the form.
    """
    if isinstance(frozen, ARRAYS):
        return frozen
    if form.raw:
        return pa.array(frozen, form.type)
    null = pa.nulls(1, form.type)
    arrays = [null if array is None else array for array in frozen]
    return pa.concat_arrays(arrays) if arrays else pa.array([], form.type)


def values_of(array: Any, restore: str, where: str = "") -> list[Any]:
    """The Python values of a column: the inverse of `freeze` and `array_of`."""
    if not restore:
        return array.to_pylist()
    name, _, argument = restore.partition(":")
    return _RESTORERS[name](array, argument, where)


def _restore_pickle(array: Any, argument: str, where: str) -> list[Any]:
    return [None if d is None else pickles.restore(d, where) for d in array.to_pylist()]


def _restore_utc(array: Any, argument: str, where: str) -> list[Any]:
    return [None if v is None else v.replace(tzinfo=UTC) for v in array.to_pylist()]


def _restore_tuple(array: Any, argument: str, where: str) -> list[Any]:
    return [None if v is None else tuple(v) for v in array.to_pylist()]


def _restore_scalar(array: Any, argument: str, where: str) -> list[Any]:
    make = np.dtype(argument).type
    return [None if v is None else make(v) for v in array.to_pylist()]


def _restore_npy(array: Any, argument: str, where: str) -> list[Any]:
    return [
        None if d is None else np.load(io.BytesIO(d), allow_pickle=False) for d in array.to_pylist()
    ]


def _restore_nd(array: Any, argument: str, where: str) -> list[Any]:
    dtype = np.dtype(argument)
    return [None if item is None else _numpy(item, dtype) for item in _lists(array)]


def _restore_tensor(array: Any, argument: str, where: str) -> list[Any]:
    dtype = np.dtype(argument)
    out: list[Any] = []
    for chunk in _chunks(array):
        valid = chunk.is_valid().to_pylist()
        data, shapes = chunk.field("data"), chunk.field("shape").to_pylist()
        for item, shape, there in zip(_lists(data), shapes, valid, strict=True):
            out.append(_numpy(item, dtype).reshape(shape) if there else None)
    return out


def _lists(array: Any) -> Iterator[Any]:
    """The child slice of each list, or None."""
    for chunk in _chunks(array):
        offsets = chunk.offsets.to_numpy()
        valid = chunk.is_valid().to_pylist()
        for i, there in enumerate(valid):
            first = int(offsets[i])
            yield (chunk.values.slice(first, int(offsets[i + 1]) - first) if there else None)


def _numpy(item: Any, dtype: np.dtype[Any]) -> Any:
    """A writable array of its own: it may outlive the partition."""
    return np.array(item.to_numpy(zero_copy_only=False), dtype=dtype)


def _chunks(array: Any) -> list[Any]:
    return array.chunks if isinstance(array, pa.ChunkedArray) else [array]


_RESTORERS: dict[str, Callable[[Any, str, str], list[Any]]] = {
    PICKLE: _restore_pickle,
    "utc": _restore_utc,
    "tuple": _restore_tuple,
    "np": _restore_scalar,
    "nd": _restore_nd,
    "tensor": _restore_tensor,
    "npy": _restore_npy,
}


def merged_type(a: Any, b: Any, *, scales: bool = False) -> Any | None:
    """The type that holds both columns unchanged: null gives way to anything, at any depth.

    ``scales``: decimals may get more zeros behind the point (1.5 and 1.50 are equal, and not the same).
    """
    if a == b or b == pa.null():
        return a
    if a == pa.null():
        return b
    if pa.types.is_decimal(a) and pa.types.is_decimal(b) and (scales or a.scale == b.scale):
        return _wider_decimal(a, b)
    if pa.types.is_list(a) and pa.types.is_list(b):
        item = merged_type(a.value_type, b.value_type, scales=scales)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(a) and pa.types.is_struct(b):
        if [f.name for f in a] != [f.name for f in b]:
            return None
        fields: list[Any] = []
        for f, g in zip(a, b, strict=True):
            child = merged_type(f.type, g.type, scales=scales)
            if child is None:
                return None
            fields.append(pa.field(f.name, child))
        return pa.struct(fields)
    return None


def _wider_decimal(a: Any, b: Any) -> Any | None:
    scale = max(a.scale, b.scale)
    digits = max(a.precision - a.scale, b.precision - b.scale) + scale
    if digits > _MOST_DIGITS:
        return None
    return (pa.decimal128 if digits <= _DIGITS else pa.decimal256)(digits, scale)


@lru_cache(maxsize=1024)
def _casts(source: Any, target: Any) -> bool:
    """Whether Arrow knows how to cast: of some nested nulls it does not."""
    try:
        pa.array([], source).cast(target)
    except pa.ArrowException:
        return False
    return True


def merged_form(a: Form, b: Form, *, scales: bool = False) -> Form | None:
    """One form for both, such that every value still comes back exactly; None if there is none.

    ``scales`` as in `merged_type`.
    """
    if b in (a, NULL):
        return a
    if a == NULL:
        return b
    if a.restore != b.restore:
        return None
    kind = merged_type(a.type, b.type, scales=scales)
    if kind is not None and not (_casts(a.type, kind) and _casts(b.type, kind)):
        return None
    return None if kind is None else Form(kind, a.restore, a.raw and b.raw)
