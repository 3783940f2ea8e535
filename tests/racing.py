"""What the racing processes run; a module of its own, so that they start quickly."""

from typing import Any

from headrace.core.errors import AlreadyExistsError, TakenOverError
from headrace.storage.store import ArrowRunStore


def race(run: ArrowRunStore, names: list[str], start: Any, results: Any) -> None:
    run.list("claims/")  # connect first
    start.wait()
    for name in names:
        try:
            run.write(name, b"the same bytes from all", if_absent=True)
        except AlreadyExistsError:
            continue
        results.put(name)


def drive(run: ArrowRunStore, name: int, start: Any, results: Any) -> None:
    """Take the journal over and append until somebody else does, or all is said."""
    start.wait()
    written: list[Any] = []
    for turn in range(3):
        journal = run.journal()
        journal.take()
        try:
            for number in range(3):
                record = [name, turn, number]
                journal.append([{"record": record}])
                written.append(record)
        except TakenOverError:
            continue
    results.put(written)
