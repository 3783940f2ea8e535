"""``headrace run`` and ``headrace example``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any, get_args

import click

from ..core.errors import Cancelled, ConfigurationError, HeadraceError
from ..core.flows import Flow
from ..core.nearmiss import near
from ..core.resumable import Recompute
from ..core.resumption import resume as resume_run
from ..core.runs import attach
from ..core.states import State
from .finding import find_flow
from .main import RunFailed, one_line, print_json
from .parameters import read_parameters

_LONGEST_RESULT = 2_000


def _options(function: Any) -> Any:
    """Options of both commands."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
        click.option("--name", help="Name of the run."),
        click.option("--params", metavar="FILE", help="Parameters: a file with a JSON object."),
        click.option(
            "--param", "-p", "pairs", multiple=True, metavar="NAME=VALUE",
            help="A parameter, as JSON or text. May be given several times.",
        ),
        click.option("--storage", metavar="URL", help="Where values live: a path or URL."),
        click.option("--executor", "-e", help="Where tasks run: see `headrace executors`."),
    ):  # fmt: skip
        function = option(function)
    return function


@click.command()
@click.argument("place", metavar="MODULE:FLOW")
@_options
def run(
    place: str,
    executor: str | None,
    storage: str | None,
    pairs: Sequence[str],
    params: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Run the flow at MODULE:FLOW, or FILE.py:FLOW."""
    found = find_flow(place)
    given = read_parameters(found, pairs, params)
    _run(_configured(found, executor, storage, name), given, as_json=as_json)


@click.command()
@click.argument("which", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--force", is_flag=True, help="Take it over from a driver that seems to be alive.")
@click.option(
    "--recompute",
    type=click.Choice(get_args(Recompute)),
    default="missing",
    show_default=True,
    help="What runs: what is missing, or also what was made by other code.",
)
@click.option("--verify", is_flag=True, help="Read all its values first, and remake damaged ones.")
@click.option("--storage", metavar="URL", help="Where its values are, if history does not know.")
@click.option("--executor", "-e", help="In place of the one that it had.")
def resume(
    which: str,
    executor: str | None,
    storage: str | None,
    recompute: Recompute,
    force: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Go on with RUN: only what has no committed result runs."""
    sys.path.insert(0, os.getcwd())
    run = resume_run(
        which,
        executor=executor,
        storage=storage,
        force=force,
        recompute=recompute,
        verify=verify,
    )
    try:
        run.wait()
    except KeyboardInterrupt:
        run.cancel(reason="interrupted from the keyboard")
        run.wait()
        raise RunFailed("interrupted: the run was cancelled") from None
    _tell(run.state, as_json=as_json)


@click.command()
@click.argument("which", metavar="RUN")
@click.argument("node")
@click.argument("position", metavar="[ITEM]", type=int, default=0)
@click.option("--pdb", "debugger", is_flag=True, help="Open the debugger where it raises.")
def replay(which: str, node: str, position: int, debugger: bool) -> None:
    """Run one item of RUN again in this process, with what it was given; nothing is recorded.

    NODE is a task's key, as `headrace runs show` tells it, such as clean-0.
    """
    import pdb  # noqa: T100 - that is what it is for
    import traceback

    sys.path.insert(0, os.getcwd())
    item = attach(which).item(node, position)
    try:
        result = item.replay()
    except HeadraceError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's own task may raise anything
        traceback.print_exc()
        if debugger:
            pdb.post_mortem(error.__traceback__)
        raise RunFailed(f"{node}[{position}]: {type(error).__name__}: {one_line(error)}") from None
    click.echo(_short(result))


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("example_name", metavar="[EXAMPLE]", required=False)
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[--PARAMETER VALUE]...")
@_options
def example(
    example_name: str | None,
    more: Sequence[str],
    executor: str | None,
    storage: str | None,
    pairs: Sequence[str],
    params: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Run an example, such as `corpus`; without a name, list them.

    Its parameters may be given as options: --source s3://raw --target clean.
    """
    from ..examples import EXAMPLES

    if example_name is None:
        for known, where in EXAMPLES.items():
            click.echo(f"{known:10} {find_flow(where).description.partition(chr(10))[0]}")
        return
    if example_name not in EXAMPLES:
        raise ConfigurationError(
            f"no example {example_name!r} (known: {', '.join(EXAMPLES)}){near(example_name, EXAMPLES)}"
        )
    found = find_flow(EXAMPLES[example_name])
    given = read_parameters(found, [*_as_pairs(more), *pairs], params)
    _run(_configured(found, executor, storage, name), given, as_json=as_json)


def _as_pairs(more: Sequence[str]) -> list[str]:
    """``--a-b 1`` and ``--a-b=1`` as ``a_b=1``; ``a=1`` as it is."""
    found: list[str] = []
    left = list(more)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            found.append(word)
            continue
        option, equals, value = word[2:].partition("=")
        if not equals:
            if not left:
                raise click.UsageError(f"{word} needs a value")
            value = left.pop(0)
        found.append(f"{option.replace('-', '_')}={value}")
    return found


def _configured(
    found: Flow[..., Any], executor: str | None, storage: str | None, name: str | None
) -> Flow[..., Any]:
    """The flow with the options that were given."""
    from ..core.registry import resolve_executor

    options: dict[str, Any] = {}
    if executor is not None:
        options["executor"] = resolve_executor(executor)
    if storage is not None:
        options["storage"] = storage
    if name is not None:
        options["flow_run_name"] = name.replace("{", "{{").replace("}", "}}")
    return found.with_options(**options) if options else found


def _run(configured: Flow[..., Any], given: dict[str, Any], *, as_json: bool) -> None:
    """Run it in this thread, so that Ctrl-C reaches it, and print what became of it."""
    try:
        ended = configured(**given, return_state=True)
        state: State[Any] = asyncio.run(ended) if asyncio.iscoroutine(ended) else ended
    except KeyboardInterrupt:
        raise RunFailed("interrupted: the run was cancelled") from None
    _tell(state, as_json=as_json)


def _tell(state: State[Any], *, as_json: bool) -> None:
    """Print what became of a run."""
    record = attach(state.run).record() if state.run else None
    label = f"run {record.name} ({record.id})" if record is not None else "the run"
    if as_json:
        print_json(
            {
                "id": record.id if record else None,
                "name": record.name if record else None,
                "state": state.name,
                "message": state.message,
                "result": _result(state),
            }
        )
    if not state.is_completed():
        _fail(label, state)
    if not as_json:
        click.echo(f"{label}: {state.name}", err=True)
        result = _result(state)
        if result is not None:
            click.echo(_short(result))


def _fail(label: str, state: State[Any]) -> None:
    """Tell in one line why a run did not complete; ``--debug`` shows the whole error."""
    error = state.exception()
    if error is None or isinstance(error, Cancelled):
        raise RunFailed(f"{label}: {state.name}: {state.message}")
    if click.get_current_context().find_root().params.get("debug"):
        raise error
    kind = "" if isinstance(error, HeadraceError) else f"{type(error).__name__}: "
    raise RunFailed(f"{label}: {state.name}: {kind}{one_line(error)}")


def _result(state: State[Any]) -> Any:
    return state.result(raise_on_failure=False) if state.is_completed() else None


def _short(result: Any) -> str:
    """A result as JSON where it has such a form, else as Python shows it; not too long."""
    import json

    try:
        text = json.dumps(result, indent=2)
    except (TypeError, ValueError):
        text = repr(result)
    return text if len(text) <= _LONGEST_RESULT else f"{text[:_LONGEST_RESULT]} ..."
