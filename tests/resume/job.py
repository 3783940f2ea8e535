"""A flow of ``__main__``, as in a script: it counts the starts of its items in a file.

``python job.py SIZE`` starts a run, tells its id, and waits for its result.
"""

import os
import sys
import time

from headrace import flow, task


def started(what: str) -> None:
    """One line a start, in one write, so that no process loses another one's."""
    with open(os.environ["STARTS"], "ab", buffering=0) as file:
        file.write(f"{what}\n".encode())


@task
def numbers(first: int, size: int) -> list[int]:
    started(f"numbers {first}")
    return list(range(first, first + size))


@task
def add_one(number: int) -> int:
    started(f"add_one {number}")
    time.sleep(0.004)
    return number + 1


@task
def double(number: int) -> int:
    started(f"double {number}")
    return number * 2


@task
def total(values: list[int]) -> int:
    started("total")
    return sum(values)


@flow
def half(first: int, size: int) -> int:
    return total(double.map(add_one.map(numbers.submit(first, size))))


@flow(executor=os.environ.get("EXECUTOR", "processes"))
def job(size: int) -> list[int]:
    return [half(0, size), half(size, size)]


if __name__ == "__main__":
    run = job.start(int(sys.argv[1]))
    print(run.id, flush=True)
    run.result()
