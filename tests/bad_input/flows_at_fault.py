"""Flows that are given, or do, what cannot be."""

import threading

from headrace import flow, task, unmapped

LOCK = threading.Lock()


@task
def inc(x):
    return x + 1


@task
def add(x, y):
    return x + y


@task
def lock():
    return threading.Lock()


def guarded():
    """A function that holds a lock in its closure."""
    held = threading.Lock()
    return lambda x: (held, x)


@flow
def fine(n: int = 3):
    return inc.map(range(n)).result()


@flow
def unequal():
    return add.map([1, 2, 3], [1, 2]).result()


@flow
def unequal_and_lazy():
    return add.map(iter([1, 2, 3]), iter([1, 2])).result()


@flow
def nothing_to_map():
    return add.map(1, y=unmapped([2])).result()


@flow
def lambda_with_a_lock():
    return task(guarded(), name="guarded").map([1, 2]).result()


@flow
def lock_as_an_argument():
    return inc.submit(LOCK).result()


@flow
def lock_as_a_result():
    return lock.submit().result()


@flow
def too_much():
    return inc.with_options(resources={"gpus": 64}).submit(1).result()
