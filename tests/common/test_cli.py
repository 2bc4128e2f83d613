"""`--help` of every runnable: dashed flags, defaults, and no heavy import."""

import importlib
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("store", "weights", "kitchen", "featurize", "retrieval", "heads", "annotate", "benchmarks")
HEAVY = ("torch", "ray", "faiss", "transformers", "polars")
SCRIPT = f"""
import json, runpy, sys
name, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(json.dumps([end.code, [name for name in {HEAVY} if name in sys.modules]]), file=sys.stderr)
"""


def runnables() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [("featurize",)]
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if not re.search(r"^if __name__ == .__main__.:", text, re.MULTILINE):
                continue
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
            found.append((module,))
            if file.name == "__main__.py" and "VERBS" in text:
                found += [(module, verb) for verb in importlib.import_module(f"{module}.__main__").VERBS]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("command", runnables(), ids=" ".join)
def test_help_is_light_and_in_one_style(command: tuple[str, ...]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    status, heavy = json.loads(done.stderr.splitlines()[-1])
    print(f"{' '.join(command)}: {seconds:.2f} s user, imports {heavy}")
    assert status in (0, None) and done.stderr.count("\n") == 1, done.stderr
    assert not re.search(r"--[a-z-]*_", done.stdout), "flags have dashes"
    flags = re.findall(r"^  (--[a-z][a-z0-9-]*)", done.stdout, re.MULTILINE)
    assert "commands:" in done.stdout or ("--config" in flags and "default: " in done.stdout)
    assert "<class" not in done.stdout and "{true,false}" not in done.stdout
    assert not heavy
