"""The commands of README.md and docs/, in a folder that is like a clone."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from stepdiff.__main__ import GROUPS

ROOT = Path(__file__).parents[2]
VERBS = {verb: entry for verbs in GROUPS.values() for verb, entry in verbs.items()}
FIRST = ("README.md", "docs/quickstart.md", "docs/guides/encoders.md", "docs/guides/training.md")
PAGES = list(
    dict.fromkeys(
        [*FIRST, *sorted(page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/**/*.md"))]
    )
)

ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}


def blocks(page: str, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in these languages, in order, without their
    indentation."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return [
        re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
        for indent, kind, body in found
        if kind in languages
    ]


def split_commands(block: str) -> list[str]:
    """Return the commands of a `sh` or `console` block, with continued lines joined and without
    console output."""
    prompted = "$ " in block
    lines = block.replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ") or not prompted]
    lines = [" ".join(re.sub(r"(^|\s)# .*", "", line).split()) for line in lines]
    return [in_module(line) for line in lines if line]


def in_module(command: str) -> str:
    """Return `stepdiff annotate audit ...` as `python -m stepdiff.annotate.audit ...`, other
    commands as they are."""
    words = command.split(" ")
    if words[0] != "stepdiff":
        return command
    module = VERBS[words[1]][0].removesuffix(".__main__")
    nested = words[1] == "annotate" and not words[2].startswith("-")
    return " ".join(
        ["python -m", f"{module}.{words[2]}" if nested else module, *words[3 if nested else 2 :]]
    )


def commands(pages: Sequence[str] = PAGES) -> list[str]:
    """Return each command of the pages once, in order."""
    shown = [block for page in pages for block in blocks(page, "sh")]
    return list(dict.fromkeys(line for block in shown for line in split_commands(block)))


def steps(folder: Path, pages: Sequence[str]) -> list[str]:
    """Return the lines to run in a folder: each command of the pages once, and each python block as
    a script."""
    lines: dict[str, None] = {}
    for page in pages:
        shown = blocks(page, "sh", "python")
        for number, block in enumerate(shown):
            if block in blocks(page, "sh"):
                lines |= dict.fromkeys(split_commands(block))
                continue
            named = re.match(r"# file: (\S+)\n", block)
            script = named[1] if named else f"blocks/{page.replace('/', '_')}_{number}.py"
            (folder / script).parent.mkdir(parents=True, exist_ok=True)
            (folder / script).write_text(block)
            lines |= {} if named else {f"python {script}": None}
    return list(lines)


def module(command: str) -> str:
    return command.removeprefix("python -m ")


def smaller(command: str, options: dict[str, str]) -> str:
    """Return a command with the options of each of its beginnings."""
    return " ".join(
        [command, *(more for start, more in options.items() if module(command).startswith(start))]
    )


def run(folder: Path, command: Sequence[str], given: str = "") -> str:
    """Run a command in the folder and return what it printed. It must end well, without an error in
    its output."""
    done = subprocess.run(
        command,
        input=given,
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0 and not re.search("^(error:|Traceback)", done.stdout, re.M), (
        done.stdout[-4000:]
    )
    return done.stdout


def run_lines(folder: Path, lines: Sequence[str]) -> None:
    """Run the lines in order; consecutive lines that start no processes except Ray's share one
    process."""
    alone = ("stepdiff.kitchen", "stepdiff_core.weights fetch")
    for apart, group in groupby(lines, lambda line: module(line).startswith(alone)):
        if apart:
            for line in group:
                run(folder, shlex.split(line))
        else:
            run(folder, [sys.executable, str(ROOT / "tests/lines.py")], "\n".join(group))
