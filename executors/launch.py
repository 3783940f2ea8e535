"""Starting child processes, and talking to one: pipes, marks, death."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..core import forks
from ..core.hostname import hostname
from ..core.interfaces import Mark
from ..core.orphans import SUPERVISOR
from ..core.process_marks import own_mark
from ..core.resident import RSS_UNIT
from . import devices
from . import marks as marks_memory
from .wire import Hello, Setup, Unpacker, misfit, pack, versions

Spawn: TypeAlias = Callable[[list[str], dict[str, str]], "subprocess.Popen[bytes]"]
"""(arguments, environment) -> a process with pipes at its standard input and output."""

_PACKAGE = __name__.partition(".")[0]
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "ARROW_NUM_THREADS",
)
"""Variables of a child's environment that bound its numeric libraries; each must reach it."""


def spawn_locally(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a child on this machine, in a session of its own: Ctrl-C is for the driver alone."""
    return subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        bufsize=0,
        close_fds=True,
        start_new_session=True,
    )


def guard_locally(child: int, seconds: float) -> subprocess.Popen[bytes] | None:
    """See to it that a child ends when this process has died, also where it keeps the GIL.

    A shell of less than a megabyte waits until its input ends, as it does with this process, and
    after the grace kills the child's process group. None: there is no shell.
    """
    line = f"read -r _; sleep {seconds:g}; kill -KILL -{child}"
    with contextlib.suppress(OSError):
        return subprocess.Popen(
            ["sh", "-c", line],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            start_new_session=True,
        )
    return None


def here(node: str = "") -> Setup:
    """The setup of a child that shall see what this process sees."""
    return Setup(
        path=tuple(sys.path),
        cwd=os.getcwd(),
        python_path=os.environ.get("PYTHONPATH"),
        node=node or hostname(),
    )


@dataclass(frozen=True)
class Launch:
    """How children are started.

    Parameters
    ----------
    spawn
        Starts a process; another one carries the child elsewhere (a shell, ssh). Its processes must
        lead their own process group, as that is what a kill goes to.
    python
        The interpreter to run, as the spawned side names it.
    environment
        Variables beside, or instead of, this process's own.
    without
        Beginnings of the names of variables that children shall not see.
    setup
        What the child is told first.
    shared_marks
        False when children cannot see this machine's ``/proc``.
    local
        True when the child's interpreter is this one: then its versions need no check.
    """

    spawn: Spawn = spawn_locally
    python: str = field(default_factory=lambda: sys.executable)
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    without: tuple[str, ...] = ()
    setup: Setup = field(default_factory=here)
    shared_marks: bool = True
    local: bool = True

    def start(self, threads: int, gpus: tuple[str, ...] = ()) -> Process:
        """Start a child whose numeric libraries may use ``threads`` threads, and these GPUs."""
        shared = marks_memory.Shared() if self.shared_marks else None
        arguments = [self.python, *_interpreter_flags(), "-m", f"{_PACKAGE}.executors.child"]
        if shared is not None:
            arguments += ["--marks", shared.path]
        if not self.local:
            arguments += ["--libraries"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(self.without)}
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(max(1, threads))))
        environment[SUPERVISOR] = own_mark()
        environment.update(self.environment)
        if gpus:
            environment[devices.VARIABLE] = ",".join(gpus)
        environment["PYTHONPATH"] = path_to_package(environment.get("PYTHONPATH", ""))
        try:
            popen = self.spawn(arguments, environment)
        except OSError:
            if shared is not None:
                shared.detach()
            raise
        guard = guard_locally(popen.pid, self.setup.grace_seconds)
        return Process(popen, self.setup, shared, threads, gpus, guard)

    def misfit(self, hello: Hello) -> str:
        """Why a child cannot be used; empty if it can."""
        return "" if self.local else misfit(versions(), hello.versions)

    def diagnose(self) -> str:
        """What an interpreter that cannot run children says."""
        if not self.local:
            return ""
        command = [self.python, "-c", f"import {_PACKAGE}.executors.child"]
        environment = {**os.environ, **self.environment}
        environment["PYTHONPATH"] = path_to_package(environment.get("PYTHONPATH", ""))
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=20, check=False
            )
            lines = done.stderr.strip().splitlines()
            return f" ({lines[-1]})" if lines else ""
        return ""


def _interpreter_flags() -> list[str]:
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    return [flag for flag in flags if flag not in ("-i", "-I", "-E", "-P")] + ["-P"]


def path_to_package(path: str) -> str:
    """PYTHONPATH under which the child finds this package, whatever the working directory is."""
    file = sys.modules[_PACKAGE].__file__ or __file__
    root = str(Path(file).parent.parent)
    return os.pathsep.join([root, *filter(None, path.split(os.pathsep))])


class Process:
    """A running child as its supervisor holds it.

    Thread rule: one thread polls and reads; `send` and `wake` may come from any.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        setup: Setup,
        shared: marks_memory.Shared | None,
        threads: int,
        gpus: tuple[str, ...],
        guard: subprocess.Popen[bytes] | None,
    ) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        self.threads, self.gpus = threads, gpus
        self.hello: Hello | None = None
        self.ended = False
        self.peak_memory = 0
        """Most resident bytes of the dead child, mapped files included."""
        self.marks = shared.words if shared is not None else marks_memory.private()
        self._popen, self._shared, self._guard = popen, shared, guard
        self._input, self._output = popen.stdin.fileno(), popen.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        try:
            self._death = os.pidfd_open(popen.pid)
        except (AttributeError, OSError):  # not Linux: look instead
            self._death = -1
        self._lock = threading.Lock()
        self._outgoing = bytearray(pack(("setup", setup)))
        self._incoming: list[bytes] = []
        self._unpacker = Unpacker()
        self._selector = select.poll()
        for descriptor in (self._wake_out, self._output, self._death):
            if descriptor >= 0:
                self._selector.register(descriptor, select.POLLIN)
        self._open = True
        _living.add(self)

    # ----------------------------------------------------------------------------------- talking

    def send(self, data: bytes) -> None:
        """Queue a frame; the polling thread writes what does not go at once."""
        with self._lock:
            self._outgoing += data
            self._write()
            waiting = bool(self._outgoing)
        if waiting:
            self.wake()

    def wake(self) -> None:
        """Make the polling thread look around."""
        with self._lock, contextlib.suppress(OSError):
            if self._open:
                os.write(self._wake_in, b"!")

    def poll(self, timeout: float | None) -> None:
        """Wait until the child says something, ends, or this is woken."""
        with self._lock:
            self._write()
            if self._outgoing:
                self._selector.register(self._input, select.POLLOUT)
        if self._death < 0:
            timeout = 0.05 if timeout is None else min(timeout, 0.05)
        events = self._selector.poll(None if timeout is None else max(timeout, 0.0) * 1000)
        for descriptor, event in events:
            if descriptor == self._wake_out:
                with contextlib.suppress(OSError):
                    os.read(self._wake_out, 4096)
            elif descriptor == self._output:
                self._read()
            elif descriptor == self._input:
                self._selector.unregister(self._input)
                if event & select.POLLOUT:
                    with self._lock:
                        self._write()
            elif descriptor == self._death:
                self._gone()
        if self._death < 0 and self._exited():
            self._gone()

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Messages that have come in."""
        while self._incoming:
            for message in self._unpacker.feed(self._incoming.pop(0)):
                if message[0] == "marks":
                    self._take_marks(message[1])
                else:
                    yield message

    def greeted(self, message: tuple[Any, ...]) -> None:
        """Take the child's first message."""
        if message[0] == "hello":
            self.hello = message[1]
            if self._shared is not None:
                self._shared.detach()
                if not message[1].shared_marks:
                    self.marks = marks_memory.private()

    def reset_marks(self) -> None:
        """Make the marks those of a batch that has not begun."""
        for word in (Mark.CONTROL, Mark.STAGE, Mark.SINCE_NS, Mark.STARTED):
            self.marks[word] = 0
        self.marks[Mark.RUNNING] = -1

    def _take_marks(self, words: tuple[int, ...]) -> None:
        for word in (Mark.STAGE, Mark.STARTED, Mark.RUNNING):
            self.marks[word] = words[word]
        self.marks[Mark.SINCE_NS] = time.monotonic_ns() if words[Mark.SINCE_NS] else 0

    def _write(self) -> None:
        while self._outgoing and self._open:
            try:
                del self._outgoing[: os.write(self._input, memoryview(self._outgoing)[: 1 << 16])]
            except BlockingIOError:
                return
            except OSError:  # it is gone, which the polling thread will see
                self._outgoing.clear()

    def _read(self) -> None:
        """Take what is in the pipe, and no more than a few megabytes at a time."""
        for _ in range(64):
            try:
                data = os.read(self._output, 1 << 17)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:  # it closed its output: it is ending, or as good as dead
                with contextlib.suppress(KeyError):
                    self._selector.unregister(self._output)
                if not self._exited():
                    self._await_exit(5.0)
                self.ended = True
                return
            self._incoming.append(data)

    # ----------------------------------------------------------------------------------- ending

    def has_ended(self) -> bool:
        """Is the child dead? Looks now."""
        if not self.ended and self._exited():
            self._gone()
        return self.ended

    def kill(self) -> None:
        """SIGKILL to the child and to all that user code started in its process group."""
        if self._popen.returncode is None:  # not reaped: the number is still its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def exit_code(self) -> int | None:
        """The dead child's exit code; its process group is emptied before the number is freed."""
        self.kill()
        self._dismiss_guard()
        if not self._exited():
            self._await_exit(10.0)
        return self._reap() if self._exited() else None

    def _reap(self) -> int:
        if self._popen.returncode is None:
            try:
                _, status, usage = os.wait4(self._popen.pid, 0)
            except ChildProcessError:  # somebody else did, and knows its code
                return self._popen.wait()
            self._popen.returncode = os.waitstatus_to_exitcode(status)
            self.peak_memory = usage.ru_maxrss * RSS_UNIT
        return self._popen.returncode

    def _dismiss_guard(self) -> None:
        """End it before the child's number may become another's."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard = None

    def stop(self, grace: float) -> int | None:
        """Close its input, wait, kill, reap, and free everything; its exit code."""
        with self._lock:
            self._open = False
            assert self._popen.stdin is not None
            with contextlib.suppress(OSError):
                self._popen.stdin.close()
        if not self._exited():
            self._await_exit(grace)
        code = self.exit_code()
        self.release()
        return code

    def release(self) -> None:
        """Close all descriptors."""
        _living.discard(self)
        with self._lock:
            self._open = False
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        for stream in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        for name in ("_wake_in", "_wake_out", "_death"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)
        if self._shared is not None:
            self._shared.detach()

    def let_go(self) -> None:
        """In a fork of its supervisor's process: or it would live as long as the fork does."""
        for popen in filter(None, (self._popen, self._guard)):
            assert popen.stdin is not None
            with contextlib.suppress(OSError):
                popen.stdin.close()

    def _gone(self) -> None:
        """It has exited: keep its last words."""
        if not self.ended:
            self._read()
            self.ended = True

    def _exited(self) -> bool:
        if self._popen.returncode is not None:
            return True
        try:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT  # leave it to `exit_code` to reap
            return os.waitid(os.P_PID, self._popen.pid, flags) is not None
        except ChildProcessError:
            return True

    def _await_exit(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        if self._death >= 0:
            waiting = select.poll()
            waiting.register(self._death, select.POLLIN)
            waiting.poll(max(seconds, 0.0) * 1000)
            return
        while not self._exited() and time.monotonic() < deadline:
            time.sleep(0.01)


_living: weakref.WeakSet[Process] = weakref.WeakSet()


@forks.in_child
def _let_go() -> None:
    for process in list(_living):
        process.let_go()
    _living.clear()
