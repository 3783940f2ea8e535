"""Running a script as a user would: as a file, from ``-c``, from standard input."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.interfaces import Executor
from ..core.settings import get_settings

Form = Literal["file", "-c", "stdin"]
_PATIENCE_SECONDS = 120.0
_PRELUDE = """
import pickle, sys
with open({path!r}, "rb") as file:
    executor, arguments = pickle.load(file)
"""


@dataclass(frozen=True, slots=True)
class Done:
    """A script that has ended."""

    code: int
    output: str
    told: str
    """Standard error."""


class Script:
    """A script that runs; it finds ``executor`` and ``arguments`` defined."""

    def __init__(
        self,
        text: str,
        executor: Executor,
        folder: Path,
        *,
        form: Form = "file",
        arguments: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        given = folder / f"given-{form.strip('-')}.pickle"
        given.write_bytes(pickle.dumps((executor, list(arguments))))
        text = _PRELUDE.format(path=str(given)) + text
        command = [sys.executable]
        if form == "file":
            file = folder / "script.py"
            file.write_text(text)
            command.append(str(file))
        else:
            command += ["-c", text] if form == "-c" else ["-"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=folder,
        )
        self._text = text if form == "stdin" else ""

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def ended(self) -> bool:
        """It has ended."""
        return self._process.poll() is not None

    def end(self) -> Done:
        """Wait for its end."""
        try:
            output, told = self._process.communicate(self._text, _PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, told = self._process.communicate()
            told += f"\n(killed after {_PATIENCE_SECONDS:g} s)"
        return Done(self._process.returncode, output, told)


def run_script(
    text: str, executor: Executor, folder: Path, *, arguments: Sequence[str] = ()
) -> Done:
    """Run a script file to its end."""
    return Script(text, executor, folder, arguments=arguments).end()


def environment() -> dict[str, str]:
    """Variables of another process that shall find what this one finds, and use its settings."""
    settings = get_settings()
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "HEADRACE_HOME": str(settings.home),
        "HEADRACE_STORAGE": settings.storage_url,
        "HEADRACE_HISTORY": settings.history_url,
        "HEADRACE_DISPLAY": "none",
    }
