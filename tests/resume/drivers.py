"""Drivers by the dozen: a line of standard input is one, run by a fork of this process, which has imported all.

A line is JSON: variables of the environment, the flow of `steps` and its size, or the run to go on
with; and a file for what became of it. The answer, when the driver has ended, is its wait status.
"""

import atexit
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

ROOMS = ("cli", "core", "display", "executors", "history", "storage")
ENGINES = ("dask_", "ray_")
"""Not imported: they take seconds."""
OTHERS = ("alembic.command", "pandas", "pyarrow.parquet", "pydantic_settings", "steps")


def drive(order: dict[str, Any]) -> None:
    """Be a driver: a new run, or one that goes on."""
    os.environ.update(order["environment"])
    import steps

    from headrace.core import resumption, scribe

    # A short run's journal is as a long one's.
    scribe._JOURNAL_SECONDS = scribe._GROUP_SECONDS = 0.01
    try:
        if order["resumes"]:
            run = resumption.resume(order["resumes"], storage=os.environ["HEADRACE_STORAGE"])
        else:
            flow = getattr(steps, order["flow"]).with_options(executor=order["executor"])
            run = flow.start(steps.SIZE)
        run.wait()
        told = {"state": run.state.name, "result": run.state.result(raise_on_failure=False)}
    except Exception:  # noqa: BLE001 - told to the test, whatever it is
        told = {"error": traceback.format_exc()}
    Path(order["told"]).write_text(json.dumps(told, default=repr))


def main() -> None:
    for room in ROOMS:
        for module in iter_modules(import_module(f"headrace.{room}").__path__):
            if not module.name.startswith(ENGINES):
                import_module(f"headrace.{room}.{module.name}")
    for name in OTHERS:
        import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            drive(json.loads(line))
            atexit._run_exitfuncs()
            os._exit(0)  # taking hundreds of modules apart takes longer than a run
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
