"""``headrace executors`` and ``headrace version``."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec

import click

from ..core.errors import ConfigurationError
from ..core.registry import EXECUTORS, names, resolve_executor
from .main import print_json
from .tables import table

_ENGINES: Mapping[str, tuple[str, str]] = {
    "dask": ("distributed", 'pip install "headrace[dask]"'),
    "ray": ("ray", 'pip install "headrace[ray]"'),
}
"""Executor -> the module that it needs, and how to get it."""
_PACKAGES = ("headrace", "pyarrow", "distributed", "ray")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def executors(as_json: bool) -> None:
    """List executors, and what is missing for them."""
    found = {name: _missing(name) for name in names(EXECUTORS)}
    if as_json:
        print_json([{"name": n, "installed": not m, "missing": m} for n, m in found.items()])
        return
    rows = [(name, "no" if missing else "yes", missing) for name, missing in found.items()]
    click.echo(table(("name", "installed", "to install it"), rows, "none"))


def _missing(name: str) -> str:
    """What to do before an executor can be used; empty if nothing."""
    if name in _ENGINES:
        module, command = _ENGINES[name]
        return "" if find_spec(module) is not None else command
    try:
        resolve_executor(name)
    except ConfigurationError as error:
        return " ".join(str(error).split())
    return ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def version(as_json: bool) -> None:
    """Print versions."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:
            found[package] = _own_version() if package == "headrace" else "not installed"
    if as_json:
        print_json(found)
        return
    for package, number in sorted(found.items(), key=lambda pair: pair[0] != "headrace"):
        click.echo(f"{package:12} {number}")


def _own_version() -> str:
    """In a checkout that was never installed."""
    from .. import __version__

    return __version__
