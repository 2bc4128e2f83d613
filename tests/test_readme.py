"""Every command of the README runs, on a tiny world; `make demo` runs nothing that the README does not show."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What makes each command small. Nothing else of a command is changed but the folders it works in.
SMALLER = {
    "kitchen": "--videos 32",
    "heads.train --config heads/recipes/kitchen/stepdiff.yaml": "--video-lm.schedule.steps 2 "
    "--video-lm.warm-start.steps 2 --video-lm.validation.rows 2 --video-lm.batch 2",
    "heads.train --config heads/recipes/kitchen/align.yaml": "--contrastive.schedule.steps 4",
    "heads.evaluate": "--rows 3 --bootstrap 50",
    "heads.ask": "--max-tokens 4",
    "annotate.captions": "--max-tokens 4",
    "annotate.describe": "--sampling.max-tokens 4 --words 10",
    "annotate.pairs": "--cap 1",
    "annotate.pairqa": "--sampling.max-tokens 8",
}


def commands() -> list[str]:
    """Lines of the README's `sh` blocks, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def module(command: str) -> str:
    return command.removeprefix("python -m ")


def small(command: str, folder: Path) -> str:
    extra = [more for start, more in SMALLER.items() if module(command).startswith(start)]
    command = re.sub(r"(?<![\w/])(data|runs)/", lambda m: f"{folder}/{m[1]}/", command)
    if command.startswith("python -m heads.train"):
        world = f"{folder}/data/kitchen"
        extra += [f"--video-lm.pairqa {world}/pairqa_train.jsonl"] if "stepdiff.yaml" in command else []
        for task in ("diffmcq", "diffrank") if "stepdiff.yaml" in command else ():
            # The val split of so small a world has no such rows.
            extra.append(f"--video-lm.validation.{task} {world}/{task}_test.jsonl")
    return " ".join([command, *extra])


def test_the_demo_runs_what_the_readme_shows() -> None:
    printed = subprocess.run(
        ["make", "--dry-run", "--always-make", "scores", "VENV=venv"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.replace("\\\n", " ")
    ran = [" ".join(shlex.split(line)).replace("venv/bin/", "") for line in printed.splitlines()]
    ran = [line for line in ran if line.startswith("python -m") and "-m pip" not in line and "-m venv" not in line]
    shown = commands()
    assert len(ran) > 15
    assert [line for line in ran if line not in shown] == []


@pytest.mark.timeout(900)
def test_every_readme_command_runs_on_a_tiny_world(tmp_path: Path) -> None:
    lines = [line for line in commands() if line.startswith("python -m")]
    assert len(lines) > 15
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in lines:
        command = small(line, tmp_path)
        done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    for name in ("scores.json",):
        assert (tmp_path / "data/demo" / name).is_file()
    shutil.rmtree(tmp_path)
