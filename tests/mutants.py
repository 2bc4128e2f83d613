"""Single changes of a room's code that its quick tests do not notice.

    python -m tests.mutants retrieval
    python -m tests.mutants heads/evidence --seed 7 --count 20

A change swaps one operator, comparison, constant or condition of a file of the room, in a temporary
copy of the tree, where the quick tests of the room run. Some changes alter nothing that can be
observed; the others are holes.
"""

import argparse
import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("data", "runs", "site", "build")  # folders of the root that no test reads
# a change fails after 3 times the seconds of the tests without it, and 60 more
PATIENCE, START = 3, 60
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"),
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
    ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip


class Change(NamedTuple):
    """Bytes of a file, and what is there instead."""

    file: Path
    start: int
    end: int
    new: bytes

    def applied(self) -> bytes:
        source = self.file.read_bytes()
        return source[: self.start] + self.new + source[self.end :]

    def shown(self, root: Path) -> str:
        """Return file:line, the line and the changed line."""
        source, line = self.file.read_bytes(), self.file.read_bytes().count(b"\n", 0, self.start)
        old, new = (text.decode().splitlines()[line].strip() for text in (source, self.applied()))
        return f"{self.file.relative_to(root)}:{line + 1}: {old}  ->  {new}"


def changes(file: Path) -> Iterator[Change]:
    """Yield every change of a file, in the order of its syntax tree; texts and annotations are left
    as they are."""
    source = file.read_bytes()
    starts = [0, *(place + 1 for place, byte in enumerate(source) if byte == ord("\n"))]

    def span(node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[
            node.end_lineno - 1
        ] + node.end_col_offset

    tree = ast.parse(source)
    texts = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        operands: Sequence[ast.expr] = ()
        operators: Sequence[ast.AST] = ()
        if node in texts:
            continue
        if isinstance(node, ast.BinOp):
            operands, operators = (node.left, node.right), (node.op,)
        elif isinstance(node, ast.Compare):
            operands, operators = (node.left, *node.comparators), node.ops
        elif isinstance(node, ast.BoolOp):
            operands, operators = node.values, [node.op] * (len(node.values) - 1)
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            start, end = span(node.test)
            yield Change(file, start, end, b"(not (" + source[start:end] + b"))")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            new = not node.value if isinstance(node.value, bool) else node.value + 1
            yield Change(file, *span(node), repr(new).encode())
        for (one, other), operator in zip(pairwise(operands), operators, strict=True):
            old, new_name = OPERATORS.get(type(operator), ("", ""))
            between = slice(span(one)[1], span(other)[0])
            place = source[between].find(old.encode()) if old else -1
            if place >= 0:
                start = between.start + place
                yield Change(file, start, start + len(old), new_name.encode())


def run(tree: Path, tests: str, limit: float | None = None) -> int | None:
    """Return the exit status of quick tests in a tree, or None after `limit` seconds."""
    command = ["pytest", tests, "-x", "-q", "-m", "not full", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=tree,
        env=environment,
        start_new_session=True,
        **silent,
    ) as tested:
        try:
            return tested.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if tested.poll() is None:
                os.killpg(tested.pid, signal.SIGKILL)


def survivors(root: Path, room: str, seed: int, count: int) -> list[str]:
    """Print and return the changes that no quick test of a room notices."""
    tests = f"tests/{Path(room).parts[room.startswith('stepdiff/')]}"

    def left_out(folder: str, names: list[str]) -> set[str]:
        at_root = (
            {name for name in names if name[0] == "." or name in LEFT_OUT}
            if Path(folder) == root
            else set()
        )
        return at_root | ({"__pycache__"} & set(names))

    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary).resolve() / "tree"
        shutil.copytree(root, tree, ignore=left_out)
        start = time.monotonic()
        if status := run(tree, tests):
            raise SystemExit(
                f"{tests} fails without a change (pytest exits with {status}): repair it first"
            )
        limit = PATIENCE * (time.monotonic() - start) + START
        every = [change for file in sorted((tree / room).rglob("*.py")) for change in changes(file)]
        drawn, lines, late = random.Random(seed).sample(every, min(count, len(every))), [], 0
        for change in drawn:
            source, line = change.file.read_bytes(), change.shown(tree)
            change.file.write_bytes(change.applied())
            status = run(tree, tests, limit)
            change.file.write_bytes(source)
            late += status is None
            if status == 0:
                lines.append(line)
                print(line, flush=True)
    noticed = len(drawn) - len(lines)
    print(
        f"{noticed} of {len(drawn)} changes were noticed, {late} of them by the time limit; "
        f"{len(lines)} were not"
    )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "room", help="folder of a room, or one below, e.g. store or stepdiff_core/tasks"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    survivors(ROOT, options.room, options.seed, options.count)
