"""One of two slots is stopped by SIGSTOP for 20 s: how long a map takes, with backups and without.

    python benchmarks/stopped_slot.py --stop 20

Items sleep; half-way, one of them stops its own process, as if its machine hung. The ideal: half of the
work on two slots, half on one. A process beside this one wakes the stopped one after ``--stop`` seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report
from slots import with_slots

WAKE = """
import contextlib, os, signal, sys, time
time.sleep(float(sys.argv[2]))
with contextlib.suppress(ProcessLookupError):
    os.kill(int(sys.argv[1]), signal.SIGCONT)
"""


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--executor", nargs="*", default=["processes", "dask", "ray"])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.05)
    parser.add_argument("--stop", type=float, default=20.0)
    arguments = parser.parse_args()
    report.own_home()
    report.machine("dask", "ray")
    for executor in arguments.executor:
        for backups in (True, False):
            report.figure(
                "stopped_slot",
                "with_backups" if backups else "without",
                wall(executor, arguments, backups=backups),
                "s",
                executor=executor,
                n=arguments.n,
                stop=arguments.stop,
                ideal=arguments.n * arguments.seconds * 0.75,
            )


def wall(executor: str, arguments: argparse.Namespace, *, backups: bool) -> float:
    from headrace import flow, task

    mark = Path(tempfile.mkdtemp()) / "stopped"
    seconds, stop, wake = arguments.seconds, arguments.stop, WAKE

    @task(backups=backups)
    def nap(value: int, victim: int) -> None:
        time.sleep(seconds)
        if value == victim and not mark.exists():
            mark.touch()
            # In a group of its own, so that it outlives its parent's end.
            command = [sys.executable, "-c", wake, str(os.getpid()), str(stop)]
            subprocess.Popen(command, start_new_session=True)
            os.kill(os.getpid(), signal.SIGSTOP)

    @flow(executor=with_slots(executor, 2))
    def stalled(n: int, victim: int) -> None:
        naps = nap.map(range(n), victim=victim)
        naps.wait()
        report.check(naps.counts(), n)

    stalled(4, -1)
    return report.timed(lambda: stalled(arguments.n, arguments.n // 2))


if __name__ == "__main__":
    main()
