"""A body that does what a batch's payload says: executors are tested without stores and tasks.

The payload pickles a list of steps, one per item: ("ok",), ("sleep", seconds), ("spin", seconds),
("gil", seconds), ("kill", signal), ("exit", code), ("print", text), ("spawn", path), ("pid",),
("raise",), ("touch", path), ("env", name), ("module", name, attribute), ("echo", bytes).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from headrace.core.interfaces import (
    Batch,
    End,
    Failure,
    FailureKind,
    LogLine,
    Mark,
    Outcome,
    Positions,
    Report,
    Resources,
    Sink,
    Stage,
    WorkerInfo,
)
from headrace.core.shipping import StaleCodeError
from headrace.core.worker import CancelRequest, TimeLimit

ran_here: set[str] = set()


@dataclass(frozen=True)
class NoStore:
    """Stands where a run's store would."""

    in_process: bool = False


def make_batch(steps, number=0, run="run", timeout=None, grace=2.0, **options):
    """A batch whose items take these steps."""
    options.setdefault("resources", Resources())
    return Batch(
        run_id=run,
        id=number,
        store=NoStore(),  # type: ignore[arg-type]
        stages=(Stage(1, "steps", "", timeout_seconds=timeout),),
        positions=Positions.span(100 * number, 100 * number + len(steps)),
        payload=pickle.dumps(list(steps)),
        grace_seconds=grace,
        **options,
    )


def run_batch(
    batch: Batch, report: Sink, marks: memoryview, worker: WorkerInfo, *, in_child: bool
) -> None:
    """The stand-in for `headrace.core.worker.run_batch`."""
    steps = pickle.loads(batch.payload)
    if ("stale",) in steps and ran_here:
        raise StaleCodeError("other modules")
    ran_here.add(batch.run_id)
    report(Report(batch.run_id, batch.id, worker))
    outcome = Outcome.DONE
    for index, (position, step) in enumerate(zip(batch.positions, steps, strict=True)):
        if marks[Mark.CONTROL] == 1:
            outcome = Outcome.RECALLED
            break
        marks[Mark.STARTED] = index + 1
        marks[Mark.SINCE_NS] = time.monotonic_ns()
        marks[Mark.RUNNING] = index
        failures, logs = (), ()
        try:
            said = act(*step)
            if said is not None:
                logs = (LogLine(1, position, 1, time.time(), 20, "standin", said),)
        except CancelRequest:
            marks[Mark.RUNNING] = -1
            outcome = Outcome.KILLED
            break
        except (TimeLimit, ValueError) as error:
            kind = FailureKind.TIMEOUT if isinstance(error, TimeLimit) else FailureKind.ERROR
            now = time.time()
            failures = (
                Failure(1, position, 1, kind, type(error).__name__, "", "", None, now, now),
            )
        marks[Mark.RUNNING] = -1
        if failures or logs:
            report(Report(batch.run_id, batch.id, None, (), failures, logs, started=index + 1))
    started = marks[Mark.STARTED]
    report(Report(batch.run_id, batch.id, started=started, end=End(outcome)))


def act(kind, *rest):
    """Take one step; what it returns is logged."""
    if kind == "sleep":
        time.sleep(rest[0])
    elif kind == "spin":
        until = time.monotonic() + rest[0]
        while time.monotonic() < until:
            pass
    elif kind == "gil":  # a C call that keeps the GIL
        ctypes.PyDLL(None).usleep(int(rest[0] * 1e6))
    elif kind == "kill":
        os.kill(os.getpid(), rest[0])
        time.sleep(30)
    elif kind == "exit":
        os._exit(rest[0])
    elif kind == "print":
        print(rest[0], flush=True)
        os.write(1, rest[0].encode())
        return repr(sys.stdin.read())
    elif kind == "spawn":
        grandchild = subprocess.Popen(["sleep", "300"])
        Path(rest[0]).write_text(str(grandchild.pid))
        return str(grandchild.pid)
    elif kind == "fork":  # a fork that keeps the protocol's descriptors open
        pid = os.fork()
        if pid == 0:
            time.sleep(300)
            os._exit(0)
        return str(pid)
    elif kind == "terminate a fork":
        there, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(tell, b".")  # Python forgets signals that come while it forks
            time.sleep(3)
            os._exit(0)
        os.read(there, 1)
        os.kill(pid, signal.SIGTERM)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    elif kind == "pid":
        return str(os.getpid())
    elif kind == "raise":
        raise ValueError("step")
    elif kind == "touch":
        with open(rest[0], "a") as file:
            file.write(f"{os.getpid()}\n")
    elif kind == "wait":  # until a file is there; another tells that it waits
        open(rest[0] + ".waits", "w").close()
        while not os.path.exists(rest[0]):
            time.sleep(0.005)
    elif kind == "env":
        return os.environ.get(rest[0], "")
    elif kind == "module":
        return str(getattr(importlib.import_module(rest[0]), rest[1]))
    elif kind == "memory":
        raise MemoryError
    elif kind == "echo":
        return str(len(rest[0]))
    return None
