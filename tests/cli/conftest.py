"""A project folder with a pipeline, a home for its runs, and the command within this process."""

import sys
from dataclasses import dataclass

import pytest

from headrace.cli.main import main
from headrace.core.registry import close_histories
from headrace.core.settings import forget_settings

PIPELINE = '''
"""A pipeline of the user's own."""

import time
from pathlib import Path

from headrace import flow, get_run_logger, task
from pydantic import BaseModel


class Rules(BaseModel):
    least: int = 1


@task
def inc(x):
    get_run_logger().info("inc %d", x)
    return x + 1


@task
def picky(x):
    if x == 2:
        raise ValueError("two is too much")
    return x


@task
def linger(began):
    Path(began).touch()
    for _ in range(6000):
        time.sleep(0.01)


@flow
def count(n: int = 3):
    """Count a little.

    And nothing more.
    """
    return inc.map(range(n)).result()


@flow
def echo(text: str = "", number: float = 0.0, maybe: int | None = None, many: list[str] | None = None,
         rules: Rules = Rules(), flag: bool = False, any=None):
    return {"text": text, "number": number, "maybe": maybe, "many": many, "least": rules.least,
            "flag": flag, "any": any}


@flow
def failing():
    return picky.map(range(4)).result()


@flow
def outer():
    return count()


@flow
async def later(n: int):
    return await inc.submit(n)


@flow
def lingering(began: str):
    return linger.submit(began).result()
'''


@dataclass(frozen=True)
class Said:
    """What a command left."""

    code: int
    output: str
    told: str


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The current folder; runs are kept below it."""
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HEADRACE_EXECUTOR", "inline")
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("pipeline", None)
    forget_settings()
    yield tmp_path
    close_histories()
    sys.modules.pop("pipeline", None)
    monkeypatch.undo()
    forget_settings()


@pytest.fixture
def headrace(project, capfd):
    """Call the command in the project."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        captured = capfd.readouterr()
        return Said(ended.value.code, captured.out, captured.err)

    return call
