"""Marks that a caller puts around an argument: `unmapped`, `allow_failure`, `quote`.

They are read where a call is taken apart, and never reach the task's function.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, final

T_co = TypeVar("T_co", covariant=True)


class Annotation(Generic[T_co]):
    """A value with a mark. Frozen and picklable; equal when mark and value are."""

    __slots__ = ("value",)

    value: T_co

    def __init__(self, value: T_co) -> None:
        object.__setattr__(self, "value", value)

    def unwrap(self) -> T_co:
        """The value itself."""
        return self.value

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__}(...) is frozen")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value,)

    def __eq__(self, other: object) -> bool:
        return (
            type(self) is type(other)
            and isinstance(other, Annotation)
            and bool(self.value == other.value)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"


@final
class unmapped(Annotation[T_co]):  # noqa: N801 - Prefect's name
    """In ``task.map``: every item gets this value whole, iterable or not."""

    __slots__ = ()


@final
class allow_failure(Annotation[T_co]):  # noqa: N801 - Prefect's name
    """Around a future: if it did not complete, pass its exception on instead of not running."""

    __slots__ = ()


@final
class quote(Annotation[T_co]):  # noqa: N801 - Prefect's name
    """Take the value as it is: it is not searched for futures, and not mapped over."""

    __slots__ = ()

    def unquote(self) -> T_co:
        """The value itself."""
        return self.value
