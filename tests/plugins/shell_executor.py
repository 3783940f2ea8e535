"""A third party's executor: children are started through a shell, as ssh would start them.

All it brings is a way to start a process somewhere; queueing, supervision, time limits, killing and
the causes of death come from `headrace.executors.pool.SlotPool`. Over ssh, ``_COMMAND`` would be
``["ssh", host, ...]``: the child's standard input and output are all that connects it.

The shell gets a clean environment: what the child needs stands on its command line, as it would have
to over ssh. Marks cannot be shared memory then, and come through the pipe.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Hashable
from dataclasses import dataclass

from headrace.core.errors import ExecutorError
from headrace.executors.capacity import Capacity
from headrace.executors.launch import THREAD_VARIABLES, Launch
from headrace.executors.pool import SlotPool

_PASSED_ON = ("PYTHONPATH", *THREAD_VARIABLES, "HEADRACE_SUITE_MARK")
"""Variables that the far side gets; all others stay here."""


@dataclass(frozen=True)
class ShellExecutor:
    """Runs batches in children of a shell.

    Parameters
    ----------
    slots
        Batches at a time.
    shell
        Command that runs a line of shell, in the folder where the children shall be.
    disks
        Amount of the custom resource ``disk``.
    """

    slots: int = 2
    shell: tuple[str, ...] = ("sh", "-c")
    disks: int = 1

    @property
    def name(self) -> str:
        return "shell"

    def key(self) -> Hashable:
        return self

    def open(self) -> SlotPool:
        """Check that the shell answers, and make the pool; children start when they are needed."""
        try:
            answer = subprocess.run(
                [*self.shell, "echo ready"], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ExecutorError(f"the shell {self.shell[0]!r} does not answer: {error}") from error
        if answer.stdout.strip() != "ready":
            raise ExecutorError(
                f"the shell {self.shell[0]!r} does not answer: {answer.stderr.strip()}"
            )
        capacity = Capacity(cpus=self.slots, custom={"disk": self.disks})
        launch = Launch(spawn=self._spawn, shared_marks=False, local=False)
        return SlotPool(self.name, capacity, launch)

    def _spawn(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start ``sh -c 'exec env NAME=VALUE ... python -m headrace.executors.child'``."""
        variables = [f"{name}={environment[name]}" for name in _PASSED_ON if name in environment]
        line = shlex.join(["exec", "env", *variables, *arguments])
        return subprocess.Popen(
            [*self.shell, line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath)},
            bufsize=0,
            start_new_session=True,
        )
