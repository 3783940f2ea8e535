"""Finding a flow by ``module:flow`` or ``file.py:flow``."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core.errors import ConfigurationError
from ..core.flows import Flow
from ..core.nearmiss import near


def find_flow(place: str) -> Flow[..., Any]:
    """The flow at a place. Without ``:flow`` the module's only one.

    Raises
    ------
    ConfigurationError
        There is no such module or flow; one line says what there is.
    """
    home, _, name = place.rpartition(":") if ":" in place else (place, "", "")
    module = _file(Path(home)) if home.endswith(".py") else _module(home)
    flows = {key: value for key, value in vars(module).items() if isinstance(value, Flow)}
    if name:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, Flow):
            return found
        what = "is no flow" if found is not None else "is not there"
        known = f" (flows there: {', '.join(flows)})" if flows else " (there are no flows)"
        raise ConfigurationError(f"{place}: {name!r} {what}{known}{near(name, flows)}")
    if len(flows) != 1:
        told = f"say which of {', '.join(flows)}" if flows else "there are no flows in it"
        raise ConfigurationError(f"{place}: {told}, as in {home}:{next(iter(flows), 'flow')}")
    return next(iter(flows.values()))


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigurationError(
                f"no module {name!r} here or among what is installed"
            ) from error
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise _broken(name, error) from error


def _file(path: Path) -> ModuleType:
    """A file as a module under its own name, with its folder on the path for what lies beside it."""
    path = path.expanduser().absolute()
    if not path.is_file():
        raise ConfigurationError(f"no file {path}")
    name = re.sub(r"\W", "_", path.stem)
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) != str(path):
        raise ConfigurationError(f"{path} has the name of another module, {name!r}: rename it")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        del sys.modules[name]
        raise _broken(str(path), error) from error
    return module


def _broken(place: str, error: BaseException) -> ConfigurationError:
    return ConfigurationError(f"{place} cannot be imported: {type(error).__name__}: {error}")
