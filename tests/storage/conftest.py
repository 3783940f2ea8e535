"""Stores of every scheme."""

from collections.abc import Callable
from pathlib import Path

import pytest
from storage.stores import SCHEMES, make_store

from headrace.storage.store import ArrowRunStore, ArrowStore


@pytest.fixture(params=SCHEMES)
def store(request: pytest.FixtureRequest) -> ArrowStore:
    return make_store(request.param, request)


@pytest.fixture
def run(store: ArrowStore) -> ArrowRunStore:
    return store.run("run-1")


@pytest.fixture
def local_run(tmp_path: Path) -> ArrowRunStore:
    return ArrowStore(tmp_path / "store").run("run-1")


@pytest.fixture
def make_run(request: pytest.FixtureRequest) -> Callable[[str], ArrowRunStore]:
    return lambda scheme: make_store(scheme, request).run("run-1")
