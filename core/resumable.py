"""What every handle on a run can: show it while it goes on, and go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

if TYPE_CHECKING:
    from .runs import FlowRun
    from .tasks import Task


Recompute: TypeAlias = Literal["missing", "changed"]
"""What a resume runs: what is missing; or also what was made by other code, and what stands on it."""


class Resumable:
    """A handle on a run, of this process or as history tells it."""

    def watch(self) -> None:
        """Show it as it goes on, and come back when it has ended.

        In a notebook below the cell, in a terminal on standard error; not a second time where it is
        shown already. Ctrl-C ends the waiting, and not the run.
        """
        from .registry import open_display
        from .settings import get_settings

        run = cast("Any", self)
        if not run.show.displays and (display := open_display(get_settings().display)) is not None:
            run.show.add(display)
        run.wait()
        run.show.join()

    def resume(
        self,
        *,
        executor: Any = None,
        parameters: Mapping[str, Any] | None = None,
        force: bool = False,
        recompute: Recompute = "missing",
        verify: bool = False,
        **tasks: Task[..., Any],
    ) -> FlowRun[Any]:
        """Go on with it in this process, if it did not complete: see `headrace.resume`.

        Keywords beyond these are tasks that take the place of the flow's of these names:
        ``run.resume(clean=mended)``.
        """
        from .resumption import resume

        run = cast("Any", self)
        return resume(
            run,
            executor=executor,
            parameters=parameters,
            force=force,
            recompute=recompute,
            verify=verify,
            tasks=tasks,
        )
