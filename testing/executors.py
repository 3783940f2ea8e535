"""The suite that every executor passes, put together from its parts."""

from __future__ import annotations

from .cancelling import CancellingConformance
from .checkpointing import CheckpointingConformance
from .closing import ClosingConformance
from .code import CodeConformance
from .deaths import DeathsConformance
from .errors import ErrorsConformance
from .interrupting import InterruptingConformance
from .limits import LimitsConformance
from .partial import PartialFailureConformance
from .results import ResultsConformance
from .telling import TellingConformance


class ExecutorConformance(
    ResultsConformance,
    ErrorsConformance,
    PartialFailureConformance,
    DeathsConformance,
    CheckpointingConformance,
    LimitsConformance,
    CancellingConformance,
    InterruptingConformance,
    TellingConformance,
    CodeConformance,
    ClosingConformance,
):
    """Subclass it as ``class TestMine``, with ``executor = MyExecutor(...)``.

    The executor should have at least two slots. It is pickled for the scripts that the suite
    starts (`elsewhere`), its workers must see pytest's ``tmp_path`` (`shared`), and one that
    offers a custom resource says so (`custom`).
    """
