"""A home for the runs, and the command line within this process."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.cli.main import main
from headrace.core.settings import settings_override

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "plugins"))


@pytest.fixture(autouse=True)
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with settings_override(
        home=folder,
        storage=str(folder / "storage"),
        history=f"sqlite:///{folder / 'history.db'}",
        display="none",
    ):
        yield folder


@dataclass(frozen=True)
class Said:
    """What a command left."""

    code: int
    output: str
    told: str

    @property
    def error(self):
        """Its one line on what went wrong."""
        lines = [line for line in self.told.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, self.told
        assert "Traceback" not in self.told
        return lines[0]


@pytest.fixture
def headrace(capfd):
    """Call the command."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        captured = capfd.readouterr()
        return Said(ended.value.code, captured.out, captured.err)

    return call
