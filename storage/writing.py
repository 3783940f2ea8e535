"""Writing a dataset: as mapped tasks of the current flow run, or here where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pyarrow as pa

from ..core.annotations import unmapped
from ..core.context import FLOW_RUN, TASK_RUN
from ..core.tasks import task
from .datasets import Dataset, open_dataset
from .exchange import ByContent
from .grouping import groups_of
from .locations import parse_location
from .making import Input
from .operating import PARTITION_BYTES
from .shares import Share, plain_schema, with_places
from .splitting import by_bytes, by_rows
from .steps import scatter
from .targets import Target

CHUNK_BYTES = 32 << 20


def write_dataset(
    dataset: Dataset,
    uri: Any,
    *,
    format: str,
    partition_by: Sequence[str],
    mode: str,
    options: Mapping[str, Any],
    max_rows: int | None,
    max_bytes: int,
) -> Dataset:
    """See `Dataset.write`."""
    flow_run = FLOW_RUN.get() if TASK_RUN.get() is None else None
    target = Target(
        parse_location(uri),
        options,
        dataset.schema if flow_run is None else plain_schema(dataset.schema),
        format,
        tuple(partition_by),
        mode,
        max_rows,
        max_bytes,
        # The same in a resumed run, whose flow makes the same calls in the same order.
        os.urandom(8).hex()
        if flow_run is None
        else f"{flow_run.engine.run_id}-{len(flow_run.nodes)}",
    )
    if flow_run is None:
        _write_here(dataset, target)
    else:
        _write_in_flow(dataset, target)
    return open_dataset(uri, format=format, storage_options=options)


def _write_here(dataset: Dataset, target: Target) -> None:
    kept = target.begin()
    if kept is None:
        return
    writer = target.writer(dataset.__headrace_origins__())
    try:
        for batch in dataset.iter_batches():
            writer.write(pa.Table.from_batches([batch]))
        files = [file.record() for file in writer.close()]
    except BaseException:
        writer.discard()
        target.clean()
        raise
    target.commit(kept, files)


def _write_in_flow(dataset: Dataset, target: Target) -> None:
    """Each item writes files of its own; the last task makes them count.

    What is staged stays where an item fails, so that a resumed run need not write it again.
    """
    kept = begin.submit(target).result()
    if kept is None:
        return
    source = Input("write", dataset)
    if target.partition_by:
        buckets = source.buckets(PARTITION_BYTES)
        inputs = source.shares(PARTITION_BYTES)
        arrange = ByContent(target.partition_by)
        shares = source.task(scatter).map(
            inputs, buckets, PARTITION_BYTES // 2, arrange, source.after
        )
        files = write_folders.map(
            range(buckets), [target] * buckets, unmapped(shares), buckets, PARTITION_BYTES
        )
    else:
        most = target.max_rows
        groups = by_bytes(source.pieces, target.max_bytes)
        if most is not None and source.scan.filter is None:
            groups = by_rows(source.pieces, most)
        parts = with_places(groups, source.scan)
        files = write_share.map(range(len(parts)), parts, [target] * len(parts), source.after)
    files.wait()
    if not files.state.is_completed():
        files.result()
    commit.submit(target, kept, cast("Any", files)).result()


@task(name="write-begin")
def begin(target: Target) -> list[dict[str, Any]] | None:
    """Look at what is there already."""
    return target.begin()


@task(name="write")
def write_share(number: int, share: Share, target: Target, after: Dataset) -> list[dict[str, Any]]:
    """Write a share's rows, in order."""
    del after
    writer = target.writer(share.__headrace_origins__(), f"part-{number:05d}")
    try:
        for table, _ in share.chunks(CHUNK_BYTES):
            writer.write(table)
        return [file.record() for file in writer.close()]
    finally:
        writer.discard()


@task(name="write")
def write_folders(
    bucket: int, target: Target, shares: Dataset, buckets: int, size: int
) -> list[dict[str, Any]]:
    """Write all rows of some folders, one folder after the other."""
    writer = target.writer(shares.__headrace_origins__(), f"part-{bucket:05d}")
    try:
        for group in groups_of(shares, target.partition_by, bucket, buckets, size, streaming=True):
            for batch in group if isinstance(group, pa.RecordBatchReader) else group.to_batches():
                writer.write(pa.Table.from_batches([batch]))
            writer.finish_folders()
        return [file.record() for file in writer.close()]
    finally:
        writer.discard()


@task(name="write-commit")
def commit(target: Target, kept: list[Any], files: list[Any]) -> None:
    """Make what was written count."""
    target.commit(kept, [file for each in files for file in each])
