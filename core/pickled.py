"""Pickles out of a store: what is damaged is told as that, whatever unpickling makes of it."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from .errors import HeadraceError, StorageError

if TYPE_CHECKING:
    from .interfaces import RunStore


def read_pickle(store: RunStore, path: str) -> Any:
    """The object at a path. See `loads`; the store must be trusted.

    Raises
    ------
    NotFoundError
        There is none.
    """
    return loads(store.read(path), f"{store.url}/{path}")


def loads(data: bytes, where: str) -> Any:
    """An object out of its pickle.

    Raises
    ------
    StorageError
        The pickle is damaged; names it.
    ImportError, AttributeError
        Code that it refers to is not here.
    """
    try:
        return pickle.loads(data)
    except (HeadraceError, ImportError, AttributeError):
        raise
    except Exception as error:  # damaged bytes make pickle raise anything
        raise StorageError(f"{where} is damaged: {type(error).__name__}: {error}") from error
