"""Shows MkDocs the package: its rooms alone, for whoever reads this folder reads every file below it."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def on_config(config: Any) -> Any:
    """Link what the package is made of into a folder of its name. Called by MkDocs."""
    package = ROOT / ".links" / "docs" / "headrace"
    package.mkdir(parents=True, exist_ok=True)
    for room in {
        ROOT / "__init__.py",
        *(place.parent for place in ROOT.glob("[a-z]*/__init__.py")),
    }:
        if not (package / room.name).is_symlink():
            (package / room.name).symlink_to(room)
    return config
