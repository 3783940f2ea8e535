"""What is shipped: the wheel has all of the package, and works away from the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent


def files_of_package(folder: Path) -> Iterator[Path]:
    """What belongs into the wheel: all files of the package, but at the root only modules."""
    for entry in folder.iterdir():
        if entry.is_dir() and (entry / "__init__.py").exists():
            yield from files_of_package(entry)
        elif entry.is_file() and (folder != ROOT or entry.suffix in {".py", ".typed"}):
            yield entry


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the sdist, so that the sdist is proved too."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-P", "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (built,) = folder.glob("headrace-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, without its dependencies."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", folder, wheel], check=True)
    return folder


def test_the_wheel_has_every_module_and_data_file(wheel: Path):
    expected = {f"headrace/{file.relative_to(ROOT).as_posix()}" for file in files_of_package(ROOT)}
    built = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert "headrace/py.typed" in expected
    assert "headrace/history/migrations/env.py" in expected
    assert built == expected


def test_the_smoke_tests_pass_against_the_wheel_from_another_folder(
    installed: Path, tmp_path: Path
):
    shutil.copytree(TESTS, tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )

    imported = python("-c", "import headrace; print(headrace.__file__)").stdout.strip()
    assert Path(imported).is_relative_to(installed)
    finished = python("-m", "pytest", "-c", "tests/pytest.ini", "-m", "smoke", "tests")
    assert finished.returncode == 0, finished.stdout
