"""What the live display of a notebook costs: a map of a million items in a kernel, with it and without.

    python benchmarks/display.py --n 1000000 --pairs 20

The kernel is a real one, and all that it sends is read; nobody draws it. Pairs are interleaved. The
ratio's interval holds its median in 95 of 100 cases, whatever its distribution.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import report

CELL = """
import json, sys
sys.path.insert(0, {folder!r})
import report
from headrace import flow, task
from headrace.core.settings import settings_override

@task
def work(value):
    return value + 1

@flow(executor={executor!r})
def wide(n):
    rows = work.map(range(n))
    rows.wait()
    report.check(rows.counts(), n)

def run(display, n):
    with settings_override(display=display):
        wide(n)

run("notebook", 1000)
cases = {{name: lambda name=name: run(name, {n}) for name in ("notebook", "none")}}
taken = report.interleaved(cases, {pairs})
print(json.dumps(taken))
"""


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--executor", default="processes")
    arguments = parser.parse_args()
    report.own_home()
    report.machine("ipykernel")
    told, sent = run_in_kernel(CELL.format(folder=str(Path(__file__).parent), **vars(arguments)))
    taken = {name: report.Taken(*each) for name, each in json.loads(told).items()}
    shown, bare = taken["notebook"], taken["none"]
    facts = {"n": arguments.n, "pairs": arguments.pairs, "executor": arguments.executor}
    for name in ("wall", "cores"):
        ours, theirs = getattr(shown, name), getattr(bare, name)
        low, high = report.interval([a / b for a, b in zip(ours, theirs, strict=True)])
        report.figure(
            "display",
            f"{name}_with_over_without",
            report.ratio(ours, theirs),
            "ratio",
            low=round(low, 4),
            high=round(high, 4),
            with_seconds=round(report.median(ours), 3),
            without_seconds=round(report.median(theirs), 3),
            **facts,
        )
    report.figure("display", "pictures_a_run", sent / arguments.pairs, "messages", **facts)


def run_in_kernel(cell: str) -> tuple[str, int]:
    """What a cell prints last, and how often a display of it was updated.

    Raises
    ------
    RuntimeError
        The cell raised.
    """
    from jupyter_client.manager import start_new_kernel

    printed: list[str] = []
    updates = 0

    def hear(message: dict[str, Any]) -> None:
        nonlocal updates
        content = message["content"]
        if message["msg_type"] == "update_display_data":
            updates += 1
        elif message["msg_type"] == "stream" and content["name"] == "stdout":
            printed.append(content["text"])
        elif message["msg_type"] == "error":
            print("\n".join(content["traceback"]), file=sys.stderr)

    manager, client = start_new_kernel()
    try:
        reply = client.execute_interactive(cell, timeout=None, output_hook=hear)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    if reply["content"]["status"] != "ok":
        raise RuntimeError("the cell raised")
    return "".join(printed).splitlines()[-1], updates


if __name__ == "__main__":
    main()
