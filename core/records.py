"""The journal's records: receipts and nodes as JSON, and back."""

from __future__ import annotations

import dataclasses
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import StorageError
from .interfaces import Manifest, Part, Positions, Receipt, Report

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
        "part": part_fields(part),
        "positions": _flat(receipt.positions),
        "rows": rows,
        "started": receipt.started,
        "ended": receipt.ended,
        "busy": receipt.busy_seconds,
        **({"places": list(receipt.places)} if receipt.places is not None else {}),
        **({"ids": b64encode(receipt.ids).decode()} if receipt.ids else {}),
    }


def part_fields(part: Part) -> list[Any]:
    """A partition's fields, as `Part` takes them."""
    own = [part.path, part.format, part.kind, part.bytes, part.rows, part.checksum]
    return [*own, part.run] if part.run else own


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
        places=tuple(record["places"]) if "places" in record else None,
        ids=b64decode(record.get("ids", "")),
    )


def manifest_record(manifest: Manifest) -> dict[str, Any]:
    """A manifest as JSON.

    It names its receipts by path, for they are records of their own; those whose items stand at other
    positions than in their partition it holds whole.
    """
    return {
        "type": "manifest",
        "node": manifest.node,
        "key": manifest.key,
        "total": manifest.total,
        "lost": _flat(manifest.lost),
        "parts": [
            receipt_record(receipt) if is_moved(receipt) else receipt.part.path
            for receipt in manifest.receipts
        ],
        "winners": [_flat(won) for won in manifest.winners],
        "schema": None if manifest.schema is None else b64encode(manifest.schema).decode(),
    }


def manifest_of(record: Mapping[str, Any], receipts: Iterable[Receipt]) -> Manifest:
    """The manifest of a journal record, with the receipts that it names.

    Raises
    ------
    StorageError
        A receipt that it names is not among them.
    """
    by_path = {receipt.part.path: receipt for receipt in receipts if not is_moved(receipt)}
    missing = [part for part in record["parts"] if isinstance(part, str) and part not in by_path]
    if missing:
        raise StorageError(
            f"the manifest of node {record['node']} names {missing[0]}, which is unknown or dropped"
        )
    return Manifest(
        record["node"],
        record["key"],
        tuple(
            by_path[part] if isinstance(part, str) else receipt_of(part) for part in record["parts"]
        ),
        record["total"],
        _runs(record["lost"]),
        tuple(_runs(won) for won in record["winners"]),
        None if record["schema"] is None else b64decode(record["schema"]),
    )


def is_moved(receipt: Receipt) -> bool:
    """Its items are at other positions than the partition tells: others may stand for it, too."""
    return receipt.places is not None or bool(receipt.part.run)


def dropped_record(node: int, paths: Sequence[str]) -> dict[str, Any]:
    """Partitions that are removed, as JSON: what other records say of them holds no more."""
    return {"type": "dropped", "node": node, "parts": list(paths)}


def given_record(path: str, index: int, node: int, positions: Positions) -> dict[str, Any]:
    """Where the inputs of failed items are kept, as JSON (`core.given`)."""
    return {
        "type": "given",
        "path": path,
        "index": index,
        "node": node,
        "positions": _flat(positions),
    }


def given_in(records: Iterable[Mapping[str, Any]], node: int) -> dict[int, tuple[str, int]]:
    """By position: object and index of a node's inputs that are kept, the newest ones."""
    return {
        position: (record["path"], record["index"])
        for record in records
        if record["type"] == "given" and record["node"] == node
        for position in _runs(record["positions"])
    }


def receipts_of(records: Sequence[Mapping[str, Any]], node: int) -> list[Receipt]:
    """A node's receipts by its last manifest; before there is one, all that were not dropped."""
    manifest = manifest_in(records, node)
    return _own(records, node) if manifest is None else list(manifest.receipts)


def manifest_in(records: Sequence[Mapping[str, Any]], node: int) -> Manifest | None:
    """A node's last manifest; None before there is one."""
    last = None
    for record in records:
        if record["type"] == "manifest" and record["node"] == node:
            last = record
        elif record["type"] == "opened" and record["node"] == node:
            last = None  # another driver has begun it again
    return None if last is None else manifest_of(last, _own(records, node))


def _own(records: Iterable[Mapping[str, Any]], node: int) -> list[Receipt]:
    return [receipt for receipt in receipts_in(records) if receipt.node == node]


def receipts_in(records: Iterable[Mapping[str, Any]]) -> list[Receipt]:
    """The receipts of a journal whose partitions were not dropped: those of the last driver first.

    In a later driver's run the items of a partition may stand elsewhere, in several receipts.
    """
    found: dict[tuple[int, str], tuple[int, list[Receipt]]] = {}
    dropped: set[str] = set()
    driver = 0
    for record in records:
        if record["type"] == "receipt":
            receipt = receipt_of(record)
            key = receipt.node, receipt.part.path
            since, own = found.get(key, (driver, []))
            if since != driver or not is_moved(receipt):
                own = []
            found[key] = driver, [*own, receipt]
        elif record["type"] == "dropped":
            dropped.update(record["parts"])
        elif record["type"] == "driver":
            driver = record["generation"]
    kept = sorted(found.values(), key=lambda each: -each[0])
    return [r for _, own in kept for r in own if r.part.run or r.part.path not in dropped]


def opened_record(node: Node) -> dict[str, Any]:
    """A node that begins, as JSON: whose number is this?"""
    return {"type": "opened", "node": node.id, "key": node.key, "code": node.code}


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
