"""The built-in store on disk and in memory. Object stores: see tests/storage."""

import uuid

import pytest

from headrace.storage.store import ArrowStore
from headrace.testing import StoreConformance


class TestLocal(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path):
        return ArrowStore(tmp_path)


class TestMemory(StoreConformance):
    @pytest.fixture
    def store(self):
        return ArrowStore(f"memory://{uuid.uuid4().hex}")
