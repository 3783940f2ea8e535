"""Fixtures: S3 by Ceph, a real one, from Debian packages. For tests marked ``radosgw``."""

from collections.abc import Iterator
from typing import Any

import pytest
from servers.object_store import ObjectStore
from servers.process import running
from servers.s3 import s3_object_store


@pytest.fixture(scope="session")
def radosgw_server() -> Iterator[ObjectStore]:
    """Start the server; one serves the whole session."""
    with running("radosgw_server") as facts:
        yield s3_object_store(facts["endpoint"], facts["key"], facts["secret"])


@pytest.fixture
def radosgw_url(radosgw_server: ObjectStore) -> str:
    """The URL of an empty bucket, the test's own."""
    return radosgw_server.new_bucket()


@pytest.fixture
def radosgw_storage_options(radosgw_server: ObjectStore) -> dict[str, Any]:
    """How to reach it, in fsspec's dialect."""
    return dict(radosgw_server.storage_options)
