"""Every command of the README runs, on a tiny world; `make demo` runs nothing that the README does not show, and
`make reproduce` runs on that world too.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
THREAD = "--workers 2"  # on two cores each has one, and the other tests the other
# What makes each command small. Nothing else of a command is changed but the folders it works in.
SMALLER = {
    "kitchen": "--videos 32",
    "heads.train --config heads/recipes/kitchen/stepdiff.yaml": "--video-lm.schedule.steps 2 "
    "--video-lm.warm-start.steps 2 --video-lm.validation.rows 2 --video-lm.batch 2",
    "heads.train --config heads/recipes/kitchen/align.yaml": "--contrastive.schedule.steps 4",
    "heads.evaluate": "--rows 3 --bootstrap 50",
    "heads.ask": "--max-tokens 4",
    "featurize --manifest data/kitchen/texts.csv": THREAD,
    "annotate.captions": f"--max-tokens 4 {THREAD}",
    "annotate.ground": THREAD,
    "annotate.describe": f"--sampling.max-tokens 4 --words 10 {THREAD}",
    "annotate.pairs": "--cap 1",
    "annotate.pairqa": f"--sampling.max-tokens 8 {THREAD}",
}


def commands() -> list[str]:
    """Lines of the README's `sh` blocks, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def module(command: str) -> str:
    return command.removeprefix("python -m ")


def small(command: str, folder: Path, lm: str) -> str:
    """The command in a folder, made small, with a small language model."""
    extra = [more for start, more in SMALLER.items() if module(command).startswith(start)]
    command = re.sub(r"(?<![\w/])(data|runs)/", lambda m: f"{folder}/{m[1]}/", command)
    if command.startswith("python -m heads.train"):
        world = f"{folder}/data/kitchen"
        extra.append("--hold-out " + " ".join(f"{world}/{t}_test.jsonl" for t in ("diffcap", "diffmcq", "diffrank")))
        paired = f"--video-lm.pairqa {world}/pairqa_train.jsonl --video-lm.language-model {lm}"
        extra += [paired] if "stepdiff.yaml" in command else []
        for task in ("diffmcq", "diffrank") if "stepdiff.yaml" in command else ():
            # The val split of so small a world has no such rows.
            extra.append(f"--video-lm.validation.{task} {world}/{task}_test.jsonl")
    extra += [f"--llm {lm}"] if module(command).startswith(("annotate.describe", "annotate.pairqa")) else []
    return " ".join([command, *extra])


def made_by(*arguments: str) -> list[str]:
    """The lines that make would run for a target where nothing stands, environment and weights aside."""
    printed = subprocess.run(
        ["make", "--dry-run", "--always-make", "VENV=venv", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.replace("\\\n", " ")
    ran = [" ".join(line.split()).replace("venv/bin/", "") for line in printed.splitlines()]
    return [line for line in ran if re.match("sed |python -m (?!pip|venv|weights)", line)]


def run_lines(lines: Sequence[str]) -> None:
    """Runs the lines in order; neighbours that start no processes but Ray's share one, and what it imports."""
    alone = ("kitchen", "weights")
    for apart, group in groupby(lines, lambda line: module(line).split()[0].split(".")[0] in alone):
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


def test_the_demo_runs_what_the_readme_shows() -> None:
    ran, shown = [" ".join(shlex.split(line)) for line in made_by("scores")], commands()
    assert len(ran) > 15
    assert [line for line in ran if line not in shown] == []


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory: pytest.TempPathFactory, tiny_lm: str) -> Path:
    """What the README's commands leave."""
    folder = tmp_path_factory.mktemp("readme")
    lines = [line for line in commands() if line.startswith("python -m")]
    assert len(lines) > 15
    run_lines([small(line, folder, tiny_lm) for line in lines])
    return folder


@pytest.mark.timeout(900)
def test_every_readme_command_runs_on_a_tiny_world(readme_folder: Path) -> None:
    assert (readme_folder / "data/demo/scores.json").is_file()


@pytest.mark.timeout(900)
def test_make_reproduce_runs_on_a_tiny_world(readme_folder: Path, tiny_lm: str, tmp_path: Path) -> None:
    world = tmp_path / "kitchen"
    shutil.copytree(readme_folder / "data/kitchen", world, ignore=shutil.ignore_patterns("videos", "images"))
    for task, rows in (("diffmcq", 3), ("diffrank", 20), ("diffcap", 8)):
        lines = (world / f"{task}_test.jsonl").read_text().splitlines(keepends=True)
        for split in ("test", "val"):  # the val split of so small a world may have no rows
            (world / f"{task}_{split}.jsonl").write_text("".join(lines[:rows]))
    asked = (world / "pairqa_train.jsonl").read_text().splitlines(keepends=True)
    (world / "pairqa_train.jsonl").write_text("".join(asked[:200]))
    for made in (".clips", ".texts"):
        (readme_folder / "data/features" / made).touch()
    shutil.rmtree(readme_folder / "data/features/annotations")  # of another captioner
    tiny = {
        "REPRODUCE": tmp_path / "reproduce",
        "R_WORLD": world,
        "R_STORE": readme_folder / "data/features",
        "R_WARM": f"--video_lm.language_model {tiny_lm} --video_lm.warm_start.steps 2",
        "R_OURS": f"--video_lm.language_model {tiny_lm} --video_lm.schedule.steps 1 --video_lm.batch 2",
        "R_ALIGN": "--contrastive.schedule.steps 2",
        "R_DESCRIBE": "--sampling.max-tokens 4 --words 10",
        "R_EVALUATE": "--bootstrap 20",
        "R_ROWS": 2,
    }
    arguments = [f"{name}={value}" for name, value in tiny.items()]
    lines = made_by("reproduce", *arguments)
    (settings,) = [line for line in lines if line.startswith("sed")]
    lines.remove(settings)
    (tmp_path / "reproduce").mkdir()
    subprocess.run(settings, shell=True, cwd=ROOT, check=True)
    assert len(lines) > 20
    there = ("python -m kitchen", "python -m featurize")  # the world and its features; answers are new
    run_lines([line for line in lines if not line.startswith(there) or "--column answer" in line])
    told = json.loads((tmp_path / "reproduce/report/report.json").read_text())
    methods = {score["method"] for score in told["scores"]}
    assert methods >= {"StepDiff", "Interleaved", "VCLM", "VLEmb (aligned head)", "StepDiff without video"}
    assert "VLEmb (aligned head, pairs)" in methods and "StepDiff, generated QA" not in methods
    assert {score["setting"]["pair"] for score in told["scores"]} == {"average", "reference", "candidate"}
    assert {score["method"] for score in told["scores"] if score["metric"] == "invented"} == {
        "StepDiff",
        "Interleaved",
        "VCLM",
        "Socratic (step desc.)",
    }


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
    kitchen) mkdir -p "$out"; touch "$out"/diffmcq_test.jsonl "$out"/diffrank_test.jsonl "$out"/diffcap_test.jsonl
        printf '{"format": 0, "videos": %s, "seed": %s, "seconds": 3.5}\\n' "$videos" "$seed" > "$out"/world.json ;;
    heads.train) made=$out/loss.png ;;
    heads.evaluate) made=${out%.jsonl}.scores.json ;;
    heads.report) made=$out/report.json ;;
    *) made=$out ;;
esac
[ -z "$made" ] || { mkdir -p "$(dirname "$made")"; touch "$made"; }
"""


def test_make_reproduce_does_what_is_missing(tmp_path: Path) -> None:
    """Again: nothing. More seeds, or generated questions, behind a finished run: what they need, and the report anew.
    Another world in its place: refused. What each line leaves is made by a stub."""
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
        return [line for line in log.read_text().splitlines() if not line.startswith("weights")]

    def verbs(lines: Sequence[str]) -> set[str]:
        return {line.split()[0] for line in lines}

    first = run()
    trained = [line for line in first if line.startswith("heads.train")]
    assert len(trained) == 6 and first[-1].startswith("heads.report")
    assert run() == []
    (tmp_path / "reproduce/seed0/diffrank_stepdiff.scores.json").unlink()
    assert [line.split()[0] for line in run()] == ["heads.evaluate", "heads.report"]
    seeds = run("SEEDS=2")
    assert len([line for line in seeds if line.startswith("heads.train") and "--seed 1" in line]) == 6
    assert verbs(seeds) == {"heads.train", "heads.embed", "heads.evaluate", "heads.report"}
    assert run("SEEDS=2") == []
    generated = run("GENERATED=1")
    assert verbs(generated) >= {"annotate.captions", "annotate.describe", "annotate.pairs", "annotate.pairqa"}
    assert not any("--split test" in line for line in generated)  # training clips are described too
    assert [line for line in generated if line.startswith("heads.train")] != []
    report = (tmp_path / "reproduce/report_generated.yaml").read_text()
    assert "generated QA" in report and "generated QA" not in (tmp_path / "reproduce/report.yaml").read_text()
    assert run("GENERATED=1") == []
    for other, world in (("WORLD_SEED=1", "VIDEOS=264 WORLD_SEED=1"), ("VIDEOS=12", "VIDEOS=12 WORLD_SEED=")):
        refused = make(other)
        assert refused.returncode and f"holds another world than {world}" in refused.stderr
    beside = run("-j4", f"REPRODUCE={tmp_path}/beside")
    assert sorted(line.replace("/beside", "/reproduce") for line in beside) == sorted(first)
    # Under make -j what writes into the store waits for its turn; its features are there before anything else runs.
    written = [line for line in first if line.split()[0] in ("featurize", "heads.embed")]
    assert len(written) == 7 and all("--wait" in line for line in written[3:])
