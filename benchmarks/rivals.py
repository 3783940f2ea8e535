"""A rival in a process of its own, its pool warm, that runs when it is told to.

Engines hold cores as long as they are open, so no two of them live in one process here. The rival's
script calls `serve`; the benchmark starts it as a `Rival` and calls it like any other case.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self


def serve(cases: Mapping[str, Callable[[], object]]) -> None:
    """Run the cases that are named on standard input, line by line, until it ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        cases[line.strip()]()
        print("done", flush=True)


class Rival:
    """A rival's script as a process. It ends when its input does."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
        self.name = script
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        self._hear("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def run(self, case: str) -> None:
        """Run a case and wait for it."""
        assert self.process.stdin is not None
        print(case, file=self.process.stdin, flush=True)
        self._hear("done")

    def _hear(self, word: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
