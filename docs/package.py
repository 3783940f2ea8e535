"""Shows MkDocs the package: its rooms alone, for whoever reads this folder reads every file below it."""

import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def on_startup(**_: Any) -> None:
    """Copy what the package is made of into a folder of its name. Called by MkDocs.

    Links would not do: they lead the reader back here. On its configuration it would be too late:
    who reads the folder has looked for it by then, and takes the installed package instead.
    """
    package = ROOT / ".links" / "docs" / "headrace"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    shutil.copy(ROOT / "__init__.py", package)
    for room in [place.parent for place in ROOT.glob("[a-z]*/__init__.py")]:
        shutil.copytree(room, package / room.name, ignore=shutil.ignore_patterns("__pycache__"))
