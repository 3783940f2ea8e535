"""One child under its supervisor: what it says, how it dies, and who is told what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from listening import Heard, gone, launch_here
from standin import make_batch

from headrace.core.errors import ExecutorError, VersionMismatchError
from headrace.core.interfaces import Control, FailureKind, Outcome
from headrace.executors import autopsy
from headrace.executors.supervisor import ChildSlot


@pytest.fixture
def slot():
    slot = ChildSlot(launch_here())
    yield slot
    slot.close()


def run(slot, steps, number=1, **options):
    heard = Heard()
    slot.run(make_batch(steps, number, **options), heard)
    return heard


def test_prints_and_reads_of_user_code_do_not_touch_the_protocol(slot, capfd):
    heard = run(slot, [("print", "loud")] * 3)
    assert heard.end().outcome is Outcome.DONE
    assert heard.said() == ["''"] * 3, "standard input is empty"
    assert capfd.readouterr().err.count("loud") == 6


def test_a_child_stays_warm_from_batch_to_batch(slot):
    first, second = run(slot, [("pid",)], 1), run(slot, [("pid",)], 2)
    assert first.said() == second.said()
    assert first.reports[0].worker.pid == int(first.said()[0]) != os.getpid()


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        (("kill", signal.SIGKILL), "signal SIGKILL (9)"),
        (("kill", signal.SIGSEGV), "signal SIGSEGV (11)"),
        (("exit", 3), "exit code 3"),
        (("exit", 0), "exit code 0"),
    ],
)
def test_death_names_its_cause_the_running_item_and_the_suspects(slot, step, cause):
    heard = run(slot, [("raise",), ("ok",), step, ("ok",)], 2)
    end = heard.end()
    assert end.outcome is Outcome.DIED
    assert cause in end.cause
    assert end.running == (0, 202)
    assert end.suspects == (201, 202), "the first has failed, the last has not started"
    assert heard.failed() == [(200, FailureKind.ERROR)]
    assert not end.out_of_memory
    assert 10 << 20 < heard.reports[-1].peak_memory < 10 << 30, "as the system tells it"
    assert run(slot, [("ok",)], 3).end().outcome is Outcome.DONE, "the slot lives on"


def test_a_kill_is_ascribed_to_the_kernel_where_it_has_counted_one(slot, tmp_path, monkeypatch):
    """The kill is real; the count is the test's, as only a control group's owner can run it full."""
    count = tmp_path / "memory.events"
    count.write_text("oom 7\noom_kill 3\n")
    monkeypatch.setattr(autopsy, "_counters", lambda: [(count, "oom_kill")])
    monkeypatch.setattr(autopsy, "memory_watch", autopsy.MemoryWatch())
    autopsy.memory_watch.start()
    kill = ("kill", signal.SIGKILL)
    assert not run(slot, [kill], 1).end().out_of_memory
    count.write_text("oom 8\noom_kill 4\n")
    end = run(slot, [kill], 2).end()
    assert end.out_of_memory
    assert end.cause.endswith("sent by the kernel because memory ran out")
    assert not run(slot, [kill], 3).end().out_of_memory, "that one was the other child"


def test_memory_error_in_the_machinery_is_out_of_memory(slot):
    end = run(slot, [("memory",)]).end()
    assert end.outcome is Outcome.DIED
    assert end.out_of_memory


def test_a_fork_that_keeps_the_pipes_open_hides_no_death_and_is_ended(slot):
    heard = run(slot, [("fork",), ("kill", signal.SIGKILL)])
    assert heard.end().outcome is Outcome.DIED
    assert gone(int(heard.said()[0]))


def test_sigterm_ends_a_fork_and_does_not_recall_the_batch(slot):
    heard = run(slot, [("terminate a fork",), ("ok",)])
    assert heard.end().outcome is Outcome.DONE
    assert heard.said()[0] == str(-signal.SIGTERM)


@pytest.mark.parametrize("last", [("kill", signal.SIGKILL), ("ok",)])
def test_processes_that_user_code_started_end_with_the_child(slot, tmp_path, last):
    run(slot, [("spawn", str(tmp_path / "pid")), last])
    slot.close()
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("step", [("gil", 30), ("sleep", 30), ("spin", 30)])
def test_time_limit_is_enforced_from_outside(slot, step):
    heard = run(slot, [("ok",), step, ("ok",)], 1, timeout=0.2)
    end = heard.end()
    assert end.outcome is Outcome.TIMEOUT
    assert end.running == (0, 101)
    assert 101 in end.suspects
    assert 102 not in end.suspects
    assert "timeout_seconds=0.2" in end.cause


def test_items_below_the_limit_may_together_pass_it(slot):
    assert run(slot, [("sleep", 0.4)] * 8, timeout=3.0).end().outcome is Outcome.DONE


def begun(slot, steps, **options):
    """Run in a thread; gives what is heard, and the thread, once the batch has begun.

    "begun" may be told before an item runs: a first step that waits has begun to.
    """
    import threading

    heard = Heard()
    thread = threading.Thread(target=slot.run, args=(make_batch(steps, 1, **options), heard))
    thread.start()
    assert heard.begun.wait(30)
    if steps[0][0] == "wait":
        while not os.path.exists(steps[0][1] + ".waits"):
            assert not heard.ended.wait(0.005)
    return heard, thread


def controlled(slot, steps, request, grace, **options):
    """The same, and ask then."""
    heard, thread = begun(slot, steps, grace=grace, **options)
    slot.control(request, grace)
    return heard, thread


@pytest.mark.parametrize("step", [("sleep", 60), ("spin", 60)])
def test_kill_ends_python_code_at_once_and_keeps_the_child(slot, step):
    pid = run(slot, [("pid",)], 7).said()
    heard, thread = controlled(slot, [step], Control.KILL, 60.0)
    assert heard.end(10).outcome is Outcome.KILLED
    thread.join()
    assert run(slot, [("pid",)], 8).said() == pid


def test_kill_is_by_force_after_the_grace(slot):
    heard, thread = controlled(slot, [("gil", 60)], Control.KILL, 0.2)
    end = heard.end(10)
    thread.join()
    assert end.outcome is Outcome.KILLED
    assert end.running == (0, 100)
    assert end.suspects == (100,)


def test_recall_ends_after_the_running_item(slot, tmp_path):
    go = tmp_path / "go"
    heard, thread = controlled(slot, [("wait", str(go)), ("ok",)], Control.RECALL, 5.0)
    assert not heard.ended.is_set()
    go.touch()
    assert heard.end(10).outcome is Outcome.RECALLED
    thread.join()
    assert heard.reports[-1].started == 1


def test_sigterm_lets_the_running_item_end_and_then_the_child(slot, tmp_path):
    go = tmp_path / "go"
    heard, thread = begun(slot, [("wait", str(go)), ("ok",)])
    pid = heard.reports[0].worker.pid
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)  # which does nothing
    go.touch()
    assert heard.end(10).outcome is Outcome.RECALLED
    thread.join()
    assert gone(pid)
    assert run(slot, [("ok",)], 2).end().outcome is Outcome.DONE


def test_a_child_killed_while_idle_is_replaced_unseen(slot):
    pid = int(run(slot, [("pid",)], 1).said()[0])
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    heard = run(slot, [("pid",)], 2)
    assert heard.end().outcome is Outcome.DONE
    assert int(heard.said()[0]) != pid


def test_changed_modules_get_a_fresh_child(slot):
    first = run(slot, [("pid",)], 1, run="one").said()
    heard = run(slot, [("stale",), ("pid",)], 2, run="two")
    assert heard.end().outcome is Outcome.DONE
    assert heard.said() != first


def test_another_number_of_threads_gets_a_fresh_child_with_them(slot):
    assert run(slot, [("env", "OMP_NUM_THREADS")], 1).said() == ["1"]
    assert run(slot, [("env", "OMP_NUM_THREADS")], 2, threads=3).said() == ["3"]


def test_large_batches_and_answers_pass(slot):
    heard = run(slot, [("echo", b"x" * 20_000_000)])
    assert heard.end().outcome is Outcome.DONE
    assert heard.said() == ["20000000"]


def test_a_stopped_child_that_does_not_read_can_be_killed(slot):
    pid = int(run(slot, [("pid",)], 1).said()[0])
    os.kill(pid, signal.SIGSTOP)
    import threading

    heard = Heard()
    batch = make_batch([("echo", b"x" * 5_000_000)], 2, grace=0.2)
    thread = threading.Thread(target=slot.run, args=(batch, heard))
    thread.start()
    while not slot._run:
        time.sleep(0.01)
    slot.control(Control.KILL, 0.2)
    end = heard.end(10)
    thread.join()
    assert end.outcome is Outcome.KILLED
    assert end.suspects == ()


def test_a_batch_that_cannot_be_read_is_refused(slot):
    heard = run(slot, [("ok",)], 1, upstream=(Unreadable(),))
    end = heard.end()
    assert end.outcome is Outcome.REFUSED
    assert "cannot read the batch" in end.cause
    assert run(slot, [("ok",)], 2).end().outcome is Outcome.DONE


class Unreadable:
    def __reduce__(self):
        return fail_to_read, ()


def fail_to_read():
    raise LookupError("no such class")


def test_an_interpreter_that_cannot_run_children_is_refused_with_its_words():
    import pickle

    slot = ChildSlot(launch_here(python="/bin/false"))
    end = run(slot, [("ok",)]).end()
    slot.close()
    assert end.outcome is Outcome.REFUSED
    error = pickle.loads(end.error)
    assert isinstance(error, ExecutorError)
    assert "exit code 1" in str(error)


def test_a_child_of_another_python_is_refused_in_one_line(monkeypatch):
    import pickle
    from dataclasses import replace

    from headrace.executors import launch, wire

    mine = wire.versions()
    monkeypatch.setattr(launch, "versions", lambda: replace(mine, python="3.99.1"))
    slot = ChildSlot(launch_here(local=False))
    end = run(slot, [("ok",)]).end()
    slot.close()
    error = pickle.loads(end.error)
    assert isinstance(error, VersionMismatchError)
    assert "the driver 3.99.1" in str(error)
    assert "\n" not in str(error)


def through_a_shell(arguments, environment):
    """What ssh would do: another program carries the pipes, and no memory is shared."""
    return subprocess.Popen(
        ["sh", "-c", '"$@"; exit $?', "sh", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        bufsize=0,
        start_new_session=True,
    )


@pytest.fixture
def shell():
    slot = ChildSlot(launch_here(spawn=through_a_shell, shared_marks=False, local=False))
    yield slot
    slot.close()


def test_without_shared_marks_death_names_the_running_item(shell):
    end = run(shell, [("ok",), ("ok",), ("kill", signal.SIGKILL), ("ok",)]).end()
    assert end.outcome is Outcome.DIED
    assert "SIGKILL" in end.cause
    assert end.suspects == (100, 101, 102)
    assert end.running == (0, 102)


def test_without_shared_marks_limits_and_kills_work(shell):
    for step in ("spin", "gil"):
        end = run(shell, [("ok",), (step, 60)], timeout=1.0).end()
        assert (end.outcome, end.running) == (Outcome.TIMEOUT, (0, 101))
    heard, thread = controlled(shell, [("sleep", 60)], Control.KILL, 30.0)
    assert heard.end(10).outcome is Outcome.KILLED
    thread.join()
    heard, thread = controlled(shell, [("gil", 60)], Control.KILL, 0.2)
    assert heard.end(10).outcome is Outcome.KILLED
    thread.join()


ORPHAN = """
import sys, os, threading, time
sys.path[:0] = {path!r}
from listening import Heard, launch_here
from standin import make_batch
from headrace.executors.supervisor import ChildSlot
slot, heard = ChildSlot(launch_here()), Heard()
threading.Thread(target=slot.run, args=(make_batch({steps!r}, 1), heard), daemon=True).start()
while not heard.said():
    time.sleep(0.01)
print(heard.reports[0].worker.pid, flush=True)
os.kill(os.getpid(), 9) if {kill} else sys.exit()
"""


@pytest.mark.parametrize("step", [("sleep", 60), ("gil", 60)])
@pytest.mark.parametrize("kill", [True, False])
def test_children_end_within_the_grace_when_the_driver_does(step, kill, tmp_path):
    grandchild = tmp_path / "pid"
    steps = [("spawn", str(grandchild)), step]
    here = [str(Path(__file__).parent), *sys.path]
    script = tmp_path / "driver.py"
    script.write_text(ORPHAN.format(path=here, steps=steps, kill=kill))
    done = subprocess.run(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert gone(int(done.stdout), 6)
    assert gone(int(grandchild.read_text()), 2)
