"""Fixtures: Google Cloud Storage by gcp-storage-emulator, made conditional (``gcs_server.py``)."""

from collections.abc import Iterator
from typing import Any

import pytest
from servers.object_store import ObjectStore
from servers.process import running


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[ObjectStore]:
    """Start the server; one serves the whole session."""
    with running("gcs_server") as facts:
        yield ObjectStore(
            protocol="gs",
            storage_options={
                "token": "anon",
                "project": "test",
                "endpoint_url": facts["endpoint"],
            },
            environment={"STORAGE_EMULATOR_HOST": facts["endpoint"]},
        )


@pytest.fixture
def gcs_url(gcs_server: ObjectStore) -> str:
    """The URL of an empty bucket, the test's own."""
    return gcs_server.new_bucket()


@pytest.fixture
def gcs_storage_options(gcs_server: ObjectStore) -> dict[str, Any]:
    """How to reach it, in fsspec's dialect."""
    return dict(gcs_server.storage_options)
