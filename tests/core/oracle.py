"""What every item's state must be in the end, by a serial rule of a few lines."""

from __future__ import annotations

from core.simulated import NodeSpec

from headrace.core.items import ItemState

GOOD = {"COMPLETED"}
FAILED = {"FAILED", "TIMED_OUT", "CRASHED"}


def expected(specs: list[NodeSpec]) -> list[tuple[str, list[str]]]:
    """Per node its state and its items' names, as `Simulation.states` gives them."""
    out: list[tuple[str, list[str]]] = []
    cut: list[bool] = []
    """Whose input, or that of the map before it, did not come to its end."""
    for spec in specs:
        skip = any(
            not may_fail
            and (
                out[other][0] != "Completed"
                if item is None
                else item >= len(out[other][1]) or out[other][1][item] not in GOOD
            )
            for other, item, may_fail in spec.waits
        )
        single = spec.size is None and spec.link is None
        link = None if spec.link is None else out[spec.link]
        if skip and link is None:
            items = ["SKIPPED"] if single else []
        elif link is not None:
            items = [
                "SKIPPED"
                if skip or (up not in GOOD and not spec.allow_failure)
                else item_state(spec, position)
                for position, up in enumerate(link[1])
            ]
        else:
            items = [item_state(spec, p) for p in range(1 if single else spec.size or 0)]
        before = spec.link is not None and cut[spec.link] and not spec.allow_failure
        cut.append(before or spec.raises or (skip and link is None))
        out.append((node_state(spec, items, skip, link, before), items))
    return out


def item_state(spec: NodeSpec, position: int) -> str:
    script, options = spec.script(position), spec.options
    if not script.times:
        return "COMPLETED"
    if script.what == "kill":
        return "COMPLETED" if script.times <= options.infra_retries else "CRASHED"
    if script.what in ("error", "timeout", "late") and script.times <= options.retries:
        return "COMPLETED"
    return "TIMED_OUT" if script.what in ("timeout", "late") else "FAILED"


def node_state(
    spec: NodeSpec, items: list[str], skip: bool, link: tuple[str, list[str]] | None, cut: bool
) -> str:
    if skip:
        return "Skipped"
    if spec.raises:
        return "Failed"
    if cut:
        return "Skipped" if items.count("SKIPPED") == len(items) else "Failed"
    if spec.size is None and link is None:
        return {s.name: s.name.title().replace("_", "") for s in ItemState}[items[0]]
    bad = [state for state in items if state in FAILED]
    if spec.options.min_success_ratio is not None and items:
        good = sum(state in GOOD for state in items)
        return "Completed" if good / len(items) >= spec.options.min_success_ratio else "Failed"
    if spec.options.on_error == "quarantine":
        return "Completed"
    if bad:
        return "Crashed" if set(bad) == {"CRASHED"} else "Failed"
    if link is not None and not items and link[0] != "Completed" and not spec.allow_failure:
        return "Skipped"
    skipped = items.count("SKIPPED")
    if skipped and link is not None and link[0] != "Completed":
        return "Skipped" if skipped == len(items) else "Failed"
    return "Completed"
