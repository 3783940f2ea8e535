"""Fingerprints: 16 bytes that say whether two inputs are the same, on any machine and in any process.

Equal fingerprints mean the same value of the same type; what might differ in a way that code can
see (the order of a dict, ``1`` and ``1.0``, ``-0.0``, the time zone of a moment) differs. What
cannot be fingerprinted raises: a wrong hit is worse than none. Nothing depends on ``hash()``, on
memory addresses or on the order of a set.

Of a partition of a dataset it is its metadata, never its bytes; of Arrow data its buffers; of
functions their compiled code, the constants and functions of the user's own that they refer to,
their defaults and closures, so that a comment changes nothing and an edited helper does.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import functools
import hashlib
import struct
import sys
import threading
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from .errors import FingerprintError
from .identity import SIZE
from .references import imports_of, is_own_module, own_sources
from .rowmodels import models_of

_LENGTH = struct.Struct("<Q")
_FLOAT = struct.Struct("<d")
_NAN = b"nan"
_NO_CODE = frozenset(
    {
        "__module__",
        "__qualname__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "_abc_impl",
    }
)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)


def fingerprint(value: Any) -> bytes:
    """The fingerprint of any value.

    Raises
    ------
    FingerprintError
        Names the part that has none, and its type.
    """
    return _Hasher().of(value)


def fingerprints(values: Iterable[Any]) -> list[bytes]:
    """The fingerprints of many values; each is what `fingerprint` gives for it alone."""
    hasher = _Hasher()
    return [hasher.of(value) for value in values]


class _Hasher:
    """Hashes one value at a time; remembers functions and classes, which come again and again."""

    def __init__(self) -> None:
        self.stack: dict[int, int] = {}
        self.code: dict[int, tuple[Any, bytes]] = {}

    def of(self, value: Any) -> bytes:
        digest = hashlib.blake2b(digest_size=SIZE)
        self.feed(value, digest.update)
        return digest.digest()

    def feed(self, value: Any, put: Callable[[bytes], None]) -> None:
        """Put a value's canonical bytes: a tag, and content of a stated length."""
        simple = _SIMPLE.get(type(value))
        if simple is not None:
            put(simple(value))
            return
        if id(value) in self.stack:
            put(b"cycle" + _LENGTH.pack(len(self.stack) - self.stack[id(value)]))
            return
        self.stack[id(value)] = len(self.stack)
        try:
            for handles in _HANDLERS:
                if handles(self, value, put):
                    return
            _reduced(self, value, put)
        finally:
            del self.stack[id(value)]

    def each(self, tag: bytes, values: Iterable[Any], put: Callable[[bytes], None]) -> None:
        """A tagged sequence."""
        parts = list(values)
        put(_tagged(tag, _LENGTH.pack(len(parts))))
        for part in parts:
            self.feed(part, put)

    def named(self, tag: str, value: Any, parts: Any, put: Callable[[bytes], None]) -> None:
        """An instance: its class, and its parts."""
        put(_tagged(tag.encode(), b""))
        self.feed(type(value), put)
        self.feed(parts, put)


def _tagged(tag: bytes, content: bytes) -> bytes:
    return tag + b"\0" + _LENGTH.pack(len(content)) + content


def _int(value: int) -> bytes:
    return _tagged(b"int", value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True))


def _float(value: float) -> bytes:
    return _tagged(b"float", _NAN if value != value else _FLOAT.pack(value))  # noqa: PLR0124


_SIMPLE: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"none\0",
    bool: lambda v: b"true\0" if v else b"false\0",
    int: _int,
    float: _float,
    str: lambda v: _tagged(b"str", v.encode("utf-8", "surrogatepass")),
    bytes: lambda v: _tagged(b"bytes", v),
    bytearray: lambda v: _tagged(b"bytearray", bytes(v)),
    complex: lambda v: _tagged(b"complex", _float(v.real) + _float(v.imag)),
    type(...): lambda _: b"ellipsis\0",
}


# --------------------------------------------------------------------------- handlers, in order
# Each looks at a value and tells whether it was its own.


def _containers(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    kind = type(value)
    if kind is list or kind is tuple:
        hasher.each(kind.__name__.encode(), value, put)
    elif kind is dict:
        hasher.each(b"dict", (part for item in value.items() for part in item), put)
    elif kind is set or kind is frozenset:
        digests = sorted(_Hasher().of(part) for part in value)
        put(_tagged(kind.__name__.encode(), b"".join(digests)))
    elif kind in (range, slice):
        hasher.each(kind.__name__.encode(), (value.start, value.stop, value.step), put)
    else:
        return False
    return True


def _own(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    """What tells its fingerprint itself: partitions, and classes of users that care."""
    own = getattr(type(value), "__headrace_fingerprint__", None)
    if own is None:
        return False
    hasher.named("own", value, own(value), put)
    return True


def _standard(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    match value:
        case enum.Enum():
            hasher.named("enum", value, (value.name, value.value), put)
        case datetime():
            zone = value.tzinfo
            moment = (value.replace(tzinfo=None).isoformat(), value.fold, _zone(zone, value))
            hasher.named("datetime", value, moment, put)
        case time():
            hasher.named("time", value, (value.isoformat(), value.fold, _zone(value.tzinfo)), put)
        case date():
            hasher.named("date", value, value.isoformat(), put)
        case timedelta():
            fine = (value.microseconds, getattr(value, "nanoseconds", 0))  # pandas has these, too
            hasher.named("delta", value, (value.days, value.seconds, *fine), put)
        case Decimal():
            hasher.named("decimal", value, str(value), put)
        case Fraction():
            hasher.named("fraction", value, (value.numerator, value.denominator), put)
        case UUID():
            hasher.named("uuid", value, value.bytes, put)
        case PurePath():
            put(_tagged(b"path", str(value).encode("utf-8", "surrogateescape")))
        case types.ModuleType():
            put(_tagged(b"module", value.__name__.encode()))
            if is_own_module(value.__name__):
                _sources(hasher, (value.__name__,), put)
        case _:
            return False
    return True


def _zone(zone: tzinfo | None, moment: datetime | None = None) -> Any:
    if zone is None:
        return None
    key = getattr(zone, "key", None) or getattr(zone, "zone", None)
    return key if isinstance(key, str) else (str(zone), str(zone.utcoffset(moment)))


def _locks(_hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    """All are alike: nothing can be computed from one."""
    if not isinstance(value, _LOCKS):
        return False
    put(_tagged(b"lock", type(value).__name__.encode()))
    return True


def _records(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        cached = functools.cached_property  # not there before somebody asks for them
        for name, more in getattr(value, "__dict__", {}).items():
            if not isinstance(getattr(type(value), name, None), cached):
                parts.setdefault(name, more)
        hasher.named("dataclass", value, parts, put)
    elif hasattr(type(value), "model_fields") and hasattr(value, "__pydantic_fields_set__"):
        extra = getattr(value, "__pydantic_extra__", None)
        private = getattr(value, "__pydantic_private__", None)
        hasher.named("model", value, (dict(value.__dict__), extra, private), put)
    elif isinstance(value, tuple) and hasattr(type(value), "_fields"):
        hasher.named("namedtuple", value, tuple(cast("tuple[Any, ...]", value)), put)
    else:
        return False
    return True


def _arrays(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    """numpy, Arrow, pandas and polars, looked up only where they are imported already."""
    root = type(value).__module__.partition(".")[0]
    if root == "numpy":
        return _numpy(hasher, value, put)
    if root == "pyarrow":
        return _arrow(hasher, value, put)
    if root == "pandas" and type(value).__name__ in ("DataFrame", "Series"):
        return _pandas(hasher, value, put)
    if root == "polars" and type(value).__name__ in ("DataFrame", "Series"):
        frame = value.to_frame() if type(value).__name__ == "Series" else value
        put(_tagged(b"polars", type(value).__name__.encode()))
        hasher.feed([(name, str(kind)) for name, kind in frame.schema.items()], put)
        hasher.feed(frame.to_arrow(), put)
        return True
    return False


def _numpy(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    np = sys.modules["numpy"]
    if not isinstance(value, (np.ndarray, np.generic)):
        return False
    put(_tagged(b"numpy", type(value).__qualname__.encode()))
    hasher.feed((np.lib.format.dtype_to_descr(value.dtype), value.shape), put)
    if isinstance(value, np.ma.MaskedArray):
        hasher.feed((np.asarray(value.filled(0)), np.ma.getmaskarray(value)), put)
    elif value.dtype.hasobject:
        hasher.each(b"objects", np.asarray(value).ravel().tolist(), put)
    else:
        put(_tagged(b"data", np.ascontiguousarray(value).tobytes()))
    return True


def _arrow(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    pa = sys.modules["pyarrow"]
    name = type(value).__name__.encode()
    if isinstance(value, (pa.Schema, pa.Field)):
        schema = value if isinstance(value, pa.Schema) else pa.schema([value])
        put(_tagged(b"arrow-" + name, schema.serialize().to_pybytes()))
        return True
    if isinstance(value, pa.DataType):
        put(_tagged(b"arrow-type", pa.schema([("x", value)]).serialize().to_pybytes()))
        return True
    if isinstance(value, pa.Scalar):
        value = pa.array([value.as_py()], value.type)
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        table = pa.table({"": value})
        kind = b"array"
    elif isinstance(value, (pa.Table, pa.RecordBatch)):
        table = pa.Table.from_batches([value]) if isinstance(value, pa.RecordBatch) else value
        kind = b"table"
    else:
        return False
    put(_tagged(b"arrow-" + kind, table.schema.serialize().to_pybytes()))
    put(_LENGTH.pack(table.num_rows))
    sink = pa.BufferOutputStream()
    # Equal content, however it is cut into chunks and wherever its slices begin.
    whole = table.combine_chunks()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    put(_tagged(b"data", sink.getvalue().to_pybytes()))
    return True


def _pandas(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    frame = value.to_frame() if type(value).__name__ == "Series" else value
    put(_tagged(b"pandas", type(value).__name__.encode()))
    names = getattr(value, "name", None)
    hasher.feed((names, list(frame.columns), list(frame.columns.names)), put)
    hasher.feed(list(frame.index.names), put)
    for level in range(frame.index.nlevels):
        _pandas_column(hasher, frame.index.get_level_values(level), put)
    for place in range(frame.shape[1]):
        _pandas_column(hasher, frame.iloc[:, place], put)
    return True


def _pandas_column(hasher: _Hasher, column: Any, put: Callable[[bytes], None]) -> None:
    hasher.feed(str(column.dtype), put)
    if str(column.dtype) == "category":
        hasher.feed((list(column.dtype.categories), column.dtype.ordered), put)
    hasher.feed(column.to_numpy(), put)


def _code(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> bool:
    if isinstance(value, functools.partial):
        part = cast("functools.partial[Any]", value)
        hasher.named("partial", value, (part.func, part.args, part.keywords), put)
    elif isinstance(value, types.MethodType):
        hasher.each(b"method", (value.__func__, value.__self__), put)
    elif isinstance(value, types.BuiltinFunctionType):
        owner = value.__self__
        named = owner is None or isinstance(owner, types.ModuleType)
        put(_tagged(b"builtin", f"{value.__module__}.{value.__qualname__}".encode()))
        if not named:
            hasher.feed(owner, put)
    elif isinstance(value, types.FunctionType):
        put(_tagged(b"function", _remembered(hasher, value, _function)))
    elif isinstance(value, types.CodeType):
        put(_tagged(b"code", _remembered(hasher, value, _code_object)))
    elif isinstance(value, type):
        put(_tagged(b"class", _remembered(hasher, value, _class)))
    elif callable(getattr(value, "fn", None)) and isinstance(value.fn, types.FunctionType):
        hasher.each(b"task", (value.fn,), put)  # a task or flow is its function
    else:
        return False
    return True


def _remembered(
    hasher: _Hasher, value: Any, make: Callable[[_Hasher, Any, Callable[[bytes], None]], None]
) -> bytes:
    known = hasher.code.get(id(value))
    if known is None:
        digest = hashlib.blake2b(digest_size=SIZE)
        hasher.code[id(value)] = (value, b"in progress")
        make(hasher, value, digest.update)
        known = hasher.code[id(value)] = (value, digest.digest())
    return known[1]


def _is_own(module: str | None) -> bool:
    return module is None or is_own_module(module)


def _function(hasher: _Hasher, value: types.FunctionType, put: Callable[[bytes], None]) -> None:
    if not _is_own(value.__module__):
        put(f"{value.__module__}.{value.__qualname__}".encode())
        return
    code = value.__code__
    cells = [_cell(cell) for cell in value.__closure__ or ()]
    hasher.each(b"parts", (code, value.__defaults__, value.__kwdefaults__, cells), put)
    for name, model in models_of(value).items():
        put(_tagged(b"model", name.encode()))
        hasher.feed(model, put)
    for name in sorted(_names(code)):
        if name in value.__globals__:
            put(_tagged(b"global", name.encode()))
            hasher.feed(value.__globals__[name], put)
    _sources(hasher, _imported(value), put)


def _imported(value: types.FunctionType) -> list[str]:
    """Modules that a function's own import statements name."""
    return sorted(set(imports_of(value)))


def _sources(hasher: _Hasher, names: Iterable[str], put: Callable[[bytes], None]) -> None:
    """The texts of the user's own modules, and of those that they import."""
    for name, source in sorted(own_sources(names).items()):
        hasher.feed((name, source.text), put)


def source_parts(function: Callable[..., Any], *, outside: bool = True) -> dict[str, bytes]:
    """Fingerprints of a function's code and of all that it refers to, by what they are.

    Without ``outside``, of the function itself and of the variables that it closes over.

    Raises
    ------
    FingerprintError
        Names the part that has none.
    """
    if not isinstance(function, types.FunctionType) or not _is_own(function.__module__):
        return {"source": fingerprint(function)}
    code = function.__code__
    parts: dict[str, Any] = {"source": (code, function.__defaults__, function.__kwdefaults__)}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        parts[f"closure variable {name!r}"] = _cell(cell)
    for name, model in models_of(function).items() if outside else ():
        parts[f"model {name!r}"] = model
    for name in sorted(_names(code)):
        if outside and name in function.__globals__:
            parts[f"global {name!r}"] = function.__globals__[name]
    found: dict[str, bytes] = {}
    for what, part in parts.items():
        try:
            found[what] = fingerprint(part)
        except FingerprintError as error:
            raise FingerprintError(f"{what}: {error}") from None
    for name, source in sorted(own_sources(_imported(function) if outside else ()).items()):
        found[f"module {name!r}"] = fingerprint(source.text)
    return found


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= _names(const)
    return found


def _code_object(hasher: _Hasher, code: types.CodeType, put: Callable[[bytes], None]) -> None:
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    put(_tagged(b"bytecode", code.co_code))
    hasher.feed((names, counts), put)
    hasher.each(b"consts", code.co_consts, put)


def _class(hasher: _Hasher, value: type, put: Callable[[bytes], None]) -> None:
    put(f"{value.__module__}.{value.__qualname__}".encode())
    if not _is_own(value.__module__):
        return
    hasher.each(b"bases", value.__bases__, put)
    if hasattr(value, "__pydantic_validator__"):
        fields: Mapping[str, Any] = getattr(value, "model_fields", {})
        for name, field in fields.items():
            default = (field.default, field.default_factory)
            hasher.feed((name, str(field.annotation), str(field.metadata), default), put)
    for name, member in sorted(vars(value).items()):
        inner = getattr(member, "__func__", member)
        if isinstance(inner, property):
            inner = (inner.fget, inner.fset, inner.fdel)
        elif isinstance(inner, functools.cached_property):
            inner = inner.func
        counts = isinstance(inner, (types.FunctionType, int, float, str, bytes, tuple))
        if name in _NO_CODE or isinstance(inner, _SLOTS) or (name[:2] == "__" and not counts):
            continue
        put(_tagged(b"member", name.encode()))
        digest = hashlib.blake2b(digest_size=SIZE)
        try:
            hasher.feed(inner, digest.update)
        except FingerprintError:  # a lock, a handle: no part of what the class does with its data
            put(type(inner).__qualname__.encode())
        else:
            put(digest.digest())


_HANDLERS: tuple[Callable[[_Hasher, Any, Callable[[bytes], None]], bool], ...] = (
    _containers,
    _own,
    _standard,
    _locks,
    _records,
    _arrays,
    _code,
)


def _reduced(hasher: _Hasher, value: Any, put: Callable[[bytes], None]) -> None:
    """Any other object, by how it pickles: its class, its arguments, its state."""
    if isinstance(value, (types.GeneratorType, types.CoroutineType)) or hasattr(value, "__next__"):
        raise _none(value, "it is consumed when it is read")
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        how: Any = value.__reduce_ex__(4) if reduce is None else reduce(value)
    except Exception as error:  # a user's class may raise anything
        raise _none(value, str(error)) from error
    if isinstance(how, str):
        put(_tagged(b"global", f"{type(value).__module__}.{how}".encode()))
        return
    make, arguments, state, items, pairs, *_ = [*how, None, None, None, None]
    if isinstance(state, Mapping):
        state = dict(cast("Mapping[Any, Any]", state))
    hasher.named("object", value, (make, arguments, state), put)
    hasher.each(b"items", items or (), put)
    hasher.each(b"pairs", pairs or (), put)


def _none(value: Any, why: str) -> FingerprintError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return FingerprintError(
        f"a {kind} has no fingerprint ({why}), so what is computed from it cannot be recognised. "
        "Give its class a method __headrace_fingerprint__ that returns what tells it apart, or the "
        "task a cache_key_fn, or cache_policy=NO_CACHE."
    )
