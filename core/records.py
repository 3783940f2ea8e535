"""The journal's records: receipts and nodes as JSON, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .interfaces import Part, Positions, Receipt, Report

if TYPE_CHECKING:
    from .nodes import Node


def receipt_record(receipt: Receipt) -> dict[str, Any]:
    """A receipt as JSON, without its inline bytes."""
    part = receipt.part
    rows = receipt.rows if isinstance(receipt.rows, int) else list(receipt.rows)
    return {
        "type": "receipt",
        "node": receipt.node,
        "batch": receipt.batch,
        "attempt": receipt.attempt,
        "part": [part.path, part.format, part.kind, part.bytes, part.rows, part.checksum],
        "positions": _flat(receipt.positions),
        "rows": rows,
        "started": receipt.started,
        "ended": receipt.ended,
        "busy": receipt.busy_seconds,
    }


def receipt_of(record: Mapping[str, Any]) -> Receipt:
    """The receipt of a journal record."""
    rows = record["rows"]
    return Receipt(
        node=record["node"],
        batch=record["batch"],
        attempt=record["attempt"],
        part=Part(*record["part"]),
        positions=_runs(record["positions"]),
        rows=rows if isinstance(rows, int) else tuple(rows),
        started=record["started"],
        ended=record["ended"],
        busy_seconds=record["busy"],
    )


def node_record(node: Node) -> dict[str, Any]:
    """An ended node as JSON: its receipts are records of their own."""
    return {
        "type": "node",
        "node": node.id,
        "key": node.key,
        "state": node.state,
        "total": node.items.size,
        "counts": node.items.named_counts(),
    }


def with_receipts(report: Report, receipts: tuple[Receipt, ...]) -> Report:
    """A report with other receipts."""
    return dataclasses.replace(report, receipts=receipts)


def _flat(positions: Positions) -> list[int]:
    return [bound for run in positions.runs for bound in run]


def _runs(flat: Sequence[int]) -> Positions:
    return Positions(tuple(zip(flat[::2], flat[1::2], strict=True)))
