"""Random graphs give the same values, states and attempts on every executor as a serial oracle."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from serial import foretell, graphs, play

import headrace
from headrace.core import pools
from headrace.core.settings import settings_override
from headrace.testing import Tally

EXECUTORS = {
    "inline": (headrace.InlineExecutor(), 40),
    "threads": (headrace.ThreadsExecutor(max_workers=2), 40),
    "processes": (headrace.ProcessesExecutor(max_workers=2, resources={"disk": 1}), 15),
    "dask": (headrace.DaskExecutor(n_workers=2), 8),
    "ray": (
        headrace.RayExecutor(num_cpus=2, init_kwargs={"resources": {"disk": 1}}, idle_seconds=5),
        8,
    ),
}
"""The executors of the suites, so that their pools are warm, and how many graphs each runs."""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with settings_override(
        home=folder,
        storage=str(folder / "storage"),
        history=f"sqlite:///{folder / 'history.db'}",
        display="none",
        log_level="CRITICAL",
    ):
        yield


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_agrees_with_the_oracle(name):
    executor, examples = EXECUTORS[name]
    if name == "ray":
        pools.close_all()  # a process can be in one Ray only, and earlier tests may have left another

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(graphs())
    def agrees(graph):
        with tempfile.TemporaryDirectory() as folder:
            tally = Tally(Path(folder))

            @headrace.flow(executor=executor, timeout_seconds=60)
            def played():
                return {"outcome": play(graph, tally)}

            outcome = played()["outcome"]
            expected, attempts = foretell(graph)
            assert outcome == expected
            assert {key: tally.count(key) for key in tally.names()} == attempts

    agrees()
