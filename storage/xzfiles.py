"""Files that were compressed by xz. Python may be built without it, so this is imported where one is met."""

from __future__ import annotations

import io
import lzma
from typing import Any


class XzFile(io.RawIOBase):
    """What an opened file holds, read in order. Damage is an `OSError`; closes that file, too."""

    def __init__(self, packed: Any) -> None:
        self._packed = packed
        self._file = lzma.LZMAFile(packed)  # noqa: SIM115 - closed with this one

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except (lzma.LZMAError, EOFError) as error:
            raise OSError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._packed.close()
        super().close()
