"""A store of each scheme, empty and the test's own."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from headrace.storage.store import ArrowStore

SCHEMES = ["local", "memory", "s3", "gs", pytest.param("radosgw", marks=pytest.mark.radosgw)]


def make_store(scheme: str, request: pytest.FixtureRequest, **more: Any) -> ArrowStore:
    if scheme == "local":
        path: Path = request.getfixturevalue("tmp_path")
        return ArrowStore(path / "store", **more)
    if scheme == "memory":
        return ArrowStore(f"memory://{uuid.uuid4()}/store", **more)
    name = {"s3": "s3_server", "gs": "gcs_server", "radosgw": "radosgw_server"}[scheme]
    server = request.getfixturevalue(name)
    url = f"{server.new_bucket()}/store"
    return ArrowStore(url, dict(server.storage_options), **more)
