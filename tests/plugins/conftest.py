"""A fake installed distribution that registers the shell executor, as pip would have left it."""

import shutil
import sys
from pathlib import Path

import pytest

from headrace.core import registry

_SOURCE = Path(__file__).with_name("shell_executor.py")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder such as site-packages, on the path for as long as the session lasts."""
    folder = tmp_path_factory.mktemp("site") / "site-packages"
    folder.mkdir()
    shutil.copy(_SOURCE, folder / "headrace_shell.py")
    info = folder / "headrace_shell-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: headrace-shell\nVersion: 1.0\n")
    (info / "RECORD").write_text("headrace_shell.py,,\n")
    (info / "entry_points.txt").write_text(
        "[headrace.executors]\n"
        "shell = headrace_shell:ShellExecutor\n"
        "broken = headrace_shell:NoSuchExecutor\n"
    )
    sys.path.insert(0, str(folder))
    registry.forget()
    yield folder
    sys.path.remove(str(folder))
    registry.forget()
