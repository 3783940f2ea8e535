"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.display import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (980, "980"),
        (9999, "9,999"),
        (10_000, "10.0k"),
        (123_456, "123k"),
        (999_499, "999k"),
        (999_950, "1.0M"),
        (1_234_567, "1.2M"),
        (5e14, "500T"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert formats.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (3_400_000_000, "3.4 GB"),
        (2e18, "2,000 PB"),
    ],
)
def test_sizes(value: float, text: str) -> None:
    assert formats.size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (130, "2 min 10 s"),
        (3599.7, "1 h"),
        (3900, "1 h 5 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, ""),
        (-1, ""),
        (float("nan"), ""),
        (42_123.4, "42.1k/s"),
        (1.0, "1.0/s"),
        (0.05, "3.0/min"),
        (0.5, "30/min"),
        (0.001, "3.6/h"),
        (1e-9, "0.0/h"),
    ],
)
def test_rates(rate: float, text: str) -> None:
    assert formats.rate(rate) == text


@given(st.floats(0, 9.99e14))
def test_counts_stay_short(value: float) -> None:
    assert len(formats.count(value)) <= 5
