"""Fixtures: S3 by moto, which honours preconditions, and checks no signature."""

from collections.abc import Iterator
from typing import Any

import pytest
from servers.object_store import ObjectStore
from servers.process import running


def s3_object_store(endpoint: str, key: str, secret: str) -> ObjectStore:
    """Describe the S3 server at an endpoint."""
    return ObjectStore(
        protocol="s3",
        storage_options={
            "key": key,
            "secret": secret,
            "endpoint_url": endpoint,
        },
        environment={
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
        },
    )


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    """Start the server; one serves the whole session."""
    with running("moto_server") as facts:
        yield s3_object_store(facts["endpoint"], "test-key", "test-secret")


@pytest.fixture
def s3_url(s3_server: ObjectStore) -> str:
    """The URL of an empty bucket, the test's own."""
    return s3_server.new_bucket()


@pytest.fixture
def s3_storage_options(s3_server: ObjectStore) -> dict[str, Any]:
    """How to reach it, in fsspec's dialect."""
    return dict(s3_server.storage_options)
