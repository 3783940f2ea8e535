"""Spans of time as options: ``--older-than 30d``."""

from __future__ import annotations

from typing import Any

import click

from ..core.durations import seconds_of


class _Span(click.ParamType[float]):
    name = "span"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return seconds_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SPAN = _Span()
