"""A running object store, as the tests see it."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec


@dataclass(frozen=True)
class ObjectStore:
    """Where it is, in fsspec's dialect and in that of the environment.

    Attributes
    ----------
    protocol
        Of its URLs: ``s3`` or ``gs``.
    storage_options
        What ``fsspec``, pandas and Dask take under this name.
    environment
        Variables that say the same to a process that is given no options.
    """

    protocol: str
    storage_options: Mapping[str, Any]
    environment: Mapping[str, str]
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def filesystem(self) -> fsspec.AbstractFileSystem:
        """A new file system on it: fsspec would share one, and its listings, otherwise."""
        return fsspec.filesystem(
            self.protocol,
            skip_instance_cache=True,
            use_listings_cache=False,
            **self.storage_options,
        )

    def new_bucket(self) -> str:
        """Make an empty bucket; return its URL."""
        name = f"test-bucket-{next(self._numbers)}"
        self.filesystem().mkdir(name)
        return f"{self.protocol}://{name}"
