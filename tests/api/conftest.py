"""Flows of these tests run inline unless they say otherwise, in a home of the test session."""

from collections.abc import Iterator

import pytest

from headrace.core.settings import forget_settings, settings_override


@pytest.fixture(autouse=True)
def quiet_settings() -> Iterator[None]:
    forget_settings()
    with settings_override(executor="inline", storage="memory://api", display="none"):
        yield
    forget_settings()
