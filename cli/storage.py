"""``headrace storage``: what runs take in a store, and what of it can go."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from uuid import UUID

import click

from ..core.durations import seconds_of
from ..core.errors import RunError
from ..core.interfaces import Store
from ..core.registry import open_store
from ..core.removal import delete_run, is_live
from ..core.runs import settled_history
from ..core.settings import get_settings
from ..storage import housekeeping
from ..storage.housekeeping import Finding, Reason, Usage
from .main import print_json
from .spans import SPAN
from .tables import table

_TOLD = {
    Reason.UNLISTED: "partitions that no journal lists",
    Reason.UNFINISHED: "half-written files",
    Reason.UNKNOWN: "of no known run",
    Reason.EXPIRED: "older than the retention",
}
_storage_option = click.option("--storage", "url", metavar="URL", help="In place of the settings'.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


@click.group()
def storage() -> None:
    """See what runs take in a store, and free it."""


def _open(url: str | None) -> Store:
    settings = get_settings()
    return open_store(url or settings.storage_url, settings.plain_storage_options())


@storage.command()
@_storage_option
@click.option("--by-flow", is_flag=True, help="One line per flow.")
@_json_option
def usage(url: str | None, by_flow: bool, as_json: bool) -> None:
    """Print what runs take: bytes, objects, and their age."""
    from ..display.formats import duration, size

    store, now = _open(url), time.time()
    found = housekeeping.usage(store)
    if by_flow:
        flows = _by_flow(found)
        if as_json:
            print_json([{"flow": flow, "runs": runs, **_sums(uses)} for flow, runs, uses in flows])
            return
        rows = [
            (flow or "?", runs, size(_sums(uses)["bytes"]), f"{_sums(uses)['objects']:,}",
             duration(now - _sums(uses)["modified"]))
            for flow, runs, uses in flows
        ]  # fmt: skip
        click.echo(table(("flow", "runs", "size", "objects", "age"), rows, "no runs"))
        return
    if as_json:
        print_json([asdict(use) for use in found])
        return
    rows = [
        (use.run[:8], use.name or "?", use.flow or "?", size(use.bytes), f"{use.objects:,}",
         duration(now - use.modified))
        for use in found
    ]  # fmt: skip
    click.echo(table(("id", "name", "flow", "size", "objects", "age"), rows, "no runs"))
    click.echo(f"{size(sum(use.bytes for use in found))} in {len(found)} runs of {store.url}")


def _by_flow(found: Sequence[Usage]) -> list[tuple[str, int, list[Usage]]]:
    """(flow, runs, their usages), the largest first."""
    flows: dict[str, list[Usage]] = defaultdict(list)
    for use in found:
        flows[use.flow].append(use)
    listed = [(flow, len(uses), uses) for flow, uses in flows.items()]
    return sorted(listed, key=lambda each: -_sums(each[2])["bytes"])


def _sums(uses: Sequence[Usage]) -> dict[str, float]:
    return {
        "bytes": sum(use.bytes for use in uses),
        "objects": sum(use.objects for use in uses),
        "modified": max(use.modified for use in uses),
    }


@storage.command()
@_storage_option
@click.option(
    "--grace", type=SPAN, default="1d", show_default=True, help="Leave what is younger alone."
)
@click.option(
    "--retention",
    type=SPAN,
    help="Delete older runs [default: HEADRACE_STORAGE_RETENTION, or none]",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_json_option
def sweep(
    url: str | None, grace: float, retention: float | None, dry_run: bool, as_json: bool
) -> None:
    """Remove what nobody needs: leftovers, and runs older than the retention.

    Nothing of a run goes whose driver seems to be alive.
    """
    store, history, told = _open(url), settled_history(), get_settings().storage_retention
    if retention is None and told:
        retention = seconds_of(told)

    def alive(run_id: str) -> bool | None:
        return is_live(history, run_id)

    def found(runs: Sequence[str] | None = None) -> list[Finding]:
        return housekeeping.survey(
            store, alive=alive, now=time.time(), grace=grace, retention=retention, runs=runs
        )

    removed: list[Finding] = []
    for finding in found():
        if not dry_run:
            if finding not in found([finding.run]):  # resumed, or touched otherwise, since then
                continue
            if finding.reason is Reason.EXPIRED and alive(finding.run) is not None:
                try:
                    delete_run(history, UUID(finding.run), store)
                except RunError as error:
                    click.echo(f"kept: {error}", err=True)
                    continue
            else:
                housekeeping.remove(store, finding)
        removed.append(finding)
        if not as_json:
            verb = "would remove" if dry_run else "removed"
            click.echo(
                f"{verb} {finding.bytes:,} bytes in {finding.objects:,} objects of run "
                f"{finding.run}: {_TOLD[finding.reason]}"
            )
    total = sum(finding.bytes for finding in removed)
    if as_json:
        print_json({"dry_run": dry_run, "bytes": total, "found": [asdict(f) for f in removed]})
        return
    verb = "could be freed" if dry_run else "freed"
    click.echo(f"{total:,} bytes {verb} in {store.url}")
