"""The command's top: its sub-commands, loaded when they are used, and what it does with errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

OK, FAILED, USAGE = 0, 1, 2
"""Exit codes: all went well; the run (or what was asked) failed; it was asked wrongly."""

COMMANDS: Mapping[str, tuple[str, str]] = {
    "run": ("running:run", "Run a flow of yours."),
    "runs": ("records:runs", "Look at runs, past and present."),
    "resume": ("running:resume", "Go on with a run that did not complete."),
    "replay": ("running:replay", "Run one item of a run again, here."),
    "cancel": ("records:cancel", "Ask for a run's end."),
    "storage": ("storage:storage", "See what runs take in a store, and free it."),
    "explain": ("explaining:explain", "Say why items were taken from the cache, or were not."),
    "example": ("running:example", "Run a flow that headrace brings along."),
    "executors": ("listing:executors", "Executors, and whether they can be used here."),
    "version": ("listing:version", "Versions of headrace and of what it works with."),
}
"""Name -> where it is, below this package, and its line in the help (which imports none of them)."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        return getattr(import_module(f".{module}", __package__), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from ..core.nearmiss import near

            raise click.UsageError(f"no command {args[0]!r}{near(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
def headrace(debug: bool) -> None:
    """Run Python flows on threads, processes, Dask or Ray."""
    del debug  # read by `main`, which also sees what goes wrong before it is parsed


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; what goes wrong is one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = ["--debug"] * debug + [each for each in given if each != "--debug"]
    try:
        code = headrace.main(given, prog_name="headrace", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = _say("cancelled")
    except BrokenPipeError:  # as in `headrace runs list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    except Exception as error:  # the last one to see it: users get a line, not a traceback
        if debug:
            raise
        code = _told(error)
    sys.exit(code if isinstance(code, int) else OK)


def _told(error: Exception) -> int:
    """Say what went wrong in one line; gives the exit code."""
    from ..core.errors import ConfigurationError, HeadraceError

    if not isinstance(error, HeadraceError):
        return _say(f"{type(error).__name__}: {one_line(error)} (--debug shows where)")
    _say(one_line(error))
    return USAGE if isinstance(error, ConfigurationError) else FAILED


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def _say(message: str) -> int:
    click.echo(f"Error: {message}", err=True)
    return FAILED


class RunFailed(click.ClickException):
    """A run that did not complete: told in one line, exit code 1."""

    exit_code = FAILED


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON has no form for as text."""
    import json

    click.echo(json.dumps(value, default=str, indent=2))


if __name__ == "__main__":
    main()
