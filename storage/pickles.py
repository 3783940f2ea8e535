"""Pickling of what Arrow cannot hold: plain pickle where it is safe, cloudpickle elsewhere."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle

from ..core.errors import StorageError, UnstorableError

_BY_REFERENCE = (b"__main__", b"__mp_main__")


def dump(value: Any) -> bytes:
    """A pickle that another process can load, also of what ``__main__`` defines.

    Plain pickle is ten times as fast, but names the classes of ``__main__`` by reference, which
    means something else in another process: such pickles are made again by value.

    Raises
    ------
    UnstorableError
        Names the value's type and the reason.
    MemoryError
        There is no room for it: it may be tried again.
    """
    try:
        data = pickle.dumps(value, protocol=5)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever a __reduce__ raises: cloudpickle may know how
        return _dump_by_value(value)
    if any(name in data for name in _BY_REFERENCE) or cloudpickle.list_registry_pickle_by_value():
        return _dump_by_value(value)
    return data


def _dump_by_value(value: Any) -> bytes:
    try:
        return bytes(cloudpickle.dumps(value, protocol=5))
    except MemoryError:
        raise
    except Exception as error:  # user code runs in there
        raise UnstorableError(
            f"a value of type {type_name(value)} cannot be stored: it is not Arrow data and does "
            f"not pickle ({type(error).__name__}: {error}); return data, or a path to it"
        ) from error


def restore(data: bytes, where: str) -> Any:
    """The value of a pickle.

    Raises
    ------
    StorageError
        It does not unpickle here, e.g. because a module is missing.
    MemoryError
        There is no room for it.
    """
    try:
        return pickle.loads(data)
    except MemoryError:
        raise
    except Exception as error:  # user code runs in there
        raise StorageError(
            f"a pickled value in {where} cannot be loaded here ({type(error).__name__}: {error}); "
            "the modules that define its type must be importable"
        ) from error


def type_name(value: Any) -> str:
    """Qualified name of a value's class."""
    cls = type(value)
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
