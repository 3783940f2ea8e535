"""Flows in forked children of a process that has run flows, or runs one."""

import os
import subprocess
import sys

SCRIPT = """
import multiprocessing
import os
import sys

import headrace
from headrace import ProcessesExecutor, flow, task

@task
def worker(_item):
    return os.getpid()

@flow(log_prints=True)
def where(inside=None):
    print("here")
    found = worker.map(range(3))
    if inside is not None:
        inside()
    (process,) = set(found.result())
    return process

own = ProcessesExecutor(max_workers=1)

def on(executor, **arguments):
    return where.with_options(executor=executor)(**arguments)

def forked(body, leave=sys.exit):
    child = os.fork()
    if child == 0:
        body()
        leave(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def flows():
    mine = os.getpid()
    assert on("inline") == on("threads") == mine
    assert on(own) not in (mine, before)

assert on("threads") == os.getpid()
before = on(own)
forked(flows)
context = multiprocessing.get_context("fork")
child = context.Process(target=flows)
child.start()
child.join()
assert child.exitcode == 0

def inside():
    on("inline")
    parents = [run for run in headrace.runs() if run.state == "Running"]
    assert [type(headrace.attach(run.id)).__name__ for run in parents] == ["RecordedRun"]

on("threads", inside=lambda: forked(inside, os._exit))
assert on(own) == before
runs = headrace.runs()
assert [run.state for run in runs] == ["Completed"] * 11, runs
assert all(run.parent is None for run in runs)
assert "here" in [line.message for line in headrace.attach(runs[3].id).logs()]
print("done")
"""


def test_a_fork_runs_flows_and_leaves_the_parents_alone(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SCRIPT],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HEADRACE_HOME": str(tmp_path),
            "HEADRACE_DISPLAY": "none",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.endswith("done\n"), done.stderr
