"""Flows against Prefect's documented API run with nothing changed but their imports.

The three texts are what a Prefect user would have; in idea they are from its documentation.
"""

import asyncio
import linecache
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headrace.core.settings import forget_settings, settings_override

IMPORTS = {
    "from prefect import ": "from headrace import ",
    "from prefect.futures import ": "from headrace import ",
    "from prefect.tasks import ": "from headrace import ",
    "from prefect.states import ": "from headrace.core.states import ",
    "from prefect.runtime import flow_run": "from headrace import context as flow_run",
}


@pytest.fixture(autouse=True, params=["inline", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[None]:
    forget_settings()
    with settings_override(executor=request.param, storage="memory://porting", display="none"):
        yield


def ported(name: str) -> Any:
    """The text as a module, its import lines changed and no other."""
    path = Path(__file__).with_name(f"{name}.txt")
    lines = path.read_text().splitlines(keepends=True)
    changed = [
        next((line.replace(old, new) for old, new in IMPORTS.items() if line.startswith(old)), line)
        for line in lines
    ]
    assert not any("prefect" in line for line in changed if line.startswith(("from", "import")))
    source = "".join(changed)
    module = ModuleType(f"ported_{name}")
    linecache.cache[str(path)] = (len(source), None, changed, str(path))
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def test_mapping():
    module = ported("mapping")
    assert module.basket(["apple", "pear", "melon"]) == 4.65
    assert module.results() == [11.0, 12.0, 13.0]


def test_retries():
    module = ported("retrying")
    assert module.retrying("2") == ("after 3 calls", True, "Failed")
    assert module.calls == {"flaky": 3, "refused": 1}
    assert module.hooked == ["refused Failed"]


def test_subflows():
    module = ported("subflows")
    assert module.nightly(4) == {
        "sum": 6,
        "message": "loaded",
        "empty": "Failed",
        "cleaned": "ValueError",
    }
    state = module.fails(2, return_state=True)
    assert (state.name, state.message) == ("Failed", "1/2 states failed.")
    assert [each.is_completed() for each in state.data] == [True, False]
    with pytest.raises(ValueError, match="this part is broken"):
        state.result()
    assert asyncio.run(module.asynchronous(3)) == 3
