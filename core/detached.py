"""Runs whose driver is a process of its own, which outlives the one that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from .context import FLOW_RUN
from .errors import ExecutorError, HistoryError, RunError, StorageError
from .headers import HEADER, LAUNCH, write_header
from .notes import Notes
from .recorded import RecordedRun
from .runs import forget
from .states import Crashed

if TYPE_CHECKING:
    from .flows import Flow

_POLL_SECONDS = 0.1
_TOLD_AT_MOST = 2_000
_PACKAGE = __name__.partition(".")[0]


def start_detached(flow: Flow[..., Any], parameters: Mapping[str, Any]) -> RecordedRun:
    """Write down a run with these arguments, and let a process of its own drive it.

    That process does what ``headrace resume`` does: it takes the run up from its storage. It has
    this process's environment, folder and search path, and is in a session of its own; what it
    prints is in ``<home>/drivers/<run id>.log``. Gives the run once its driver has begun it.

    Raises
    ------
    RunError
        It is called in a flow; or the flow or an argument cannot be written down: names it.
    StorageError
        The storage is only in this process.
    ExecutorError
        The driver ended before it began the run; tells what it said.
    """
    from .new_runs import make_run

    if FLOW_RUN.get() is not None:
        raise RunError(f"flow {flow.name!r} cannot be started detached inside of another flow")
    info = make_run(flow.options, flow, parameters, entrypoint=flow.entrypoint, shown=False).info
    forget(info.id)
    store = info.store.run(str(info.id))
    if store.in_process:
        raise StorageError(
            f"the storage {info.store.url} is in this process only: a driver of its own cannot see "
            "it. Use a folder or an object store: flow(storage=...) or HEADRACE_STORAGE"
        )
    if info.history.url.endswith(":memory:"):
        raise HistoryError(f"the history {info.history.url} is in this process only: use a file")
    notes = Notes(info)
    lacking = write_header(store, info, notes)
    if lacking:
        store.delete([HEADER, LAUNCH])
        told = "; ".join(f"{name} {why}" for name, why in lacking.items())
        raise RunError(
            f"flow {flow.name!r} cannot be started detached: {told}. Its driver has only what is in "
            "the storage, and this process's environment variables"
        )
    me = uuid4().hex
    info.history.append(info.id, 0, notes.scheduled(), driver=me)
    log = info.settings.home.expanduser() / "drivers" / f"{info.id}.log"
    run = RecordedRun(info.history, info.id, info.store)
    if trouble := _drive(run, log, info.store.url):
        error = ExecutorError(f"flow {flow.name!r}: {trouble}")
        info.history.append(info.id, 1, notes.ended(Crashed(str(error))), driver=me)
        raise error
    return run


def _drive(run: RecordedRun, log: Path, storage: str) -> str:
    """Start the driver, and wait until it has begun the run; gives why it has not."""
    log.parent.mkdir(parents=True, exist_ok=True)
    path = [entry or os.getcwd() for entry in sys.path]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"{_PACKAGE}.cli.main", "resume", str(run.id)),
                *(
                    "--force",
                    "--storage",
                    storage,
                ),  # nobody drives it yet: this process is recorded
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "HEADRACE_DISPLAY": "none"},
            start_new_session=True,
        )
    threading.Thread(target=process.wait, name=f"headrace-driver-{run.id}", daemon=True).start()
    while run.state.is_pending():
        if process.poll() is not None and run.state.is_pending():
            said = log.read_text(errors="replace").strip()[-_TOLD_AT_MOST:]
            return (
                f"the driver of run {run.name} ended with exit code {process.returncode} before it "
                f"began the run. It said ({log}):\n{said}"
            )
        time.sleep(_POLL_SECONDS)
    return ""
