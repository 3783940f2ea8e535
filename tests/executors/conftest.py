"""Makes the stand-in body importable, here and in children, and looks for leftovers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from listening import nothing_left


@pytest.fixture(autouse=True)
def no_leftovers(request):
    """Each test cleans up; those that share a pool are looked at when it closes."""
    if "bench" in request.fixturenames:
        yield
        return
    ray = "ray_cluster" in request.fixturenames  # it keeps descriptors in this process
    with nothing_left(descriptors=not ray):
        yield
