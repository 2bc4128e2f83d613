"""Links, anchors, files, options and targets that the pages name exist, and the site builds.

tests/journey runs the commands of the pages.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from stepdiff.annotate.__main__ import VERBS as ANNOTATE
from stepdiff_core import BELOW, PACKAGES
from tests.journey.commands import PAGES as RUN
from tests.journey.commands import ROOT, VERBS, blocks, commands, module, split_commands

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
FOLDERS = "|".join([*PACKAGES, "benchmarks", "docs", "tests"])
NAMED_FILE = re.compile(rf"`((?:{FOLDERS})/[\w./-]+\.(?:py|yaml|md|mk))`")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    """Return a page's text without code blocks."""
    return re.sub(
        r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ +(.+?) *$", text_of(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.replace("\\", "").lower()).replace(" ", "-")
        for title in titles
    }


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: no file {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: no heading for {target}"
        inside = (ROOT / "docs") in page.parents
        assert not inside or (ROOT / "docs") in file.parents, (
            f"{page.name}: {target} is not part of the site"
        )


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = NAMED_FILE.findall(text_of(page))
    assert [file for file in named if not (ROOT / file).is_file()] == []


def test_every_page_is_in_the_navigation() -> None:
    configuration = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert [page for page in pages if f'"{page}"' not in configuration] == []


def test_the_readme_has_at_most_200_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("room", sorted(set(BELOW) - {"stepdiff_core"}))
def test_every_room_is_in_the_api_reference(room: str) -> None:
    reference = (ROOT / "docs/api/index.md").read_text(encoding="utf-8")
    assert (
        f"\n## {room}\n\n::: {room}\n" in reference
        and f"| [{room}](#{room.replace('.', '')}) |" in reference
    )


@pytest.mark.full
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for package in ROOT.glob("*/__init__.py"):
        (tmp_path / package.parent.name).symlink_to(package.parent)
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
    assert "https://fonts" not in page
    for documented in (
        "store.Store",
        "heads.TrainOptions",
        "stepdiff.annotate.Agreement",
        "stepdiff.app.Site",
    ):
        assert documented.rpartition(".")[2] in re.findall(r"<h\d[^>]*\.(\w+)\"", page), documented
    assert len(re.findall(r"<h\d[^>]*featurize\.(?:encoders\.)?Encoder\"", page)) == 1


def test_no_block_to_run_starts_a_server() -> None:
    """A server does not end; its command belongs in a `console` block."""
    assert [line for line in commands() if module(line).startswith("stepdiff.app ")] == []


HELP = """
import contextlib, io, json, runpy, sys
flags = {}
for name, *rest in json.load(sys.stdin):
    sys.argv = [name, *rest]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    command = " ".join([name, *rest[:-1]])
    flags[command] = flags.get(command, "") + printed.getvalue()
json.dump(flags, sys.stdout)
"""
ROOMS_OF_VERBS = ("store", "retrieval", "stepdiff_core.weights", "stepdiff.app.people")
NESTED = (("heads.train", "video-lm"), ("heads.train", "contrastive"))
OPTION = r"(?<![\w-])--[a-z][\w.-]*"


def test_every_option_and_module_that_the_pages_name_exists() -> None:
    """In `console` blocks an option must belong to its command, in prose to any command."""
    named = [
        command
        for page in RUN
        for block in blocks(page, "console", "sh")
        for command in split_commands(block)
    ]
    named = [command.replace("python featurize.py", "python -m featurize") for command in named]
    used: dict[str, set[str]] = {}
    for command in named:
        if found := re.search(r"python -m (\S+)(?: (\S+))?", command):
            name, verb = found.groups()
            key = f"{name} {verb}" if name in ROOMS_OF_VERBS else name
            used.setdefault(key, set()).update(re.findall(OPTION, command[found.start() :]))
    prose = "\n".join(
        re.sub(r"^( *)```.*?^\1```", "", (ROOT / page).read_text(), flags=re.S | re.M)
        for page in RUN
    )
    quoted = " ".join(re.findall(r"`[^`\n]+`", prose))
    named = re.findall(r"`stepdiff ([a-z]+)(?: ([a-z]+))?[ `]", prose)
    known_verbs = {"", *ANNOTATE}
    unknown_verbs = [
        (name, verb) for name, verb in named if name == "annotate" and verb not in known_verbs
    ]
    assert [name for name, _ in named if name not in VERBS] == unknown_verbs == []
    modules = {key.split()[0] for key in used} | set(re.findall(r"python -m ([\w.]+)[ `]", quoted))
    assert [name for name in modules - {"benchmarks."} if find_spec(name) is None] == []

    used = {key: flags for key, flags in used.items() if not key.startswith("pip")}
    asked = [[*key.split(), "--help"] for key in (*used, "stepdiff.comparison.sheet")]
    done = subprocess.run(
        [sys.executable, "-c", HELP],
        input=json.dumps([*asked, *([name, f"--{kind}.help"] for name, kind in NESTED)]),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    known = {key: options(text) | {"--config"} for key, text in json.loads(done.stdout).items()}
    assert {key: unknown(flags, known[key]) for key, flags in used.items()} == {
        key: [] for key in used
    }
    # of make, sha256sum and `ray`
    others = {"--always-make", "--check", "--generate", "--runtime-env-json"}
    assert unknown(set(re.findall(OPTION, quoted)), set().union(*known.values(), others)) == []


def options(text: str) -> set[str]:
    return {flag.replace("_", "-") for flag in re.findall(OPTION, text)}


def unknown(flags: set[str], known: set[str]) -> list[str]:
    return sorted(
        flag for flag in flags if flag not in known and flag.replace("--no-", "--") not in known
    )


def test_make_targets_and_extras_that_the_pages_name_exist() -> None:
    text = "\n".join((ROOT / page).read_text() for page in RUN)
    makefile = (ROOT / "Makefile").read_text() + (ROOT / "reproduce.mk").read_text()
    for target in set(re.findall(r"(?:`|\$ |-j2 )make (?:-j2 )?([a-z]+)", text)):
        assert re.search(f"^{target}:", makefile, re.M), target
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = {name for group in re.findall(r"'\.\[([\w,]+)\]'", text) for name in group.split(",")}
    assert sorted(named - set(extras)) == []
