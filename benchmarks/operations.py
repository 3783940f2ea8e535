"""Every operation across partitions on data far larger than a worker's memory, and with its workers killed.

    python benchmarks/operations.py --gigabytes 2 --partition-bytes 24MB --kills 5

Two in five rows have one key. Each operation runs twice: undisturbed, and while children are killed
(SIGKILL) one after another. Both must write the same rows in the same order.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report
from datasets import WORKERS, in_order, measured, run_case, synthesise

if TYPE_CHECKING:
    import pyarrow as pa

OPERATIONS: Mapping[str, Callable[[Any, str], Any]] = {
    "repartition": lambda data, size: data.repartition(bytes=size),
    "compact": lambda data, size: data.compact(size),
    "shuffle": lambda data, size: data.shuffle(1, partition_bytes=size),
    "sort": lambda data, size: data.sort("value", partition_bytes=size),
    "group_by": lambda data, size: data.group_by("key", partition_bytes=size).map(longest),
    "distinct": lambda data, size: data.distinct("key", partition_bytes=size),
    "split": lambda data, size: data.split([0.8, 0.2], by="key", seed=1, partition_bytes=size)[0],
    "sample": lambda data, size: data.sample(0.5, seed=1, partition_bytes=size),
}
EVERY_SECONDS = 2.0
"""Between two kills."""


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--operation", nargs="*", default=list(OPERATIONS), choices=OPERATIONS)
    parser.add_argument("--partition-bytes", default="24MB")
    parser.add_argument("--kills", type=int, default=5, help="children killed at most")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for a case")
    parser.add_argument("--case", nargs=4, help="(one case, in this process)")
    arguments = parser.parse_args()
    if arguments.case:
        run_case(prepared(*arguments.case))
        return
    report.machine()
    folder = Path(tempfile.mkdtemp(prefix="headrace-operations-"))
    try:
        source = synthesise(folder / "in", arguments.gigabytes)
        for operation in arguments.operation:
            compare(operation, source, folder / "out", arguments)
    finally:
        shutil.rmtree(folder)


def compare(operation: str, source: Path, target: Path, arguments: Any) -> None:
    """Undisturbed and disturbed, the same rows out.

    Raises
    ------
    RuntimeError
        They are not the same.
    """
    facts = {"gigabytes": arguments.gigabytes, "partition_bytes": arguments.partition_bytes}
    found: list[str] = []
    for kills in (0, arguments.kills):
        killer = Killer(kills)
        case = [operation, str(source), str(target), arguments.partition_bytes]
        took = measured([sys.executable, __file__, "--case", *case], arguments.timeout, killer.look)
        if isinstance(took, str):
            sys.exit(f"{operation}: {took}")
        found.append(digest(target))
        shutil.rmtree(target)
        for name, (value, unit) in took.items():
            report.figure(operation, name, value, unit, killed=killer.killed, **facts)
    if found[0] != found[1]:
        raise RuntimeError(f"{operation}: other rows came when children were killed")


class Killer:
    """Kills one child after another while it may."""

    def __init__(self, most: int) -> None:
        self.most, self.killed, self.last = most, 0, 0.0
        self.draw = random.Random(1)

    def look(self, seconds: float, processes: Sequence[Any]) -> None:
        """Called now and then with the seconds since the beginning, and all processes below it."""
        import psutil

        if self.killed == self.most or seconds - self.last < EVERY_SECONDS:
            return
        children: list[Any] = []
        for process in processes:
            try:
                if "headrace.executors.child" in process.cmdline():
                    children.append(process)
            except psutil.Error:  # it has gone
                continue
        if children:
            self.draw.choice(children).kill()
            self.killed, self.last = self.killed + 1, seconds


def digest(target: Path) -> str:
    """What stands for the rows and their order, whatever files they are in."""
    import pyarrow.dataset as ds

    seen = blake2b(digest_size=16)
    for batch in ds.dataset([str(path) for path in in_order(target)]).to_batches():
        for column in batch.columns[:3]:
            seen.update(column.to_numpy(zero_copy_only=False).tobytes())
    return seen.hexdigest()


def prepared(operation: str, source: str, target: str, size: str) -> Callable[[], object]:
    report.own_home()
    os.environ["HEADRACE_INTERMEDIATES"] = "drop"
    import headrace
    from headrace import ProcessesExecutor, flow

    @flow(executor=ProcessesExecutor(WORKERS))
    def job() -> None:
        OPERATIONS[operation](headrace.open_dataset(source), size).write(target)

    return job


def longest(rows: pa.RecordBatchReader) -> dict[str, Any]:
    """Of a group that may be larger than memory: it comes in batches."""
    count, most, key = 0, 0.0, None
    for batch in rows:
        count += batch.num_rows
        key = batch["key"][0].as_py() if batch.num_rows else key
        most = max(most, batch["value"].to_numpy().max(initial=0.0))
    return {"key": key, "rows": count, "most": most}


if __name__ == "__main__":
    main()
