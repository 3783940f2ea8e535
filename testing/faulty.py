"""A file system below headrace's retries that fails: before, while, or after the bytes land.

``faulty:///folder`` is a local folder through fsspec, with whole puts and puts if absent, as an object
store has them. Where ``HEADRACE_TESTING_FAULTS`` is ``0.05:/notes``, and once there is such a file, one
call in twenty fails as a dropped connection does, and a line of the file says which. After a second
rate, as in ``0.05,0.2:/notes``, puts of a run's journal fail, which are few. `install` makes the scheme known to
fsspec by an entry point, in a folder for the ``PYTHONPATH`` of all processes. The module stands
alone, since it is loaded from there.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

from fsspec.implementations.local import LocalFileSystem

VARIABLE = "HEADRACE_TESTING_FAULTS"
SCHEME = "faulty"
_LANDING = ".landing-"
"""Beginning of the names of what has not landed: neither listed nor read."""


def install(folder: Path) -> Path:
    """Make a folder with a distribution that registers the scheme; gives the folder."""
    info = folder / "headrace_faulty-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(__file__, folder / "headrace_faulty.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: headrace-faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[fsspec.specs]\n{SCHEME} = headrace_faulty:FaultyFileSystem\n"
    )
    return folder


class FaultyFileSystem(LocalFileSystem):
    """A folder as an object store that drops connections."""

    protocol = SCHEME

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return "/" + os.fspath(path).removeprefix(f"{SCHEME}://").strip("/")

    def pipe_file(self, path: Any, value: Any, mode: Any = "overwrite", **_: Any) -> None:
        target = self._strip_protocol(path)
        when = _fault("put", target)
        if when == "before":
            raise _dropped(target)
        folder = os.path.dirname(target)
        os.makedirs(folder, exist_ok=True)
        landing = f"{folder}/{_LANDING}{uuid4().hex}"
        try:
            with open(landing, "wb") as file:
                file.write(memoryview(value)[: len(value) // 2 if when == "during" else None])
            if when == "during":
                raise _dropped(target)
            (os.link if mode == "create" else os.replace)(landing, target)
        finally:
            Path(landing).unlink(missing_ok=True)
        if when == "after":
            raise _dropped(target)

    def put_file(self, lpath: Any, rpath: Any, *_: Any, **options: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes(), **options)

    def cat_file(self, path: Any, *rest: Any, **options: Any) -> Any:
        self._may_drop("get", path)
        return super().cat_file(path, *rest, **options)

    def find(self, path: Any, *rest: Any, **options: Any) -> Any:
        self._may_drop("list", path)
        return super().find(path, *rest, **options)

    def ls(self, path: Any, detail: bool = False, **_: Any) -> Any:
        found: list[Any] = []
        folder = self._strip_protocol(path)
        for name in sorted(os.listdir(folder)):
            try:
                info = self.info(f"{folder}/{name}")
            except FileNotFoundError:  # removed since the folder was read
                continue
            if not name.startswith(_LANDING):
                found.append(info if detail else info["name"])
        return found

    def rm(self, path: Any, *rest: Any, **options: Any) -> None:
        self._may_drop("delete", path[0] if isinstance(path, list) else path)
        super().rm(path, *rest, **options)

    def _may_drop(self, verb: str, path: Any) -> None:
        if _fault(verb, path):
            raise _dropped(path)


def _fault(verb: str, path: Any) -> str:
    """When this call is to fail, if it is: noted, so that faults can be counted."""
    rates, _, notes = os.environ.get(VARIABLE, "0:").partition(":")
    rate, _, of_journal = rates.partition(",")
    if of_journal and verb == "put" and "/journal/" in str(path):
        rate = of_journal
    if random.random() >= float(rate) or not os.path.exists(notes):
        return ""
    when = random.choice(("before", "during", "after")) if verb == "put" else "before"
    with open(notes, "ab", buffering=0) as file:
        file.write(f"{verb} {when} {path}\n".encode())
    return when


def _dropped(path: Any) -> ConnectionError:
    return ConnectionResetError(f"the connection was dropped at {path}")
