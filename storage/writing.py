"""Writing a dataset: as mapped tasks of a flow run, or here in a running task."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa

from ..core.annotations import unmapped
from ..core.context import FLOW_RUN, TASK_RUN
from ..core.errors import StorageError
from ..core.futures import MapFuture
from ..core.tasks import task
from .datasets import Dataset, check_positive, open_dataset
from .exchange import ByContent
from .grouping import groups_of
from .increments import Plan, planned, sources_of
from .locations import MEMORY, parse_location
from .making import Input, check_written, in_a_flow
from .operating import PARTITION_BYTES
from .shares import Share, plain_schema, with_places
from .splitting import by_bytes, by_rows
from .steps import scatter
from .targets import Target
from .unifying import align

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
    removed: str,
) -> Dataset:
    """See `Dataset.write`."""
    check_positive("max_rows_per_file", max_rows)
    check_positive("max_bytes_per_file", max_bytes)
    in_task = TASK_RUN.get() is not None
    target = Target(
        parse_location(uri),
        options,
        _schema_of(dataset, format, partition_by),
        format,
        tuple(partition_by),
        mode,
        max_rows,
        max_bytes,
        os.urandom(8).hex(),
        removed,
    )

    def write() -> Dataset:
        (_write_here if in_task else _write_in_flow)(dataset, target)
        return open_dataset(uri, format=format, storage_options=options)

    return write() if in_task else in_a_flow("write", write)


def _schema_of(dataset: Dataset, format: str, partition_by: Sequence[str]) -> Any:
    """What is written; categories stay where files can hold them."""
    plain = plain_schema(dataset.schema)
    kept = plain_schema(dataset.schema, categories=format == "parquet")
    fields = [plain.field(field.name) if field.name in partition_by else field for field in kept]
    return pa.schema(fields, kept.metadata)


def _write_here(dataset: Dataset, target: Target) -> None:
    check_written("write", dataset.pieces, dataset.scan())
    kept = target.begin()
    if kept is None:
        return
    if target.mode == "update":
        _update_here(dataset, target, kept)
        return
    writer = target.writer(dataset.__headrace_origins__())
    plain = plain_schema(dataset.schema)  # a folder's few rows of categories would have all of them
    try:
        for batch in dataset.iter_batches():
            writer.write(align(pa.Table.from_batches([batch]), plain))
        files = [file.record() for file in writer.close()]
    except BaseException:
        writer.discard()
        target.clean()
        raise
    target.commit(kept, files)


def _update_here(dataset: Dataset, target: Target, before: list[dict[str, Any]]) -> None:
    plan = planned(
        before, dataset.pieces, dataset.scan(), target.max_bytes, target.max_rows, target.removed
    )
    try:
        made = [write_group.fn(k, part, target, dataset) for k, part in enumerate(plan.parts)]
    except BaseException:
        target.clean()
        raise
    target.commit_groups(plan.done(made, target.removed))


def _write_in_flow(dataset: Dataset, target: Target) -> None:
    """Each item writes files of its own; the last task makes them count.

    What is staged stays where an item fails, so that a resumed run need not write it again.
    """
    run = cast("Any", FLOW_RUN.get())
    if target.location.scheme == MEMORY and not run.engine.pools["main"].capabilities.in_process:
        raise StorageError(
            f"cannot write to {target.location.url}: it exists in this process only, and the workers "
            f"of the executor {run.engine.info.executor.name!r} cannot see it. Use a folder or an "
            "object store."
        )
    # The same in a resumed run, whose flow makes the same calls in the same order.
    target = replace(target, write=f"{run.engine.run_id}-{len(run.nodes)}")
    kept = begin.submit(target).result()
    if kept is None:
        return
    source = Input("write", dataset)
    if target.mode == "update":
        _update_in_flow(source, target, kept)
        return
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
    _finish(files)
    commit.submit(target, kept, cast("Any", files)).result()


def _update_in_flow(source: Input, target: Target, before: list[dict[str, Any]]) -> None:
    """Write what is not there yet; the last task makes it count, and removes what counts no more."""
    plan = planned(
        before, source.pieces, source.scan, target.max_bytes, target.max_rows, target.removed
    )
    count = len(plan.parts)
    made = write_group.map(range(count), plan.parts, [target] * count, source.after)
    _finish(made)
    commit_groups.submit(target, replace(plan, parts=[]), cast("Any", made)).result()


def _finish(files: MapFuture[Any]) -> None:
    files.wait()
    if not files.state.is_completed():
        files.result()


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
def write_group(number: int, share: Share, target: Target, after: Dataset) -> dict[str, Any]:
    """Write a share's rows, in order; tells of which files they were made."""
    sources = sources_of(share.pieces) if target.removed == "keep" else []
    return {"files": write_share.fn(number, share, target, after), "sources": sources}


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


@task(name="write-commit")
def commit_groups(target: Target, plan: Plan, made: list[Any]) -> None:
    """Make what was written count, beside what stays."""
    target.commit_groups(plan.done(made, target.removed))
