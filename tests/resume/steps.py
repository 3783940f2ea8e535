"""Flows for drivers that are killed at a step of the commit protocol; the starts of items are noted in a file."""

import os
import time

from headrace import flow, task

SIZE = 24


def started(what: str) -> None:
    """One line a start, safe on the disk before the work begins."""
    descriptor = os.open(os.environ["STARTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{what} {time.time()!r}\n".encode())
    os.fsync(descriptor)
    os.close(descriptor)


@task
def add_one(number: int) -> int:
    started(f"add_one-0 {number}")
    time.sleep(0.002)
    return number + 1


@task
def double(number: int) -> int:
    started(f"double-0 {number - 1}")
    return number * 2


@task
def total(values: list[int]) -> int:
    started("total-0 0")
    return sum(values)


@flow(executor="threads")
def keeping(size: int) -> list[int]:
    doubled = double.map(add_one.map(range(size)))
    summed = total.submit(doubled)
    return [*doubled.result(), summed.result()]


@flow(executor="threads", intermediates="drop")
def dropping(size: int) -> list[int]:
    apart = double.with_options(resources={"cpus": 0.5})  # not fused: it reads what was committed
    return apart.map(add_one.map(range(size))).result()


def oracle(flow: str, size: int) -> list[int]:
    """What a flow returns."""
    doubled = [2 * (number + 1) for number in range(size)]
    return [*doubled, sum(doubled)] if flow == "keeping" else doubled
