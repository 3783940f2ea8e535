"""Which GPUs of this machine a batch may use: its child sees these and no others."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

VARIABLE = "CUDA_VISIBLE_DEVICES"
"""Also what ROCm and most libraries go by."""


def visible(count: float, environment: Mapping[str, str]) -> list[str]:
    """Names of so many GPUs: those that this process may use, or the first ones of the machine.

    None, where it is known that there are fewer: then who counts does not mean devices.
    """
    wanted = math.ceil(count)
    known = environment.get(VARIABLE, os.environ.get(VARIABLE))
    names = [str(i) for i in range(wanted)] if known is None else known.split(",")
    return names[:wanted] if len(names) >= wanted else []


class Devices:
    """Who has how much of which GPU. Not thread-safe: its owner has a lock."""

    def __init__(self, names: Sequence[str]) -> None:
        self._free = dict.fromkeys(names, 1.0)

    def take(self, count: float) -> tuple[str, ...]:
        """GPUs for a batch that asks for so many; less than one is shared with others.

        Those with least room that is enough come first, so that whole ones stay whole. That there is
        enough of all together its owner sees to; parts of several may have to stand for a whole one.
        """
        number = math.ceil(count)
        if not number or not self._free:
            return ()
        share = count / number
        short = {name: free < share - 1e-9 for name, free in self._free.items()}
        chosen = sorted(self._free, key=lambda name: (short[name], self._free[name]))[:number]
        for name in chosen:
            self._free[name] -= share
        return tuple(sorted(chosen, key=list(self._free).index))

    def give(self, names: Sequence[str], count: float) -> None:
        """Give them back."""
        for name in names:
            self._free[name] += count / len(names)
