"""python -m heads: the commands of this room, one line each."""

import ast
from pathlib import Path

from common.cli import command


def main() -> int:
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        print(f"python -m heads.{path.stem:<10}{summary}")
    print("Each takes --help.")
    return 0


if __name__ == "__main__":
    command.run(main)
