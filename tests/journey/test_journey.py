"""The path of a user in a folder like a clone: `make demo` with small sizes, all pages of `make
app`, the commands that `make demo` prints as next steps, and every `sh` and `python` block of
README.md and docs/. Then `make reproduce`.

`JOURNEY=FOLDER pytest tests/journey` begins with a copy of FOLDER/data and FOLDER/runs;
`REAL_VIDEOS=FOLDER` compares the videos of FOLDER, which the heads do not know.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from tests.journey import commands as pages
from tests.journey.commands import ROOT, run, run_lines, smaller
from tests.journey.crawl import Crawl

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.full, pytest.mark.timeout(2400)]
JOURNEY, REAL_VIDEOS = os.environ.get("JOURNEY"), os.environ.get("REAL_VIDEOS")
VIDEOS, ROWS, TRAIN = 48, 20, "--video_lm.schedule.steps 4"
MAKE = ["make", "--old-file=.venv/.installed"]  # the environment of the tests, as it is
SMALL = [f"VIDEOS={VIDEOS}", f"TRAIN={TRAIN}", f"SHUFFLED=diffmcq:{ROWS} diffrank:{ROWS}"]
SMALL = [] if JOURNEY else [*SMALL, f"ROWS_ALL=diffmcq:{ROWS} diffrank:{ROWS} diffcap:{ROWS}"]
# Options that make each command small; the first three are those of the small demo, and its files
# serve again.
SMALLER = {
    "stepdiff.kitchen": f"--videos {VIDEOS}",
    "heads.train --config heads/recipes/kitchen/stepdiff.yaml": TRAIN,
    "heads.evaluate": f"--rows {ROWS}",
    "heads.ask": "--max-tokens 16",  # a head of so few steps does not end
    "heads.train --config heads/recipes/kitchen/align.yaml": "--contrastive.schedule.steps 4",
    "heads.report": "--bootstrap 50",
    "stepdiff.annotate.captions": "--max-tokens 4 --workers 2",
    "stepdiff.annotate.describe": "--sampling.max-tokens 4 --words 10 --allow-failed --workers 2",
    "stepdiff.annotate.pairs": "--cap 4",
    "stepdiff.annotate.pairqa": "--sampling.max-tokens 8 --workers 2",
}
SMALLER = {} if JOURNEY else SMALLER
# not in the cache of the user
SMALLER |= {"stepdiff.comparison": "--max-tokens 4 --store data/compared"}


class Demo(NamedTuple):
    """A folder that is like a clone, after `make demo`, and what that printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("clone")
    for entry in ROOT.iterdir():
        if entry.name not in ("data", "runs", ".git", ".venv"):
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").symlink_to(sys.prefix)
    if JOURNEY:
        for name in ("data", "runs"):
            shutil.copytree(Path(JOURNEY) / name, folder / name)
    return Demo(folder, run(folder, [*MAKE, "demo", *SMALL]))


def test_make_demo_scores_all_methods(demo: Demo) -> None:
    named = re.findall(r"data/demo/\w+\.scores\.json", demo.printed)
    assert len(named) > 15 and all((demo.folder / name).is_file() for name in named)


@pytest.fixture(scope="module")
def app(demo: Demo) -> Iterator[tuple[httpx.Client, Path]]:
    """A client of `make app` with an annotation task, signed in as admin and as a person with an
    answer; the log."""
    guide = "docs/guides/annotation.md"
    shown = [
        line
        for block in pages.blocks(guide, "sh", "console")
        for line in pages.split_commands(block)
    ]
    for start in ("python -m stepdiff.annotate.pairs ", "mkdir "):
        (line,) = [line for line in shown if line.startswith(start)]
        run(demo.folder, ["bash", "-c", line])
    log = demo.folder / "app.log"
    options = "--port 0 --cache data/cache --annotate data/people/task.yaml"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*MAKE, "app", f"APP={options}"],
            cwd=demo.folder,
            env=pages.ENVIRONMENT,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    while not (url := re.search(r"^http://127\S+$", log.read_text(), re.MULTILINE)):
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    (link,) = re.findall(r"admin link, shown once: (\S+)", log.read_text())
    with httpx.Client(base_url=url[0], timeout=120, follow_redirects=True) as client:
        client.get(link).raise_for_status()
        client.post("/annotate/enter", json={"name": "Ann"}).raise_for_status()
        work = client.get("/annotate", headers={"Accept": "application/json"}).json()
        answer = {
            "number": work["number"] + 1,
            "changes": {},
            "rejected": work["reject_reasons"][0],
            "seconds": 9,
        }
        client.post(f"/annotate/work/{work['assignment']}/submit", json=answer).raise_for_status()
        yield client, log
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)


@pytest.fixture(scope="module")
def crawl(app: tuple[httpx.Client, Path]) -> Crawl:
    """What three clicks from the start open, and all links of those pages."""
    crawl = Crawl(app[0])
    crawl.follow(["/", "/annotate/admin"], clicks=4)
    return crawl


def test_all_links_forms_and_json_of_the_pages_open(
    crawl: Crawl, app: tuple[httpx.Client, Path]
) -> None:
    assert crawl.problems == [] and "Traceback" not in app[1].read_text()


def test_a_page_of_each_kind_opens_in_a_browser(
    browser: "Browser", crawl: Crawl, app: tuple[httpx.Client, Path]
) -> None:
    """What the scripts of the pages ask for, and the links that they make, open too. Then each
    route was asked."""
    client, log = app
    problems: list[str] = []
    addresses: set[str] = set()
    with browser.new_context(viewport={"width": 1280, "height": 720}) as context:
        for cookie in client.cookies.jar:
            where = {"domain": cookie.domain, "path": cookie.path}
            context.add_cookies([{"name": cookie.name, "value": cookie.value or "", **where}])
        tab = context.new_page()
        tab.on(
            "console",
            lambda said: (
                problems.append(f"{tab.url}: {said.text}") if said.type == "error" else None
            ),
        )
        tab.on("pageerror", lambda error: problems.append(f"{tab.url}: {error}"))
        tab.on(
            "request",
            lambda request: addresses.add(request.url) if request.method == "GET" else None,
        )
        for address in crawl.pages.values():
            tab.goto(address)
            tab.wait_for_load_state("networkidle")
            addresses |= set(
                tab.evaluate("[...document.querySelectorAll('a[href]')].map((link) => link.href)")
            )
    crawl.follow(addresses, clicks=0)
    assert problems + crawl.problems == [] and "Traceback" not in log.read_text()
    routes = [
        route
        for route, verbs in client.get("/openapi.json").json()["paths"].items()
        if "get" in verbs
    ]
    paths = {httpx.URL(address).path for address in crawl.opened}
    patterns = {route: re.sub(r"\\{\w+\\}", ".+", re.escape(route)) for route in routes}
    never = {
        route for route in routes if not any(re.fullmatch(patterns[route], path) for path in paths)
    }
    assert never <= {"/explore/clip", "/explore/group", "/annotate/as/{token}"}, (
        "after a click or at the login"
    )


def test_the_commands_that_make_demo_prints_run(demo: Demo) -> None:
    printed = demo.printed.partition("== try next")[2].replace("\\\n", " ").splitlines()
    next_steps = [line.strip() for line in printed if line.startswith("   python ")]
    assert len(next_steps) == 3
    for line in next_steps:
        run(demo.folder, shlex.split(smaller(line, SMALLER)))


@pytest.mark.parametrize("head", ["runs/stepdiff", "runs/words"])
def test_no_head_of_the_demo_knows_real_videos(demo: Demo, head: str) -> None:
    if REAL_VIDEOS is None:
        pytest.skip("give REAL_VIDEOS, a folder of videos")
    first, *others = sorted(map(str, Path(REAL_VIDEOS).absolute().iterdir()))
    for other in others:
        given = [first, other, "--model", head, "--store", "data/compared", "--json"]
        said = json.loads(
            run(demo.folder, [sys.executable, "-m", "stepdiff.comparison", *given]).splitlines()[-1]
        )
        assert (
            said["unlike"].startswith("These clips are unlike the")
            and not said["differences"] + said["moments"]
        )


@pytest.fixture(scope="module")
def after_readme(demo: Demo) -> Demo:
    """The demo after the blocks of the README and the quickstart, most of which find their files
    there."""
    with open(demo.folder / "data/kitchen/diffcap_test.jsonl") as file:
        first = json.loads(file.readline())  # of the small world another pair than the pages show
    lines = [
        line.replace("kitchen_0070_0.50_3.50", first["reference"]).replace(
            "kitchen_0173_0.50_3.75", first["candidate"]
        )
        for line in pages.steps(demo.folder, pages.FIRST[:2])
    ]
    run_lines(demo.folder, [smaller(line, SMALLER) for line in lines])
    return demo


def test_the_commands_of_the_readme_and_the_quickstart_run(after_readme: Demo) -> None:
    assert (after_readme.folder / "data/demo/compared.html").is_file()


@pytest.fixture(scope="module")
def after_pages(after_readme: Demo, tiny_lm: str) -> Path:
    """The folder after the blocks of all pages."""
    if JOURNEY:
        pytest.skip("the commands of all pages take too long on a whole demo")
    folder = after_readme.folder
    before = set(pages.steps(folder, pages.FIRST[:2]))
    tiny = dict.fromkeys(
        ("stepdiff.annotate.describe", "stepdiff.annotate.pairqa"), f"--llm {tiny_lm}"
    )
    lines = [line for line in pages.steps(folder, pages.PAGES) if line not in before]
    assert len(lines) > 50 and all(line.startswith(("python ", "PYTHONPATH=")) for line in lines)
    run_lines(folder, [smaller(smaller(line, SMALLER), tiny) for line in lines])
    return folder


def test_every_block_of_the_pages_runs(after_pages: Path) -> None:
    assert (after_pages / "data/demo/longer.jsonl").is_file()


def test_make_reproduce_runs_on_a_tiny_world(
    after_pages: Path, tiny_lm: str, tmp_path: Path
) -> None:
    world = tmp_path / "kitchen"
    shutil.copytree(
        after_pages / "data/kitchen", world, ignore=shutil.ignore_patterns("videos", "images")
    )
    for task, rows in (("diffrank", 20), ("diffcap", 60)):
        lines = (world / f"{task}_test.jsonl").read_text().splitlines(keepends=True)
        for split in ("test", "val"):  # the val split of such a small world may have no rows
            (world / f"{task}_{split}.jsonl").write_text("".join(lines[:rows]))
    asked = (world / "pairqa_train.jsonl").read_text().splitlines(keepends=True)
    (world / "pairqa_train.jsonl").write_text("".join(asked[:200]))
    for made in (".clips", ".texts"):
        (after_pages / "data/features" / made).touch()
    shutil.rmtree(after_pages / "data/features/annotations")  # the text of another captioner
    tiny = {
        "REPRODUCE": tmp_path / "reproduce",
        "R_WORLD": world,
        "R_STORE": after_pages / "data/features",
        "R_OURS": (
            f"--video_lm.language_model {tiny_lm} --video_lm.schedule.steps 1 --video_lm.batch 2"
        ),
        "R_ALIGN": "--contrastive.schedule.steps 2",
        "R_DESCRIBE": "--sampling.max-tokens 4 --words 10",
        "R_EVALUATE": "--bootstrap 20 --subset Ingredients",
        "R_ROWS": 2,
    }
    arguments = ["VENV=venv", *(f"{name}={value}" for name, value in tiny.items())]
    printed = run(after_pages, ["make", "--dry-run", "--always-make", "reproduce", *arguments])
    made = [
        " ".join(line.split()).replace("venv/bin/", "")
        for line in printed.replace("\\\n", " ").splitlines()
    ]
    lines = [
        line for line in made if re.match("sed |python -m (?!pip|venv|stepdiff_core.weights)", line)
    ]
    (settings,) = [line for line in lines if line.startswith("sed")]
    lines.remove(settings)
    (tmp_path / "reproduce").mkdir()
    run(after_pages, ["bash", "-c", settings])
    assert len(lines) > 20
    # the world and its features; the answers are new
    there = ("python -m stepdiff.kitchen", "python -m featurize")
    run_lines(
        after_pages,
        [line for line in lines if not line.startswith(there) or "--column answer" in line],
    )
    report = json.loads((tmp_path / "reproduce/report/report.json").read_text())
    methods = {score["method"] for score in report["scores"]}
    assert methods >= {
        "StepDiff",
        "Interleaved",
        "VCLM",
        "VLEmb (aligned head)",
        "StepDiff without video",
    }
