"""Every `sh` and `python` block of README.md and docs/ runs, page by page, on one tiny world; options and modules in
other blocks must exist. The commands of `make demo` and `make reproduce` run too.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import pytest

from stepdiff.__main__ import GROUPS
from stepdiff.annotate.__main__ import VERBS as ANNOTATE

ROOT = Path(__file__).parents[1]
VERBS = {verb: entry for verbs in GROUPS.values() for verb, entry in verbs.items()}
FIRST = ("README.md", "docs/quickstart.md", "docs/guides/encoders.md", "docs/guides/training.md")
PAGES = list(dict.fromkeys([*FIRST, *sorted(page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/**/*.md"))]))
THREAD = "--workers 2"  # two workers, for two cores
# Options that make each command small. Apart from them only the folders of a command are changed.
SMALLER = {
    "stepdiff.kitchen": "--videos 32",
    "heads.train --config heads/recipes/kitchen/stepdiff.yaml": "--video-lm.schedule.steps 2 --video-lm.batch 2",
    "heads.train --config heads/recipes/kitchen/align.yaml": "--contrastive.schedule.steps 4",
    "heads.evaluate": "--rows 3 --bootstrap 50",
    # A caption of another row needs two rows of a category.
    "heads.evaluate --store data/features --task diffcap": "--subset Ingredients",
    "heads.ask": "--max-tokens 4",
    "stepdiff.comparison": "--max-tokens 4",
    "heads.report": "--bootstrap 50",
    "featurize --manifest data/kitchen/texts.csv": THREAD,
    "stepdiff.annotate.captions": f"--max-tokens 4 {THREAD}",
    "stepdiff.annotate.ground": THREAD,
    "stepdiff.annotate.describe": f"--sampling.max-tokens 4 --words 10 --allow-failed {THREAD}",
    "stepdiff.annotate.pairs": "--cap 4",
    "stepdiff.annotate.pairqa": f"--sampling.max-tokens 8 {THREAD}",
}


def blocks(page: str, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in these languages, in order, without their indentation."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", body, flags=re.MULTILINE) for indent, kind, body in found if kind in languages]


def split_commands(block: str) -> list[str]:
    """Return the commands of a `sh` or `console` block, with continued lines joined and without console output."""
    prompted = "$ " in block
    lines = block.replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ") or not prompted]
    lines = [" ".join(re.sub(r"(^|\s)# .*", "", line).split()) for line in lines]
    return [in_module(line) for line in lines if line]


def in_module(command: str) -> str:
    """Return `stepdiff annotate audit ...` as `python -m stepdiff.annotate.audit ...`, other commands as they are."""
    words = command.split(" ")
    if words[0] != "stepdiff":
        return command
    module = VERBS[words[1]][0].removesuffix(".__main__")
    nested = words[1] == "annotate" and not words[2].startswith("-")
    return " ".join(["python -m", f"{module}.{words[2]}" if nested else module, *words[3 if nested else 2 :]])


def commands() -> list[str]:
    """Return each command of all pages once, in order."""
    shown = [block for page in PAGES for block in blocks(page, "sh")]
    return list(dict.fromkeys(line for block in shown for line in split_commands(block)))


def steps(folder: Path, lm: str, pages: Sequence[str], targets: Sequence[str] = ()) -> list[str]:
    """Return the lines to run in a folder: those of the targets of make, then each command of the pages once, made
    small, and each python block as a script.
    """
    made = [line for target in targets for line in made_by(target)]
    lines = dict.fromkeys(small(" ".join(shlex.split(line)), folder, lm) for line in made)
    for page in pages:
        shown = blocks(page, "sh", "python")
        for number, block in enumerate(shown):
            if block in blocks(page, "sh"):
                lines |= dict.fromkeys(small(line, folder, lm) for line in split_commands(block))
                continue
            named = re.match(r"# file: (\S+)\n", block)
            script = folder / (named[1] if named else f"blocks/{page.replace('/', '_')}_{number}.py")
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(in_folder(block, folder))
            lines |= {} if named else {f"python {script}": None}
    return list(lines)


def in_folder(text: str, folder: Path) -> str:
    """Return the text with data/ and runs/ moved to a folder."""
    return re.sub(r"(?<![\w/])(data|runs)/", lambda m: f"{folder}/{m[1]}/", text)


def module(command: str) -> str:
    return command.removeprefix("python -m ")


def small(command: str, folder: Path, lm: str) -> str:
    """Return the command in a folder, made small, with a small language model."""
    extra = [more for start, more in SMALLER.items() if module(command).startswith(start)]
    command = in_folder(command, folder)
    if command.startswith("python -m heads.train"):
        world = f"{folder}/data/kitchen"
        extra.append("--hold-out " + " ".join(f"{world}/{t}_test.jsonl" for t in ("diffcap", "diffrank")))
        paired = f"--video-lm.pairqa {world}/pairqa_train.jsonl --video-lm.language-model {lm}"
        if "stepdiff.yaml" in command:
            extra += [paired, f"--video-lm.evidence.head {folder}/runs/words"]
    if command.startswith("python -m stepdiff.comparison"):  # not in the cache of the user
        extra.append(f"--store {folder}/data/compared")
    if command.startswith("python -m heads.words"):  # the val split of such a small world has no such rows
        extra.append(f"--validation {folder}/data/kitchen/diffrank_test.jsonl")
    extra += (
        [f"--llm {lm}"]
        if module(command).startswith(("stepdiff.annotate.describe", "stepdiff.annotate.pairqa"))
        else []
    )
    return " ".join([command, *extra])


def made_by(*arguments: str) -> list[str]:
    """Return the lines that make would run for a target in an empty folder, without environment and weights."""
    printed = subprocess.run(
        ["make", "--dry-run", "--always-make", "VENV=venv", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.replace("\\\n", " ")
    ran = [" ".join(line.split()).replace("venv/bin/", "") for line in printed.splitlines()]
    return [line for line in ran if re.match("sed |python -m (?!pip|venv|stepdiff.weights)", line)]


def run_lines(lines: Sequence[str]) -> None:
    """Run the lines in order; consecutive lines that start no processes except Ray's share one process."""
    alone = ("stepdiff.kitchen", "stepdiff.weights fetch")
    for apart, group in groupby(lines, lambda line: module(line).startswith(alone)):
        if apart:
            for line in group:
                run_python(shlex.split(line)[1:])
        else:
            run_python([str(ROOT / "tests/lines.py")], "\n".join(group))


def run_python(arguments: Sequence[str], given: str = "") -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        input=given,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_no_block_to_run_starts_a_server() -> None:
    """A server does not end; its command belongs in a `console` block."""
    assert [line for line in commands() if module(line).startswith("stepdiff.app ")] == []


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory: pytest.TempPathFactory, tiny_lm: str) -> Path:
    """The folder after running the blocks of the README."""
    folder = tmp_path_factory.mktemp("readme")
    run_lines(steps(folder, tiny_lm, FIRST[:1]))
    return folder


@pytest.fixture(scope="module")
def pages_folder(readme_folder: Path, tiny_lm: str) -> Path:
    """The same folder after running `make demo` and the blocks of all pages."""
    lines = steps(readme_folder, tiny_lm, PAGES, ["scores"])
    assert len(lines) > 50 and all(line.startswith(("python ", "PYTHONPATH=")) for line in lines)
    before = set(steps(readme_folder, tiny_lm, FIRST[:1]))
    run_lines([line for line in lines if line not in before])
    return readme_folder


@pytest.mark.timeout(1800)
def test_the_commands_of_the_readme_run_on_a_tiny_world(readme_folder: Path) -> None:
    assert (readme_folder / "data/demo/diffmcq_blind.scores.json").is_file()


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_commands_of_make_demo_and_every_block_of_the_pages_run_on_a_tiny_world(pages_folder: Path) -> None:
    assert (pages_folder / "data/demo/scores.json").is_file() and (pages_folder / "data/demo/longer.jsonl").is_file()


HELP = """
import contextlib, io, json, runpy, sys
flags = {}
for name, *rest in json.load(sys.stdin):
    sys.argv = [name, *rest]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    flags[" ".join([name, *rest[:-1]])] = flags.get(" ".join([name, *rest[:-1]]), "") + printed.getvalue()
json.dump(flags, sys.stdout)
"""
ROOMS_OF_VERBS = ("store", "retrieval", "stepdiff.weights", "stepdiff.app.people")
NESTED = (("heads.train", "video-lm"), ("heads.train", "contrastive"))
OPTION = r"(?<![\w-])--[a-z][\w.-]*"


def test_every_option_and_module_that_the_pages_name_exists() -> None:
    """In `console` blocks an option must belong to its command, in prose to any command."""
    named = [command for page in PAGES for block in blocks(page, "console", "sh") for command in split_commands(block)]
    named = [command.replace("python featurize.py", "python -m featurize") for command in named]
    used: dict[str, set[str]] = {}
    for command in named:
        if found := re.search(r"python -m (\S+)(?: (\S+))?", command):
            name, verb = found.groups()
            key = f"{name} {verb}" if name in ROOMS_OF_VERBS else name
            used.setdefault(key, set()).update(re.findall(OPTION, command[found.start() :]))
    prose = "\n".join(re.sub(r"^( *)```.*?^\1```", "", (ROOT / page).read_text(), flags=re.S | re.M) for page in PAGES)
    quoted = " ".join(re.findall(r"`[^`\n]+`", prose))
    named = re.findall(r"`stepdiff ([a-z]+)(?: ([a-z]+))?[ `]", prose)
    known_verbs = {"", *ANNOTATE}
    unknown_verbs = [(name, verb) for name, verb in named if name == "annotate" and verb not in known_verbs]
    assert [name for name, _ in named if name not in VERBS] == unknown_verbs == []
    modules = {key.split()[0] for key in used} | set(re.findall(r"python -m ([\w.]+)[ `]", quoted))
    assert [name for name in modules - {"benchmarks."} if find_spec(name) is None] == []

    used = {key: flags for key, flags in used.items() if not key.startswith("pip")}
    asked = [[*key.split(), "--help"] for key in used]
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
    assert {key: unknown(flags, known[key]) for key, flags in used.items()} == {key: [] for key in used}
    others = {"--always-make", "--check", "--runtime-env-json"}  # of make, sha256sum and `ray job submit`
    assert unknown(set(re.findall(OPTION, quoted)), set().union(*known.values(), others)) == []


def options(text: str) -> set[str]:
    return {flag.replace("_", "-") for flag in re.findall(OPTION, text)}


def unknown(flags: set[str], known: set[str]) -> list[str]:
    return sorted(flag for flag in flags if flag not in known and flag.replace("--no-", "--") not in known)


def test_make_targets_and_extras_that_the_pages_name_exist() -> None:
    text = "\n".join((ROOT / page).read_text() for page in PAGES)
    makefile = (ROOT / "Makefile").read_text() + (ROOT / "reproduce.mk").read_text()
    for target in set(re.findall(r"(?:`|\$ |-j2 )make (?:-j2 )?([a-z]+)", text)):
        assert re.search(f"^{target}:", makefile, re.M), target
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for group in re.findall(r"'\.\[([\w,]+)\]'", text) for name in group.split(",")}
    assert sorted(named - set(extras)) == []


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_make_reproduce_runs_on_a_tiny_world(pages_folder: Path, tiny_lm: str, tmp_path: Path) -> None:
    world = tmp_path / "kitchen"
    shutil.copytree(pages_folder / "data/kitchen", world, ignore=shutil.ignore_patterns("videos", "images"))
    for task, rows in (("diffrank", 20), ("diffcap", 60)):
        lines = (world / f"{task}_test.jsonl").read_text().splitlines(keepends=True)
        for split in ("test", "val"):  # the val split of such a small world may have no rows
            (world / f"{task}_{split}.jsonl").write_text("".join(lines[:rows]))
    asked = (world / "pairqa_train.jsonl").read_text().splitlines(keepends=True)
    (world / "pairqa_train.jsonl").write_text("".join(asked[:200]))
    for made in (".clips", ".texts"):
        (pages_folder / "data/features" / made).touch()
    shutil.rmtree(pages_folder / "data/features/annotations")  # the text of another captioner
    tiny = {
        "REPRODUCE": tmp_path / "reproduce",
        "R_WORLD": world,
        "R_STORE": pages_folder / "data/features",
        "R_OURS": f"--video_lm.language_model {tiny_lm} --video_lm.schedule.steps 1 --video_lm.batch 2",
        "R_ALIGN": "--contrastive.schedule.steps 2",
        "R_DESCRIBE": "--sampling.max-tokens 4 --words 10",
        "R_EVALUATE": "--bootstrap 20 --subset Ingredients",
        "R_ROWS": 2,
    }
    arguments = [f"{name}={value}" for name, value in tiny.items()]
    lines = made_by("reproduce", *arguments)
    (settings,) = [line for line in lines if line.startswith("sed")]
    lines.remove(settings)
    (tmp_path / "reproduce").mkdir()
    subprocess.run(settings, shell=True, cwd=ROOT, check=True)
    assert len(lines) > 20
    there = ("python -m stepdiff.kitchen", "python -m featurize")  # the world and its features; the answers are new
    run_lines([line for line in lines if not line.startswith(there) or "--column answer" in line])
    report = json.loads((tmp_path / "reproduce/report/report.json").read_text())
    methods = {score["method"] for score in report["scores"]}
    assert methods >= {"StepDiff", "Interleaved", "VCLM", "VLEmb (aligned head)", "StepDiff without video"}
    assert "VLEmb (aligned head, pairs)" in methods and "StepDiff, generated QA" not in methods
    assert {score["setting"]["pair"] for score in report["scores"]} == {"average", "reference", "candidate"}
    written = {"Socratic (step desc.)", "VCLM", "Interleaved", "StepDiff, paper's recipe in small"}
    written |= {"Word evidence", "StepDiff", "StepDiff, without S4's seed"}
    controls = {"StepDiff, captions shuffled", "one caption a category"}
    assert {s["method"] for s in report["scores"] if s["metric"] == "invented"} == written | controls
    assert methods >= {"rarest clips", "most differences", "knowing the step"}


STUB = """
printf '%s\\n' "$*" >> "$LOG"
verb=$1
while [ $# -gt 1 ]; do
    [ "$1" = --out ] && out=$2
    [ "$1" = --store ] && mkdir -p "$2"
    [ "$1" = --videos ] && videos=$2
    [ "$1" = --seed ] && seed=$2
    shift
done
case $verb in
    stepdiff.kitchen) mkdir -p "$out"
        touch "$out"/diffmcq_test.jsonl "$out"/diffrank_test.jsonl "$out"/diffcap_test.jsonl
        printf '{"videos": %s, "steps": 12, "seed": %s, "seconds": 3.5}\\n' "$videos" "$seed" > "$out"/world.json ;;
    heads.train) mkdir -p "$out" ;;
    heads.words) made=$out/words.json ;;
    heads.evaluate) made=${out%.jsonl}.scores.json ;;
    heads.report) made=$out/report.json ;;
    *) made=$out ;;
esac
[ -z "$made" ] || { mkdir -p "$(dirname "$made")"; touch "$made"; }
"""


def test_make_reproduce_does_what_is_missing(tmp_path: Path) -> None:
    """A finished run does nothing again; more seeds or generated questions run what they need, and the report again.
    Another world in the same folder is refused. A stub writes the output of each line."""
    (tmp_path / "stub.sh").write_text(STUB)
    (tmp_path / ".installed").touch()
    log = tmp_path / "log"

    def make(*more: str) -> subprocess.CompletedProcess[str]:
        log.write_text("")
        given = [f"VENV={tmp_path}", f"RUN=@sh {tmp_path}/stub.sh", f"REPRODUCE={tmp_path}/reproduce", *more]
        where = {"cwd": ROOT, "env": os.environ | {"LOG": str(log)}}
        return subprocess.run(["make", "reproduce", *given], capture_output=True, text=True, **where)

    def run(*more: str) -> list[str]:
        made = make(*more)
        assert made.returncode == 0, made.stderr
        return [line for line in log.read_text().splitlines() if not line.startswith("stepdiff.weights")]

    def verbs(lines: Sequence[str]) -> set[str]:
        return {line.split()[0] for line in lines}

    killed = tmp_path / "reproduce/seed0/stepdiff"
    killed.mkdir(parents=True)
    for name in ("best.json", "loss.png"):  # of a training that was killed after a validation
        (killed / name).touch()
    first = run()
    trained = [line for line in first if line.startswith("heads.train")]
    assert len(trained) == 8 and first[-1].startswith("heads.report")
    assert run() == []
    (tmp_path / "reproduce/seed0/diffrank_stepdiff.scores.json").unlink()
    assert [line.split()[0] for line in run()] == ["heads.evaluate", "heads.report"]
    seeds = run("SEEDS=2")
    assert len([line for line in seeds if line.startswith("heads.train") and "--seed 1" in line]) == 8
    assert verbs(seeds) == {"heads.train", "heads.embed", "heads.evaluate", "heads.report"}
    assert run("SEEDS=2") == []
    generated = run("GENERATED=1")
    assert verbs(generated) >= {
        "stepdiff.annotate.captions",
        "stepdiff.annotate.describe",
        "stepdiff.annotate.pairs",
        "stepdiff.annotate.pairqa",
    }
    assert not any("--split test" in line for line in generated)  # training clips are described too
    assert [line for line in generated if line.startswith("heads.train")] != []
    report = (tmp_path / "reproduce/report_generated.yaml").read_text()
    assert "generated QA" in report and "generated QA" not in (tmp_path / "reproduce/report.yaml").read_text()
    assert run("GENERATED=1") == []
    for other, world in (("WORLD_SEED=1", "VIDEOS=600 WORLD_SEED=1"), ("VIDEOS=12", "VIDEOS=12 WORLD_SEED=")):
        refused = make(other)
        assert refused.returncode and f"holds another world than {world}" in refused.stderr
    beside = run("-j4", f"REPRODUCE={tmp_path}/beside")
    assert sorted(line.replace("/beside", "/reproduce") for line in beside) == sorted(first)
    # With make -j writers of the store wait for each other; its features exist before anything else runs.
    written = [line for line in first if line.split()[0] in ("featurize", "heads.embed")]
    assert len(written) == 7 and all("--wait" in line for line in written[3:])
