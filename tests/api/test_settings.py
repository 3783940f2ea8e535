"""Argument > environment > nearest file > default."""

from pathlib import Path

import pytest

from headrace.core.errors import ConfigurationError
from headrace.core.settings import forget_settings, get_settings, settings_override


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    deep = tmp_path / "project" / "deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    forget_settings()
    return tmp_path / "project"


def test_defaults_follow_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    settings = get_settings()
    assert settings.executor == "threads"
    assert settings.storage_url == str(tmp_path / "storage")
    assert settings.history_url == f"sqlite:///{tmp_path / 'history.db'}"


def test_the_environment_goes_before_the_nearest_file(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (own_folder / "pyproject.toml").write_text(
        "[tool.headrace]\nexecutor = 'dask'\nflush_seconds = 3\n"
    )
    monkeypatch.setenv("HEADRACE_EXECUTOR", "ray")
    assert (get_settings().executor, get_settings().flush_seconds) == ("ray", 3.0)
    (own_folder / "deep" / "headrace.toml").write_text("flush_seconds = 4\n")
    forget_settings()
    assert get_settings().flush_seconds == 4.0
    with settings_override(executor="inline") as changed:
        assert (changed.executor, changed.flush_seconds) == ("inline", 4.0)
    assert get_settings().executor == "ray"


def test_bad_values_and_unknown_names_are_one_line(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HEADRACE_FLUSH_SECONDS", "soon")
    with pytest.raises(ConfigurationError, match=r"HEADRACE_FLUSH_SECONDS.*got 'soon'"):
        get_settings()
    monkeypatch.delenv("HEADRACE_FLUSH_SECONDS")
    monkeypatch.setenv("HEADRACE_LOG_LEVEL", "chatty")
    with pytest.raises(ConfigurationError, match="no such level"):
        get_settings()
    monkeypatch.delenv("HEADRACE_LOG_LEVEL")
    (own_folder / "headrace.toml").write_text("executer = 'dask'\n")
    with pytest.raises(ConfigurationError, match="'executer'; did you mean 'executor'"):
        get_settings()
    (own_folder / "headrace.toml").write_text("executor = \n")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        get_settings()


def test_storage_options_are_secret(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HEADRACE_STORAGE_OPTIONS", '{"key": "open-sesame"}')
    settings = get_settings()
    assert "sesame" not in repr(settings)
    assert settings.plain_storage_options() == {"key": "open-sesame"}
