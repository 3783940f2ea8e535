"""What the corpus job tells at its end: counts at each step, sizes and samples."""

# pyarrow has no types that a checker could read:
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .python_text import FILTERED, KEPT, QUARANTINED


def make_report(
    files: pa.Table, chosen: pa.Table, written: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Counts at each step, by reason where something was left out; sizes; a sample of each file.

    Parameters
    ----------
    files
        ``outcome, reason, size`` of every file that was listed.
    chosen
        ``split`` of every file that was written.
    written
        A line for each output file.
    """
    splits: dict[str, dict[str, int]] = {}
    for line in written:
        sums = splits.setdefault(
            line["split"], {"rows": 0, "files": 0, "text_bytes": 0, "bytes": 0}
        )
        for name, amount in (
            ("rows", line["rows"]),
            ("files", 1),
            ("text_bytes", line["text_bytes"]),
            ("bytes", line["bytes"]),
        ):
            sums[name] += amount
    kept = files.filter(pc.field("outcome") == KEPT).num_rows
    unique = chosen.filter(pc.field("split") != "quarantine").num_rows
    return {
        "steps": {
            "listed": files.num_rows,
            "listed_bytes": pc.sum(files["size"]).as_py() or 0,
            "quarantined": _by_reason(files, QUARANTINED),
            "filtered": _by_reason(files, FILTERED),
            "kept": kept,
            "duplicates": kept - unique,
            "written": unique,
        },
        "splits": splits,
        "samples": [{"split": line["split"], **line["sample"]} for line in written],
    }


def _by_reason(files: pa.Table, outcome: str) -> dict[str, int]:
    counts = files.filter(pc.field("outcome") == outcome)["reason"].value_counts().to_pylist()
    return {
        row["values"]: row["counts"]
        for row in sorted(counts, key=lambda r: (-r["counts"], r["values"]))
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The report for a reader."""
    steps = report["steps"]
    lines = ["# Corpus", "", "| step | files |", "|---|---:|", f"| listed | {steps['listed']:,} |"]
    for step in ("quarantined", "filtered"):
        lines.append(f"| {step} | {sum(steps[step].values()):,} |")
        lines += [f"| - {reason} | {count:,} |" for reason, count in steps[step].items()]
    lines += [f"| {step} | {steps[step]:,} |" for step in ("kept", "duplicates", "written")]
    lines += ["", f"Read {steps['listed_bytes'] / 1e6:,.1f} MB.", ""]
    lines += ["| split | rows | files | text, MB | stored, MB |", "|---|---:|---:|---:|---:|"]
    for split, sums in report["splits"].items():
        sizes = f"{sums['text_bytes'] / 1e6:,.2f} | {sums['bytes'] / 1e6:,.2f}"
        lines.append(f"| {split} | {sums['rows']:,} | {sums['files']:,} | {sizes} |")
    for sample in report["samples"]:
        quoted = [f"    {line}" for line in sample["head"].splitlines()]
        lines += ["", f"{sample['split']}: `{sample['path']}`", "", *quoted]
    return "\n".join(lines) + "\n"
