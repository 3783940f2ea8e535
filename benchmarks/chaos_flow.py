"""The flow of `chaos.py`: its results are known, and each start of an item is noted outside headrace.

``python chaos_flow.py ITEMS TARGET`` starts a run, tells its id, and waits for its end.
"""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Any

from headrace import flow, task

TASKS = ("make", "tell")
"""Those whose starts are noted; writing the dataset is a task, too."""
INFRA_RETRIES = 100
"""Children are killed all the time: no item shall be suspected of it."""


def started(name: str, item: int) -> None:
    """One line a start, safe on the disk before the work begins."""
    line = f"{name} {item} {time.time()!r} {os.getpid()}\n".encode()
    descriptor = os.open(os.environ["CHAOS_STARTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seconds(item: int) -> float:
    """What an item takes: some milliseconds, one in a hundred almost half a second."""
    return 0.4 if item % 100 == 99 else random.Random(item).uniform(0.002, 0.02)


@task(infra_retries=INFRA_RETRIES)
def make(item: int) -> dict[str, Any]:
    started("make", item)
    time.sleep(seconds(item))
    return {"item": item, "square": item * item}


@task(infra_retries=INFRA_RETRIES)
def tell(row: dict[str, Any]) -> dict[str, Any]:
    started("tell", row["item"])
    return {**row, "text": f"{row['square']:x}" * (row["item"] % 5)}


def oracle(items: int) -> list[dict[str, Any]]:
    """The rows of the dataset."""
    squares = ((item, item * item) for item in range(items))
    return [{"item": n, "square": square, "text": f"{square:x}" * (n % 5)} for n, square in squares]


def executor() -> Any:
    """Where it runs: a name, or an engine at an address."""
    name, address = os.environ.get("CHAOS_EXECUTOR", "processes"), os.environ.get("CHAOS_ADDRESS")
    if name == "dask" and address:
        from headrace.executors.dask import DaskExecutor

        return DaskExecutor(address=address)
    if name == "ray" and address:
        from headrace.executors.ray import RayExecutor

        return RayExecutor(address=address)
    return name


@flow(executor=executor())
def job(items: int, target: str) -> int:
    told = tell.map(make.map(range(items)))
    told.dataset().write(target, mode="overwrite")
    return items


if __name__ == "__main__":
    run = job.start(int(sys.argv[1]), sys.argv[2])
    print(run.id, flush=True)
    run.result()
