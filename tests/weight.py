"""Print how much there is to read: lines, tokens, functions and files of each package, and class
names that two files define.

    python -m tests.weight

Tokens are those of Python's `tokenize` without comments, line ends and indentation; a docstring is
one.
"""

import ast
import io
import subprocess
import tokenize
from collections import Counter
from pathlib import Path

_LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def weights(paths: list[str]) -> tuple[dict[str, Counter[str]], Counter[str]]:
    """Return lines, tokens, functions and files of each package, and how many classes have each
    name."""
    packages: dict[str, Counter[str]] = {}
    classes = Counter[str]()
    for path in paths:
        text = Path(path).read_text()
        nodes = list(ast.walk(ast.parse(text)))
        package = packages.setdefault(path.partition("/")[0], Counter())
        package["files"] += 1
        package["lines"] += text.count("\n")
        read = tokenize.generate_tokens(io.StringIO(text).readline)
        package["tokens"] += sum(token.type not in _LAYOUT for token in read)
        package["functions"] += sum(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes
        )
        if not path.startswith("tests/"):
            classes.update(node.name for node in nodes if isinstance(node, ast.ClassDef))
    return packages, classes


def main() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], capture_output=True, text=True, check=True)
    packages, classes = weights([path for path in listed.stdout.split() if Path(path).exists()])
    outside = sum((counts for name, counts in packages.items() if name != "tests"), Counter[str]())
    columns = ("tokens", "functions", "files", "lines")
    print(f"{'':18}" + "".join(f"{name:>11}" for name in columns))
    for name, counts in [*sorted(packages.items()), ("outside tests", outside)]:
        print(f"{name:18}" + "".join(f"{counts[column]:>11,}" for column in columns))
    print(
        "class names that are defined twice or more: "
        f"{sum(times > 1 for times in classes.values())}"
    )


if __name__ == "__main__":
    main()
