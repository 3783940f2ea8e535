"""Opening a history: its tables, other processes, and everything that can be wrong with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

import headrace
from headrace.core.errors import ConfigurationError, HistoryError, MissingExtraError
from headrace.core.settings import Settings
from headrace.history import schema
from headrace.history.addresses import parse, public
from headrace.history.databases import Database
from headrace.history.sql import SqlHistory, default_path
from headrace.history.tables import metadata

from .records import a_log, a_run

PACKAGE_PARENT = str(Path(headrace.__file__).parent.parent)


def run_python(code: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([PACKAGE_PARENT, *sys.path])},
    )


# ------------------------------------------------------------------------------------------ tables


def test_the_migrations_make_the_tables_that_queries_see(history_url: str) -> None:
    SqlHistory(history_url).close()
    database = Database(parse(history_url))
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": schema.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []
    database.close()


def test_every_table_has_a_workspace() -> None:
    assert [t.name for t in metadata.sorted_tables if "workspace" not in t.columns] == []


def test_the_known_versions_are_the_scripts() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(script.revision for script in scripts)[::-1] == schema.VERSIONS


def test_what_is_written_is_there_when_it_is_opened_again(history_url: str) -> None:
    record = a_run()
    with SqlHistory(history_url) as history:
        history.append(record.id, 0, [record], driver="d")
    with SqlHistory(history_url) as history:
        assert history.runs() == [record]


def test_an_up_to_date_history_opens_without_the_migrations(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    SqlHistory(path).close()
    code = (
        "import sys; from headrace.history.sql import SqlHistory; SqlHistory(sys.argv[1]).close();"
        "print('alembic' in sys.modules)"
    )
    process = run_python(code, str(path))
    assert process.communicate() == ("False\n", "")


def test_a_history_of_a_newer_version_is_refused(history_url: str) -> None:
    SqlHistory(history_url).close()
    database = Database(parse(history_url))
    with database.write() as connection:
        connection.execute(text("UPDATE headrace_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(HistoryError, match=r"version 9999.*newer.*up to 0003.*Upgrade"):
        SqlHistory(history_url)


def test_a_migration_that_fails_leaves_nothing(history_url: str) -> None:
    database = Database(parse(history_url))
    with database.write() as connection:
        connection.execute(text("CREATE TABLE logs (other INTEGER)"))
    with pytest.raises(HistoryError, match="already exists"):
        SqlHistory(history_url)
    with database.write() as connection:
        connection.execute(text("DROP TABLE logs"))
    database.close()
    SqlHistory(history_url).close()


def test_processes_that_open_a_new_history_at_once_all_can(history_url: str) -> None:
    code = """
import sys
from uuid import UUID
from headrace.core.interfaces import LogRecord
from headrace.history.sql import SqlHistory, _now
sys.stdin.readline()
history = SqlHistory(sys.argv[1])
print("opened", flush=True)
run = UUID(sys.argv[2])
sys.stdin.readline()
for seq in range(20):
    history.append(run, seq, [LogRecord(run, 0, 0, _now(), 20, "", str(seq))], driver=sys.argv[3])
history.close()
"""
    record = a_run()
    processes = [run_python(code, history_url, str(record.id), f"d{i}") for i in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n", process.communicate()
    with SqlHistory(history_url) as history:
        history.append(record.id, 0, [record], driver="d")
        for process in processes:
            assert process.communicate("go\n") == ("", "")
        assert len(history.logs(record.id)) == 60


def test_what_append_returned_from_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    record = a_run()
    with SqlHistory(path) as history:
        history.append(record.id, 0, [record], driver="d")
    code = """
import os, signal, sys
from uuid import UUID
from headrace.core.interfaces import LogRecord
from headrace.history.sql import SqlHistory, _now
history = SqlHistory(sys.argv[1])
run = UUID(sys.argv[2])
for seq in range(10):
    history.append(run, seq, [LogRecord(run, 0, 0, _now(), 20, "", str(seq))], driver="d2")
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_python(code, str(path), str(record.id))
    process.communicate()
    assert process.returncode == -9
    with SqlHistory(path) as history:
        assert [log.message for _, log in history.logs(record.id)] == [str(i) for i in range(10)]


def test_the_file_is_in_wal_mode(tmp_path: Path) -> None:
    database = Database(parse(tmp_path / "history.db"))
    with database.write() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
    database.close()


def test_readers_cannot_write(tmp_path: Path) -> None:
    SqlHistory(tmp_path / "history.db").close()
    database = Database(parse(tmp_path / "history.db"))
    with pytest.raises(HistoryError, match="readonly"), database.read() as connection:
        connection.exec_driver_sql("DELETE FROM runs")
    database.close()


# ------------------------------------------------------------------------------------------ errors


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, only words; " * 100)
    with pytest.raises(HistoryError, match=r"notes\.txt.*not a database.*Give the path"):
        SqlHistory(path)
    assert path.read_text().startswith("not a database")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match=r"file/sub.*HEADRACE_HISTORY\)"):
        SqlHistory(tmp_path / "file" / "sub" / "history.db")


def test_a_folder_that_cannot_be_written_is_named() -> None:
    # Not even root can make a file in /proc.
    with pytest.raises(HistoryError, match=r"/proc/history\.db.*unable to open") as told:
        SqlHistory("/proc/history.db")
    named = re.findall(r"HEADRACE_(\w+)", str(told.value))
    assert [name.lower() in Settings.model_fields for name in named] == [True]


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="is a folder"):
        SqlHistory(tmp_path)


def test_a_server_that_cannot_be_reached_is_named_without_the_password() -> None:
    with pytest.raises(HistoryError) as caught:
        SqlHistory("postgresql://ann:hunter2@127.0.0.1:9/runs")
    message = str(caught.value)
    assert "postgresql://ann@127.0.0.1:9/runs" in message
    assert "See that the server runs" in message
    assert "hunter2" not in message
    assert "hunter2" not in repr(caught.value.__cause__)


def test_a_database_that_does_not_exist_is_named(postgres_server: str) -> None:
    with pytest.raises(HistoryError, match=r"absent.*does not exist.*Create it"):
        SqlHistory(postgres_server.replace("/postgres?", "/absent?"))


def test_a_missing_psycopg_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r'pip install "headrace\[postgres\]"'):
        SqlHistory("postgresql://localhost/runs")


@pytest.mark.parametrize(
    "bad", ["mysql://host/db", "sqlite://", "sqlite:///:memory:", "postgresql://u:hunter2@h:port/d"]
)
def test_an_address_of_no_known_kind_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://<user>@<host>") as caught:
        SqlHistory(bad)
    assert "hunter2" not in str(caught.value)


def test_a_lost_connection_is_made_again(postgres_url: str) -> None:
    record = a_run()
    with SqlHistory(postgres_url) as history:
        history.append(record.id, 0, [record], driver="d")
        assert history.logs(record.id) == []
        other = Database(parse(postgres_url))
        with other.read() as connection:
            ended = connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'headrace' AND pid <> pg_backend_pid()"
                    " AND datname = current_database()"
                )
            )
            assert len(ended.all()) == 2  # the writer's and the reader's
        other.close()
        history.append(record.id, 1, [a_log(record.id)], driver="d")
        assert len(history.logs(record.id)) == 1


# --------------------------------------------------------------------------------------- addresses


def test_paths_and_urls_of_files_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    forms = [tmp_path / "h.db", "h.db", "~/h.db", f"sqlite:///{tmp_path}/h.db", "sqlite:///h.db"]
    assert {public(parse(form)) for form in forms} == {f"sqlite:///{tmp_path}/h.db"}


def test_an_odd_path_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a b %41 ü?x#y" / "history.db"
    record = a_run()
    with SqlHistory(path) as history:
        history.append(record.id, 0, [record], driver="d")
    assert path.is_file()


def test_the_default_is_in_the_home_of_headrace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    assert default_path() == tmp_path / "home" / "history.db"
    SqlHistory().close()
    assert default_path().is_file()
    monkeypatch.delenv("HEADRACE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() == tmp_path / ".headrace" / "history.db"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2@host:5433/runs?sslmode=require",
        "postgres://ann@host:5433/runs?password=hunter2&sslmode=require",
        "postgresql+psycopg://ann:hunter2@host:5433/runs?sslpassword=hunter2&sslmode=require",
    ],
)
def test_no_secret_is_in_a_public_address(url: str) -> None:
    assert public(parse(url)) == "postgresql://ann@host:5433/runs?sslmode=require"


def test_repr_and_url_hold_no_password(postgres_url: str) -> None:
    with SqlHistory(postgres_url.replace("postgres:@", "postgres:hunter2@")) as history:
        assert "hunter2" not in repr(history) + history.url
