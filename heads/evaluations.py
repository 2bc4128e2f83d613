"""Run the evaluations of a file in one process, which loads libraries and a head once.

python -m heads.evaluations data/demo/evaluations.txt

Each line of FILE has the options of one python -m heads.evaluate, quoted as in a shell; empty lines
and what follows a # are left out. They run in that order, print and write the same. One that is
refused does not stop the next ones; the exit status is then 1.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from heads import evaluate
from stepdiff_core.cli import command
from stepdiff_core.cli.options import parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import open_regular
from stepdiff_core.progress import say

MOST_BYTES = 2**20
"""of a file"""


@dataclass(frozen=True)
class EvaluationsOptions:
    file: str
    """text file with the options of an evaluation in each line"""
    json: bool = False
    """print one JSON object for each evaluation and nothing else"""


def words_of(path: Path) -> dict[int, list[str]]:
    """Return the arguments in each line of a file, by its number. StepDiffError: the file cannot be
    read, has more than MOST_BYTES, or a line with a quote that does not end."""
    with open_regular(path, "a text file with a line for each evaluation") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise StepDiffError(f"{path}: has more than {MOST_BYTES:,} bytes; divide it")
    lines = {}
    for number, line in enumerate(data.decode(errors="replace").split("\n"), start=1):
        try:
            lines[number] = shlex.split(line, comments=True)
        except ValueError as error:
            raise StepDiffError(f"{path}:{number}: {error}; correct the line") from None
    return {number: words for number, words in lines.items() if words}


def run(options: EvaluationsOptions) -> int:
    """Run the evaluations; returns the exit status."""
    path = Path(options.file)
    status = 0
    for number, words in words_of(path).items():
        try:
            ended = evaluate.main([*words, *(["--json"] if options.json else [])])
        except SystemExit as end:  # options that the command line refuses
            ended = int(end.code or 0)
        if ended:
            say(f"{path}:{number}: not evaluated, for the reason above")
            status = 1
    return status


def main(argv: list[str] | None = None) -> int:
    return parse(EvaluationsOptions, argv, "heads.evaluations", __doc__, run, None, ("file",))


if __name__ == "__main__":
    command.run(main, "finished evaluations are written; run the same command for the rest")
