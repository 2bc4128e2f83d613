"""The installed package: the content of the wheel, running from any folder, and messages for
missing packages."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copyfile, copytree, ignore_patterns

import pytest

import stepdiff_core
from stepdiff_core.cli.parser import find_recipe
from stepdiff_core.errors import StepDiffError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by `pip wheel FOLDER` in another folder from a copy of the tracked files."""
    made = tmp_path_factory.mktemp("wheel")
    (made / "source").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copyfile(ROOT / name, made / "source" / name)
    for folder in ("benchmarks", "docs", "tests", *stepdiff_core.PACKAGES):
        copytree(ROOT / folder, made / "source" / folder, ignore=ignore_patterns("__pycache__"))
    build = [
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "out",
        str(made / "source"),
    ]
    subprocess.run([sys.executable, "-m", *build], check=True, cwd=made)
    (found,) = (made / "out").iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    return folder


def python(*arguments: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in `cwd` with the package at `path`."""
    environment = os.environ | {"PYTHONPATH": str(path), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment
    )


@pytest.mark.full
def test_the_wheel_contains_the_rooms_but_no_tests_or_benchmarks(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    assert (
        {name for name in top if not name.endswith(".dist-info")}
        == set(stepdiff_core.PACKAGES)
        == {"featurize", "heads", "retrieval", "stepdiff", "stepdiff_core", "store"}
    )
    sources = {
        file.relative_to(ROOT).as_posix()
        for package in stepdiff_core.PACKAGES
        for file in (ROOT / package).rglob("*.*")
    }
    expected = {
        name
        for name in sources
        if name.endswith((".py", ".yaml", ".css", ".html", ".js", "py.typed"))
    }
    assert expected - names == set()
    assert {
        f"{room.replace('.', '/')}/py.typed" for room in ("stepdiff", *stepdiff_core.BELOW)
    } < names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


@pytest.mark.full
def test_the_installed_package_runs_from_any_folder(installed: Path, tmp_path: Path) -> None:
    where = python(
        "-c",
        "import store, heads; print(store.__file__, heads.__file__)",
        path=installed,
        cwd=tmp_path,
    )
    assert where.stdout.split() == [
        str(installed / "store/__init__.py"),
        str(installed / "heads/__init__.py"),
    ]
    assert python("-m", "store", "--help", path=installed, cwd=tmp_path).returncode == 0
    recipe = python(
        "-m",
        "heads.train",
        "--config",
        "kitchen/align",
        "--print-config",
        path=installed,
        cwd=tmp_path,
    )
    assert recipe.returncode == 0 and "contrastive:" in recipe.stdout


def test_a_recipe_is_found_by_name_unless_a_file_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = ROOT / "heads/recipes"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        StepDiffError, match=r"^kitchen/none: no such file or recipe; .*, kitchen/stepdiff, [^\n]*$"
    ):
        find_recipe("kitchen/none", recipes)
    assert find_recipe("kitchen/stepdiff", recipes) == recipes / "kitchen/stepdiff.yaml"
    (tmp_path / "kitchen").mkdir()
    (tmp_path / "kitchen/stepdiff").write_text("seed: 77\n")
    assert find_recipe("kitchen/stepdiff", recipes) == Path("kitchen/stepdiff")
    assert find_recipe("kitchen/stepdiff.yaml", recipes) == recipes / "kitchen/stepdiff.yaml"


@pytest.mark.full
@pytest.mark.parametrize("name", ["store/__init__.py", "retrieval.py"])
def test_a_folder_that_hides_a_room_is_named_in_one_line(
    name: str, installed: Path, tmp_path: Path
) -> None:
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("# the user's own\n")
    shown = str(own).removesuffix("__init__.py")
    message = (
        f"{shown} hides the package {own.relative_to(tmp_path).parts[0].removesuffix('.py')!r} of "
        "stepdiff: "
    )
    command = python("-m", "heads.train", "--help", path=installed, cwd=tmp_path)
    assert (command.returncode, command.stdout, command.stderr.count("\n")) == (2, "", 1)
    assert command.stderr.startswith(f"error: {message}")
    program = python("-c", "import heads", path=installed, cwd=tmp_path)
    assert program.stderr.splitlines()[-1].startswith(f"ImportError: {message}")
    assert python("-P", "-m", "heads.train", "--help", path=installed, cwd=tmp_path).returncode == 0


@pytest.mark.full
def test_a_folder_of_data_or_of_an_unused_room_is_accepted(installed: Path, tmp_path: Path) -> None:
    for folder in ("store/clips", "heads"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "heads/__init__.py").touch()
    assert python("-m", "store", "--help", path=installed, cwd=tmp_path).returncode == 0


MISSING = {
    "stepdiff.kitchen": "av",
    "featurize": "av",
    "retrieval": "faiss",
    "heads.train": "peft",
    "stepdiff.annotate.describe": "httpx2",
}


@pytest.mark.full
@pytest.mark.parametrize("command", MISSING)
def test_a_missing_package_is_named_with_its_extra(
    command: str, installed: Path, tmp_path: Path
) -> None:
    room = max(
        (name for name in stepdiff_core.EXTRAS if f"{command}.".startswith(f"{name}.")), key=len
    )
    module = MISSING[command]
    extra = stepdiff_core.EXTRAS[room][0]
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    message = (
        f"{room} needs packages that are not installed ({module}): pip install 'stepdiff[{extra}]'"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{installed}"}
    run = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment}
    started = subprocess.run([sys.executable, "-m", command], **run)  # type: ignore[call-overload]
    assert (started.returncode, started.stderr) == (2, f"error: {message}\n")
    helped = subprocess.run([sys.executable, "-m", command, ("--help")], **run)  # type: ignore[call-overload]
    assert (helped.returncode, helped.stderr) == (0, "")
    imported = subprocess.run([sys.executable, "-c", (f"import {room}")], **run)  # type: ignore[call-overload]
    assert imported.stderr.splitlines()[-1] == f"ImportError: {message}"


def distributions(requirements: list[str]) -> Iterator[str]:
    """Return the names of the distributions that the requirements install, including extras of this
    project."""
    for requirement in requirements:
        name, extras = re.match((r"([\w.-]+)(?:\[([\w,]+)\])?"), requirement).groups()  # type: ignore[union-attr]
        if name == "stepdiff":
            for extra in extras.split(","):
                yield from distributions(PROJECT["optional-dependencies"][extra])
        else:
            yield re.sub(r"[-_.]+", "-", name).lower()


MODULES = cache(packages_distributions)


def provided(requirements: list[str]) -> set[str]:
    """Return the top-level modules that the requirements install."""
    names, found = set(distributions(requirements)), MODULES().items()
    return {
        module
        for module, by in found
        if names & {re.sub(r"[-_.]+", "-", name).lower() for name in by}
    }


@pytest.mark.parametrize("room", stepdiff_core.EXTRAS)
def test_an_extra_installs_the_packages_that_its_room_checks_for(room: str) -> None:
    extra, modules = stepdiff_core.EXTRAS[room]
    assert set(modules) - provided(PROJECT["optional-dependencies"][extra]) == set()


@pytest.mark.parametrize("room", ["stepdiff_core", "store"])
def test_a_store_needs_only_the_hard_dependencies(room: str) -> None:
    allowed = (
        provided(PROJECT["dependencies"]) | sys.stdlib_module_names | set(stepdiff_core.PACKAGES)
    )
    for file in (ROOT / room).rglob("*.py"):
        if "tasks" in file.parts:  # its scorers need the extra `train`
            continue
        text = file.read_text(encoding="utf-8")
        # the module names its extra
        if re.search(r"^stepdiff_core\.require\(", text, re.MULTILINE):
            continue
        # its package does
        if "stepdiff_core.require(" in (file.parent / "__init__.py").read_text(encoding="utf-8"):
            continue
        for node in ast.parse(text).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            assert {name.split(".")[0] for name in names} <= allowed, file
