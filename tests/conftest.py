"""What every test stands on: an environment of its own, the servers, hypothesis' profiles."""

import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest

pytest_plugins = ["servers.s3", "servers.gcs", "servers.postgres", "servers.radosgw"]

# Examples are the same on each CI run, new on each local one, and never kept on disk.
hypothesis.settings.register_profile("local", deadline=None, database=None, print_blob=True)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("local"), derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

# gcsfs would ask each new bucket for its type over gRPC and TLS, and wait 60 s for an answer. It
# reads this when it is imported, which collecting the tests does; children inherit it.
PLAIN_GCSFS = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
os.environ[PLAIN_GCSFS] = "false"

FOREIGN = ("HEADRACE_", "AWS_", "GOOGLE_", "GCSFS_", "STORAGE_EMULATOR_", "DASK_", "RAY_", "PG")


LONG = (
    "conformance/test_ray.py",
    "examples/test_corpus.py",
    "executors/test_lost_workers.py",
    "executors/test_pools.py",
    "notebooks/test_notebooks.py",
    "plugins/test_shell.py",
    "resume/test_chaos.py",
    "resume/test_killed.py",
    "storage/test_operations.py",
    "test_packaging.py",
)
"""Files that take longest come first: where two run at a time, neither process is left alone with one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's settings gets in, nothing of the tests gets into the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [
            name for name in os.environ if name.startswith(FOREIGN) and name != PLAIN_GCSFS
        ]:
            patch.delenv(name)
        patch.setenv("HEADRACE_HOME", str(tmp_path_factory.mktemp("headrace-home")))
        yield


@pytest.fixture(autouse=True)
def own_search_path() -> Iterator[None]:
    """What a test (or the command line in it) adds to the search path goes with the test."""
    before = list(sys.path)
    yield
    sys.path[:] = before
