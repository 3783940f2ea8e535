"""Settings: argument > ``HEADRACE_*`` environment > ``headrace.toml`` / ``[tool.headrace]`` > default.

Imported on first use: pydantic takes a fifth of a second.
"""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from . import forks
from .durations import seconds_of
from .errors import ConfigurationError
from .sizes import bytes_of


class Settings(BaseSettings):
    """All settings. Frozen; made by `get_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        validate_default=True,
    )

    home: Path = Path("~/.headrace")
    """Folder for what headrace keeps on this machine."""
    storage: str = ""
    """URL under which runs store their values; default ``<home>/storage``."""
    storage_options: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
    """Options of the storage's fsspec file system; never shown or stored."""
    storage_retention: str = ""
    """Age, such as ``"30d"``, beyond which `headrace storage sweep` deletes runs; default: never."""
    intermediates: Literal["keep", "until_run_ends", "drop"] = "keep"
    """What becomes of values that other tasks of the run have used: kept; removed when the run has
    completed; or removed as soon as all that was called with them has used them."""
    executor: str = "threads"
    """Name of the executor of flows that choose none."""
    history: str = ""
    """URL of the history database; default SQLite in ``<home>/history.db``."""
    display: Literal["auto", "none", "terminal", "notebook", "log"] = "auto"
    """How a run is shown while it goes on."""
    log_level: str = "INFO"
    """Lines below it are neither kept nor shown."""
    flush_seconds: float = Field(default=1.0, gt=0)
    """A worker commits finished items at least this often."""
    flush_bytes: int = Field(default=64 << 20, gt=0)
    """A worker commits finished items when they reach this size."""
    batch_seconds: float = Field(default=1.0, gt=0)
    """How much work a batch aims at."""
    grace_seconds: float = Field(default=5.0, ge=0)
    """How long cancelled work may take to stop by itself."""
    heartbeat_seconds: float = Field(default=2.0, gt=0)
    """How often a driver beats, and looks for requests."""
    infra_retries: int = Field(default=2, ge=0)
    """Attempts after a process died with an item, for tasks that say nothing."""
    inline_bytes: int = Field(default=64 << 10, ge=0)
    """Values up to this size ride along with their receipt."""
    inline_part_bytes: int = Field(default=256 << 10, ge=0)
    """Partitions up to this size ride along with their receipt."""
    inline_run_bytes: int = Field(default=64 << 20, ge=0)
    """Bytes that a driver keeps in memory of one run's values."""
    max_in_flight: int = Field(default=1_000_000, gt=0)
    """Items of a map pulled and not finished, or done and not taken by the next map, at most."""
    max_in_flight_bytes: int = Field(default=256 << 20, gt=0)
    """Bytes of the same, at most."""
    memory: str = ""
    """Memory of this machine that batches may take together, such as ``"8GB"``; default: most of it,
    or of the control group's limit."""
    log_bytes: int = Field(default=8 << 20, gt=0)
    """Log lines of a node in flight; beyond that they go through storage."""
    trust_storage: bool = True
    """Whether pickled values of the configured storage may be loaded."""

    @field_validator("home")
    @classmethod
    def _expand(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        import logging

        if value.upper() not in logging.getLevelNamesMapping():
            raise ValueError("no such level; use DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return value.upper()

    @field_validator("memory")
    @classmethod
    def _size(cls, value: str) -> str:
        if value:
            bytes_of(value)
        return value

    @field_validator("storage_retention")
    @classmethod
    def _span(cls, value: str) -> str:
        if value:
            seconds_of(value)
        return value

    @property
    def memory_bytes(self) -> int:
        """The memory that batches may take together; 0: not said."""
        return bytes_of(self.memory) if self.memory else 0

    @property
    def storage_url(self) -> str:
        """Where runs store their values."""
        return self.storage or str(self.home / "storage")

    @property
    def history_url(self) -> str:
        """Where history is."""
        return self.history or f"sqlite:///{self.home / 'history.db'}"

    def plain_storage_options(self) -> dict[str, str]:
        """The storage options with their secrets, for the file system alone."""
        return {name: value.get_secret_value() for name, value in self.storage_options.items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the nearest file."""
        return init_settings, env_settings, _NearestFile(settings_cls)


class _NearestFile(PydanticBaseSettingsSource):
    """``headrace.toml`` or a ``pyproject.toml`` with ``[tool.headrace]``, from here upward."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        path, values = nearest_file(Path.cwd())
        unknown = sorted(set(values) - set(Settings.model_fields))
        if unknown:
            from .nearmiss import near

            raise ConfigurationError(
                f"{path}: unknown setting {unknown[0]!r}{near(unknown[0], Settings.model_fields)}"
            )
        return dict(values)


def nearest_file(start: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """The settings file that counts for a folder, and what it says."""
    for folder in (start, *start.parents):
        own = folder / "headrace.toml"
        if own.is_file():
            return own, _read(own)
        project = folder / "pyproject.toml"
        if project.is_file():
            section = _read(project).get("tool", {}).get("headrace")
            if section is not None:
                return project, section
    return None, {}


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


_lock = forks.own_lock(threading.Lock())
_settings: Settings | None = None


def get_settings() -> Settings:
    """The process's settings, read once.

    Raises
    ------
    ConfigurationError
        A setting has a value that cannot be: one line names it.
    """
    global _settings
    with _lock:
        if _settings is None:
            _settings = _make({})
        return _settings


def forget_settings() -> None:
    """Read the environment and the files anew at the next `get_settings`."""
    global _settings
    with _lock:
        _settings = None


@contextmanager
def settings_override(**values: Any) -> Generator[Settings]:
    """Other settings while the block runs, for the whole process; meant for tests."""
    global _settings
    before = get_settings()
    kept = {name: getattr(before, name) for name in before.model_fields_set}
    changed = _make({**kept, **values})
    with _lock:
        _settings = changed
    try:
        yield changed
    finally:
        with _lock:
            _settings = before


def _make(values: Mapping[str, Any]) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in problem["loc"])
        raise ConfigurationError(
            f"setting {name!r} (HEADRACE_{name.upper()}): {problem['msg']}; "
            f"got {problem['input']!r}"
        ) from None
