"""What ``task.map`` maps over, and what it passes whole.

As in Prefect, every iterable argument is mapped over, except text, bytes and open files; what is
not iterable, or is `unmapped`, goes whole to every item. Beyond Prefect, some iterables are one
value to whoever passes them, and go whole as well: mappings, pydantic models, tables and data
frames (pyarrow, pandas, polars; iterating over one would give its columns or their names), and
what is `quote`-d. Arrays and series (numpy, pyarrow, pandas, polars) are mapped over along their
first axis. Nothing is consumed here: the iterable is pulled as items are needed.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, cast

from .annotations import allow_failure, quote, unmapped
from .binding import Shape
from .errors import MappingError
from .futures import Future

_WHOLE = frozenset(
    {
        ("pyarrow", "Table"),
        ("pyarrow", "RecordBatch"),
        ("pandas", "DataFrame"),
        ("polars", "DataFrame"),
        ("polars", "LazyFrame"),
    }
)


def is_iterable(value: Any) -> bool:
    """Whether ``map`` maps over a value (see the module's own text for the rule)."""
    if isinstance(value, (str, bytes, bytearray, memoryview, io.IOBase, Mapping, quote)):
        return False
    if isinstance(value, Future):
        return True  # decided when its value is known, see `column`
    for cls in type(value).__mro__:
        if (cls.__module__.partition(".")[0], cls.__name__) in _WHOLE:
            return False
    if hasattr(type(value), "__pydantic_validator__"):
        return False
    try:
        iter(value)
    except TypeError:
        return False
    return True


def column(value: Any) -> Iterable[Any]:
    """What a mapped argument gives item by item, once no future stands for it any more.

    A future may turn out to hold something that is not iterable; then it goes whole to every item,
    as Prefect has it: an endless column, which ends when another one does.
    """
    return cast("Iterable[Any]", value) if is_iterable(value) else itertools.repeat(value)


@dataclass(frozen=True, slots=True)
class Split:
    """Arguments of a ``map`` call, taken apart."""

    static: dict[str, Any]
    mapped: dict[str, Any]
    allow_failure: frozenset[str]
    expected: int | None
    """Number of items, if an input's length tells it."""


class _Tuples:
    """Columns for a function's ``*args``: item by item the tuple of them."""

    def __init__(self, columns: tuple[Any, ...]) -> None:
        self.columns = columns

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        plain = (
            cast("Iterable[Any]", each.value if isinstance(each, allow_failure) else each)
            if _mapped(each)
            else itertools.repeat(each.value if isinstance(each, unmapped) else each)
            for each in self.columns
        )
        return zip(*plain, strict=False)

    def sizes(self, name: str) -> Iterator[tuple[str, int]]:
        """Known lengths, by position among the ``*args``."""
        for index, each in enumerate(self.columns):
            if _mapped(each) and (size := length(_bare(each))) is not None:
                yield f"{name}[{index}]", size

    def __len__(self) -> int:
        for _, size in self.sizes(""):
            return size
        raise TypeError("the length is not known yet")


def _bare(value: Any) -> Any:
    return cast("Any", value.value) if isinstance(value, allow_failure) else value


def _mapped(value: Any) -> bool:
    return not isinstance(value, unmapped) and is_iterable(_bare(value))


def length(value: Any) -> int | None:
    """Number of items of an iterable, None while nobody can know it."""
    if isinstance(value, Future) or not isinstance(value, Sized):
        return None
    try:
        return len(value)
    except TypeError:
        return None


def split(what: str, shape: Shape, arguments: Mapping[str, Any]) -> Split:
    """Take the arguments of a ``map`` call apart.

    Keywords that only ``**kwargs`` takes are mapped over under their own names, those of ``*args``
    together, as tuples.

    Parameters
    ----------
    what
        The task, for messages.
    arguments
        By parameter name, without the defaults (which are never mapped over).

    Raises
    ------
    MappingError
        Nothing is iterable, or known lengths differ: names the parameters.
    """
    __tracebackhide__ = True
    items = dict(arguments)
    if shape.var_keyword is not None and shape.var_keyword in items:
        items.update(items.pop(shape.var_keyword))
    mapped: dict[str, Any] = {}
    static: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for name, value in items.items():
        if name == shape.var_positional and any(map(_mapped, value)):
            mapped[name] = tuples = _Tuples(value)
            sizes.update(tuples.sizes(name))
        elif name == shape.var_positional:
            static[name] = tuple(map(_whole, value))
        elif _mapped(value):
            mapped[name] = bare = _bare(value)
            if (size := length(bare)) is not None:
                sizes[name] = size
        else:
            static[name] = _whole(value)
    if not mapped:
        raise MappingError(_nothing(what, items))
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise MappingError(
            f"{what}.map: the arguments to map over differ in length ({told}); "
            "wrap what every item should get whole in unmapped(...)"
        )
    tolerant = {name for name in mapped if isinstance(items[name], allow_failure)}
    return Split(
        _gathered(shape, static, mapped),
        mapped,
        frozenset(tolerant),
        next(iter(sizes.values()), None),
    )


def _gathered(shape: Shape, static: dict[str, Any], mapped: dict[str, Any]) -> dict[str, Any]:
    """Static arguments with the defaults, and the extra keywords under ``**kwargs``."""
    extra = {name: static.pop(name) for name in list(static) if name not in shape.names}
    if extra and shape.var_keyword is not None:
        static[shape.var_keyword] = extra
    defaults = {k: v for k, v in shape.defaults().items() if k not in mapped}
    return {**defaults, **static}


def _whole(value: Any) -> Any:
    if isinstance(value, unmapped):
        return cast("Any", value.value)
    if isinstance(value, allow_failure) and isinstance(value.value, unmapped):
        return allow_failure(cast("Any", value.value.value))
    return value


def _nothing(what: str, items: Mapping[str, Any]) -> str:
    told = ", ".join(f"{name}: {type(_bare(value)).__name__}" for name, value in items.items())
    dicts = [name for name, value in items.items() if isinstance(value, Mapping)]
    datasets = [name for name, value in items.items() if hasattr(_bare(value), "partitions")]
    hint = ""
    if dicts:
        hint = f"; {dicts[0]} goes whole to every item, use list({dicts[0]}) for its keys"
    elif datasets:
        hint = f"; for {datasets[0]} give the dataset's .partitions()"
    return (
        f"{what}.map: nothing to map over, no argument is iterable ({told or 'no arguments'}){hint}"
    )
