"""What a dataset does that needs more than one partition: the methods, documented."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .datasets import Dataset

PARTITION_BYTES = 128_000_000


class Operations:
    """The operations of a `Dataset` that run as mapped tasks.

    In a flow each adds nodes to the run and returns at once; reading the dataset waits for them.
    Outside of a flow each is a flow run of its own, on the default executor. They are tracked,
    retried and resumed like other nodes, and go through the run's storage. In a running task they
    raise `NestedSubmitError`.

    The same rows in give the same rows out, in the same order, whatever the executor, the sizes of
    batches and of partitions. A worker holds a few times ``partition_bytes`` (a number, or
    ``"128MB"``), which is what a partition of the result aims at. Dictionary-encoded columns come
    back decoded, and views of texts and bytes as large texts and bytes.
    """

    def run_operation(self, name: str, *arguments: Any, partition_bytes: int | str) -> Any:
        """One of `storage.operations`, in the current flow run or one of its own."""
        from . import operations
        from .datasets import check_positive, parse_bytes
        from .making import in_a_flow

        size = parse_bytes(partition_bytes)
        check_positive("partition_bytes", size)
        operation: Callable[..., Any] = getattr(operations, name)
        return in_a_flow(name, lambda: operation(self, *arguments, size))

    def repartition(
        self,
        *,
        rows: int | None = None,
        bytes: int | str | None = None,
        files: int | None = None,
        partition_bytes: int | str = PARTITION_BYTES,
    ) -> Dataset:
        """The same rows in the same order, in partitions of another size.

        Parameters
        ----------
        rows, bytes, files
            So many rows each, but for the last; about so many bytes each; or so many files of equal
            numbers of rows.

        Raises
        ------
        ConfigurationError
            Not one of the three, or not positive.
        """
        aims = (rows, bytes, files)
        return self.run_operation("repartition", *aims, partition_bytes=partition_bytes)

    def compact(self, bytes: int | str = PARTITION_BYTES) -> Dataset:
        """The same rows in the same order, with small neighbouring files together.

        Parameters
        ----------
        bytes
            Size to aim at. A file of at least half of it stays as it is, and is not read.
        """
        return self.run_operation("compact", partition_bytes=bytes)

    def shuffle(self, seed: int, *, partition_bytes: int | str = PARTITION_BYTES) -> Dataset:
        """The rows in a random order, the same for a seed.

        The order follows from the seed and each row's number.
        """
        return self.run_operation("shuffle", seed, partition_bytes=partition_bytes)

    def sort(
        self,
        by: str | Sequence[str],
        descending: bool | Sequence[bool] = False,
        *,
        partition_bytes: int | str = PARTITION_BYTES,
    ) -> Dataset:
        """The rows in the order of some columns; rows with equal ones keep their order.

        Nulls come last, NaN before them, also where it descends.

        Raises
        ------
        ConfigurationError
            A column is missing, or its type has no order.
        """
        return self.run_operation("sort", by, descending, partition_bytes=partition_bytes)

    def distinct(
        self,
        on: str | Sequence[str] | None = None,
        *,
        partition_bytes: int | str = PARTITION_BYTES,
    ) -> Dataset:
        """Of rows that are equal in some columns (by default in all) the first one.

        They come in the order of a hash of these columns. Nulls are equal, NaNs are, and 0.0 and
        -0.0 are. Lists, structs and maps are compared by 128 bits of hash.

        Raises
        ------
        ConfigurationError
            A column is missing, or its type has no hash.
        """
        return self.run_operation("distinct", _names(on), partition_bytes=partition_bytes)

    def group_by(
        self, by: str | Sequence[str], *, partition_bytes: int | str = PARTITION_BYTES
    ) -> Groups:
        """Rows that are equal in some columns, for `Groups.map`. Equal means what it does in `distinct`."""
        return Groups(self, _names(by), partition_bytes)

    def split(
        self,
        fractions: Sequence[float] | Mapping[str, float],
        by: str | Sequence[str] | None = None,
        seed: int = 0,
        *,
        partition_bytes: int | str = PARTITION_BYTES,
    ) -> Any:
        """The rows in several datasets, drawn at random, each in the order that they had.

        Parameters
        ----------
        fractions
            Their shares, at most 1 in all; the rest is left out. With names, such as
            ``{"train": 0.9, "test": 0.1}``, a dict of datasets comes back, else a list.
        by
            Rows that are equal in these columns go together. What they hold decides where, so a
            row goes where it went before, however the data grows.
        seed
            Another one draws otherwise.

        Raises
        ------
        ConfigurationError
            No fractions, negative ones, or more than 1; a column is missing.
        """
        named = isinstance(fractions, Mapping)
        shares = list(cast("Any", fractions).values() if named else fractions)
        made = self.run_operation(
            "split", shares, _names(by), seed, partition_bytes=partition_bytes
        )
        return dict(zip(fractions, made, strict=True)) if named else made

    def sample(
        self,
        fraction: float | None = None,
        n: int | None = None,
        seed: int = 0,
        *,
        partition_bytes: int | str = PARTITION_BYTES,
    ) -> Dataset:
        """Rows drawn at random, each at most once, in the order that they had.

        Parameters
        ----------
        fraction
            Each row is drawn with this probability.
        n
            Exactly so many, or all where there are fewer.

        Raises
        ------
        ConfigurationError
            Both or neither, or out of range.
        """
        return self.run_operation("sample", fraction, n, seed, partition_bytes=partition_bytes)


class Groups:
    """Rows of a dataset by the values of some columns. Made by `Dataset.group_by`."""

    def __init__(self, dataset: Operations, by: tuple[str, ...], partition_bytes: int | str):
        self._dataset, self._by, self._partition_bytes = dataset, by, partition_bytes

    def map(self, fn: Callable[[Any], Any]) -> Dataset:
        """Call a function once for each group, with all of its rows in their order.

        Parameters
        ----------
        fn
            A function or a task; a task's options count for a whole bucket of groups, which is one
            item. Its parameter's annotation decides the form (``pa.Table``, ``pandas.DataFrame``,
            ``polars.DataFrame``, ``list[dict]``, ``pa.RecordBatchReader``); by default a table. It
            returns a table, a frame, a dict (a row), a list of dicts, or None. The results make a
            dataset, in the order of a hash of the groups' columns.

            A group goes through memory whole, however large, unless the function takes a
            ``pa.RecordBatchReader``: then a large one streams.

        Raises
        ------
        ConfigurationError
            A column is missing, or its type has no hash.
        """
        return self._dataset.run_operation(
            "map_groups", self._by, fn, partition_bytes=self._partition_bytes
        )


def _names(columns: str | Sequence[str] | None) -> tuple[str, ...]:
    if columns is None:
        return ()
    return (columns,) if isinstance(columns, str) else tuple(columns)
