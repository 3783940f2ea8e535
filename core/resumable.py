"""What every handle on a run can: go on with it."""

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
