"""Links, anchors and file names in the pages exist, and the site builds."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepdiff import BELOW, PACKAGES

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
FOLDERS = "|".join([*PACKAGES, "benchmarks", "docs", "tests"])
NAMED_FILE = re.compile(rf"`((?:{FOLDERS})/[\w./-]+\.(?:py|yaml|md|mk))`")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    """Return a page's text without code blocks."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ +(.+?) *$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("\\", "").lower()).replace(" ", "-") for title in titles}


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
        assert not inside or (ROOT / "docs") in file.parents, f"{page.name}: {target} is not part of the site"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = NAMED_FILE.findall(text_of(page))
    assert [file for file in named if not (ROOT / file).is_file()] == []


def test_every_page_is_in_the_navigation() -> None:
    configuration = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert [page for page in pages if f'"{page}"' not in configuration] == []


def test_the_readme_has_at_most_250_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("room", sorted(set(BELOW) - {"stepdiff.common"}))
def test_every_room_is_in_the_api_reference(room: str) -> None:
    reference = (ROOT / "docs/api/index.md").read_text(encoding="utf-8")
    assert f"\n## {room}\n\n::: {room}\n" in reference and f"| [{room}](#{room.replace('.', '')}) |" in reference


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
    for documented in ("store.Store", "heads.TrainOptions", "stepdiff.annotate.Agreement", "stepdiff.app.Site"):
        assert documented.rpartition(".")[2] in re.findall(r"<h\d[^>]*\.(\w+)\"", page), documented
    assert len(re.findall(r"<h\d[^>]*featurize\.(?:encoders\.)?Encoder\"", page)) == 1
