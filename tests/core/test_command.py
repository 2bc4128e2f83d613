"""How every command reads its options, shows its help and ends."""

import ast
import copy
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from jsonargparse.typing import PositiveInt

from stepdiff_core import RUNNABLE as ROOMS
from stepdiff_core.cli.command import choose
from stepdiff_core.cli.options import Bytes, Mebibytes, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.weights import fingerprint
from store import Feature, Provenance, Store
from store.provenance import text_key
from tests.stores import write_view

ROOT = Path(__file__).parents[2]


RUNNABLES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"): file
    for folder in (*sorted(ROOMS), ".")
    for file in sorted((ROOT / folder).glob("*.py" if folder == "." else "**/*.py"))
    if file.name != "reaper.py"
    and re.search(r"^if __name__ == .__main__.:", file.read_text(encoding="utf-8"), re.MULTILINE)
}


def start(*arguments: str, **more: object) -> subprocess.Popen[str]:
    """Start a process in its own process group, as a terminal does."""
    pipes = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "cwd": ROOT,
        "start_new_session": True,
    }
    return subprocess.Popen([sys.executable, *arguments], **{**pipes, **more})  # type: ignore[call-overload]


def script(body: str, **more: object) -> subprocess.Popen[str]:
    """Start a process that runs `main`, which `body` defines."""
    head = "import os, signal, sys, time\nfrom stepdiff_core.cli import command\n"
    return start("-c", f"{head}{body}\ncommand.run(main)", **more)


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Wait until the first line of the project has run: Python handles SIGINT itself, SIGTERM only
    with our handler."""
    while process.poll() is None:
        caught = re.search(
            r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE
        )
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


@pytest.mark.parametrize("name", RUNNABLES)
def test_every_command_uses_the_wrapper(name: str) -> None:
    tree = ast.parse(RUNNABLES[name].read_text(encoding="utf-8"))
    (last,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    )
    assert ast.unparse(last.body[-1]).startswith("command.run(main") or name == "stepdiff"


COMMANDS = {
    "kitchen": ["stepdiff.kitchen", "--out", "{}/world", "--videos", "40"],
    "store": ["store", "info", "{}"],
    "retrieval": ["retrieval", "build", "--store", "{}", "--view", "none"],
    "heads": ["heads.table", "{}/none.json"],
}


@pytest.mark.parametrize("seconds", [0.05, 0.5, 2])
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.full
def test_an_interrupt_prints_one_line_and_no_traceback(
    name: str, seconds: float, tmp_path: Path
) -> None:
    process = start("-m", *(part.format(tmp_path) for part in COMMANDS[name]))
    wait_for_handlers(process)
    time.sleep(seconds)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert "Traceback" not in message and "Exception ignored" not in message
    if not ended and process.returncode == 130:
        assert message.count("error: interrupted") == 1 and message.splitlines()[-1].startswith(
            "error: interrupted"
        )
    elif not ended:
        # it ended by itself: 2 if it takes input that does not exist; -2 is Python's own exit
        # status
        assert process.returncode in (0, 1, 2, -signal.SIGINT)


INTERRUPTED = "error: interrupted; run the same command again\n"
WAITING = (
    "def main():\n  try:\n    print('on', flush=True); time.sleep(60)\n  finally:\n "
    "   print('cleaning', flush=True)"
)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_runs_the_clean_up_and_a_second_one_ends_it(
    number: signal.Signals, status: int
) -> None:
    process = script(WAITING)
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    process.send_signal(number)
    assert (*process.communicate(timeout=60), process.returncode) == (
        "cleaning\n",
        INTERRUPTED,
        status,
    )
    process = script(f"{WAITING}; time.sleep(60)")
    assert process.stdout is not None
    for line in ("on\n", "cleaning\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    assert (
        process.communicate(timeout=30)[1] == INTERRUPTED and process.returncode == -signal.SIGINT
    )


SWALLOWED = "class Odd:\n  def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\n"
ENDS = [
    (SWALLOWED + "def main():\n  Odd(); time.sleep(60)", 130, INTERRUPTED),
    (
        "def main():\n  try: os.kill(os.getpid(), 2); time.sleep(9)\n  except BaseException: "
        "return 0",
        130,
        "",
    ),
    (
        "def main():\n  with open('/dev/full', 'w') as file: file.write('x')",
        1,
        "error: .*: No space left on device; .*\n",
    ),
    (
        "def main():\n  os.stat('x' * 5000)",
        2,
        "error: x{60}\\.\\.\\.: File name too long; give a shorter path\n",
    ),
    ("def main():\n  bytes(2**62)", 1, "error: out of memory.*\n"),
    ("def main():\n  return {}['key']", 1, "Traceback(.*\n)+KeyError: 'key'\n"),
]


@pytest.mark.parametrize(("body", "status", "message"), ENDS, ids=range(len(ENDS)))
def test_a_command_ends_with_one_line_unless_the_error_is_ours(
    body: str, status: int, message: str
) -> None:
    process = script(body)
    _, errors = process.communicate(timeout=60)
    assert (
        process.returncode == status
        and re.fullmatch(f"({message})", errors) is not None
        or not message
    )


def test_standard_output_that_is_closed_full_strict_or_ignored(tmp_path: Path) -> None:
    for body in (
        "for _ in range(10**6): print('x' * 80)",
        "print('x')",
        "print('x'); raise SystemExit(0)",
    ):
        reading, writing = os.pipe()
        os.close(reading)
        process = script(f"def main():\n  {body}", stdout=writing)
        os.close(writing)
        assert (process.communicate(timeout=60)[1], process.returncode) == ("", 141)
    with open("/dev/full", "w") as full:
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        process = script("def main():\n  print('x')", stdout=full, env=buffered)
        assert (
            "error: standard output or a file: No space left on device; "
            in process.communicate(timeout=60)[1]
        )
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    # a file name that is not UTF-8
    process = script("def main():\n  print(os.fsdecode(bytes([255])))", env=strict)
    assert process.communicate(timeout=60)[0] == "\\udcff\n"
    body = "def main():\n  os.kill(os.getpid(), 2); print('done')"
    # as nohup does
    process = script(body, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert process.communicate(timeout=60)[0] == "done\n"


@pytest.mark.full
def test_importing_a_room_keeps_the_signal_handlers_of_a_program() -> None:
    process = start(
        "-c",
        "import signal, heads, stepdiff.annotate; print(signal.getsignal(2) is "
        "signal.default_int_handler)",
    )
    assert process.communicate(timeout=60)[0] == "True\n"


HEAVY = (
    "polars",
    "numba",
    "scipy",
    "torch",
    "transformers",
    "faiss",
    "ray",
    "pandas",
    "pyarrow",
    "matplotlib",
    "zarr",
)
# Runs the help of each command in a fork of one process, which has imported what all commands
# share. No extra is installed, except for benchmarks, which import what they measure.
HELPS = f"""
import contextlib, io, json, os, runpy, sys
import stepdiff_core.cli.command, stepdiff_core.cli.options
stepdiff_core.IS_COMMAND = True
for line in sys.stdin:
    if not os.fork():
        os.environ["COLUMNS"], name, *sys.argv[1:] = json.loads(line)
        if not name.startswith("benchmarks"):
            extras = stepdiff_core.EXTRAS.values()
            sys.modules |= dict.fromkeys(module for _, modules in extras for module in modules)
        out, errors, status = io.StringIO(), io.StringIO(), None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            except SystemExit as end:
                status = end.code
        heavy = [name for name in {HEAVY} if sys.modules.get(name)]
        print(json.dumps([status, heavy, out.getvalue(), errors.getvalue()]), flush=True)
        os._exit(0)
    os.wait()
"""

SCRIPT = f"""
import json, runpy, sys
name, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
    raise SystemExit
except SystemExit as end:
    imported = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([end.code, imported]), file=sys.stderr)
"""


def runnables() -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = []
    for name, file in RUNNABLES.items():
        commands.append((name,))
        if file.name == "__main__.py" and "VERBS" in file.read_text(encoding="utf-8"):
            commands += [(name, verb) for verb in importlib.import_module(f"{name}.__main__").VERBS]
    return commands


@pytest.mark.parametrize("which", ["one", pytest.param("all", marks=pytest.mark.full)])
def test_help_is_light_and_in_one_style(which: str) -> None:
    quick = [
        ("heads.train",),
        ("retrieval", "query"),
        ("stepdiff.annotate", "pairs"),
        ("store", "info"),
    ]
    commands = [
        (width, *command)
        for command in (runnables() if which == "all" else quick)
        for width in ("80", "120")
    ]
    asked = "".join(json.dumps([*command, "--help"]) + "\n" for command in commands)
    run = [sys.executable, "-W", "ignore", "-c", HELPS]
    done = subprocess.run(run, input=asked, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    for (width, *command), answer in zip(commands, done.stdout.splitlines(), strict=True):
        status, heavy, out, errors = json.loads(answer)
        assert status in (0, None) and errors == "", (command, answer)
        # they import what they measure
        assert not heavy or command[0].startswith("benchmarks"), (command, heavy)
        assert not re.search(r"--[a-z-]*_", out), f"flags of {command} have no dashes"
        flags = re.findall(r"^  (--[a-z][a-z0-9-]*)", out, re.MULTILINE)
        options = "--config" in flags and "default: " in out
        assert options or "commands:" in out or command == ["stepdiff"], command
        if options:  # examples and lines of a list of commands are as they are written
            assert not [line for line in out.splitlines() if len(line) > int(width)], command
        assert not re.search(r"\(type: |, type: |default: (\[\]|\(\)|null|False|\))", out), command
        assert "<class" not in out and "{true,false}" not in out, command


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small store, a manifest of its text, a DiffMCQ test set and a score
    record."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "weights").mkdir()
    (folder / "weights/config.json").write_text("{}")
    (folder / "texts.csv").write_text("text\nwhisk the eggs\n")
    store = Store.open(folder / "store", create=True)
    texts = pl.DataFrame({"key": [text_key("whisk the eggs")], "text": ["whisk the eggs"]})
    for entity, encoder, frame in (
        ("clips", "net", pl.DataFrame({"key": ["a", "b"]})),
        ("texts", "sentence", texts),
    ):
        made = Provenance(
            encoder,
            fingerprint(folder / "weights"),
            "last",
            "none",
            "none",
            {"embedding": "float32"},
        )
        write_view(
            store,
            frame,
            {"embedding": Feature((2,), "float32")},
            entity=entity,
            name=encoder,
            by=made,
        )
    pairs = [["a", "b"], ["b", "a"], ["a", "c"], ["c", "a"]]
    row = {"difference": "wetter", "category": "Visuals", "options": pairs, "answer": pairs[0]}
    (folder / "diffmcq.jsonl").write_text(json.dumps(row) + "\n")
    scores = {"accuracy": 1.0, "intervals": None, "rows": 1}
    record = {"options": {"task": "diffmcq", "method": "random"}, "scores": scores, "disclosed": {}}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


WORK = {
    "store info {}/store": {"polars"},
    "retrieval query --store {}/store --view net --clip a -k 1": {"polars", "numba", "scipy"},
    "featurize --manifest {}/texts.csv --store {}/store --encoder sentence --weights {}/weights": {
        "polars"
    },
    "heads.evaluate --task diffmcq --method random --test-set {}/diffmcq.jsonl --bootstrap 10 "
    "--out {}/out.jsonl": {*("polars", "scipy", "torch")},
    "heads.table {}/record.json": set(),
    "stepdiff.app.server": {"polars", "scipy", "torch"},
}
"""a command, or a module that one imports -> the slow modules that it may import for small work"""


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.full] if "torch" in slow else [])
        for line, slow in WORK.items()
    ],
)
def test_small_work_imports_no_other_slow_module(line: str, small: Path) -> None:
    run = [sys.executable, "-c", SCRIPT, *line.replace("{}", str(small)).split()]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=300)
    status, heavy = json.loads(done.stderr.splitlines()[-1])
    assert status in (0, None), done.stderr
    assert set(heavy) <= WORK[line]


@dataclass(frozen=True)
class Inner:
    """Nested options."""

    rate: float
    """rate"""
    names: tuple[Literal["a", "b"], ...] = ("a",)
    """names"""


@dataclass(frozen=True)
class Options:
    """The options of a test command."""

    path: Path
    """positional"""
    test_set: str = "set"
    """a text"""
    number: int | None = None
    """a number"""
    k: int = field(default=8, metadata={"type": PositiveInt})
    """limited"""
    keys: tuple[str, ...] = ()
    """a list"""
    sizes: tuple[float, ...] = ()
    """a list of numbers"""
    skip_it: bool = True
    """a switch"""
    kind: Literal["x", "y"] = "x"
    """a choice"""
    inner: Inner | None = None
    """nested"""
    memory: int | None = field(default=None, metadata={"type": Bytes | None})
    """a size, of a number bytes"""
    shard: int | None = field(default=None, metadata={"type": Mebibytes | None})
    """a size, of a number MiB"""


def execute(options: Options) -> dict[str, Any]:
    if options.test_set == "none":
        raise StepDiffError("none: no such test set; give another")
    return {"options": repr(options), "failed": int(options.test_set == "half")}


def parsed(*argv: str) -> int:
    about = {"positional": ("path",), "status": lambda record: record["failed"]}
    return parse(
        Options,
        list(argv),
        "room.verb",
        "Text.\n\n    a command to copy",
        execute,
        "{options}",
        **about,
    )


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one-line error of a refused command line."""
    with pytest.raises(SystemExit) as end:
        parsed(*argv)
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert (
        line.startswith("error: ")
        and line.endswith("; see python -m room.verb --help\n")
        and line.count("\n") == 1
    )
    return line.removeprefix("error: ").removesuffix("; see python -m room.verb --help\n")


SIZE = "expects a size such as 64MiB or 2GB"
VALUE = "expects a value; join one that begins with - as"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("", "PATH must be given"),
        ("p --number x", "--number expects a whole number, not x"),
        ("p --kind z", "--kind expects one of x, y, not z"),
        ("p -k 0", "--k expects a whole number with value >0"),
        ("p --test-set", f"--test-set {VALUE} --test-set=-VALUE"),
        ("p --test-set -dQw4w9", f"--test-set {VALUE} --test-set=-VALUE"),
        ("p --keys -dQw4w9", f"--keys {VALUE} --keys=-VALUE"),
        *(
            (f"p --memory={text}", f"--memory {SIZE}, not {text}")
            for text in ("GB", "-1GB", "1XB", "nan", "1.2.3GB", "5i")
        ),
        ("p --other 3", "no option or argument --other 3"),
        ("p --numbre 3", "no option or argument --numbre 3 (did you mean --number?)"),
        ("p --test t", "no option or argument --test t (did you mean --test-set?)"),
        ("p --inner.rat 3", "no option --inner.rat (did you mean --inner.rate?)"),
        ("p --inner.rate x", "--inner.rate expects a number, not x"),
        ("p --inner.what 3", "no option --inner.what"),
        ("p --inner.names [a]", "--inner.rate must be given"),
        (
            "p --inner.rate 1 --inner.names [c]",
            "--inner.names expects a list of one of a, b, not c",
        ),
        ("p --sizes 1 x", "--sizes expects a list of numbers, not x"),
        ("p --config FILE", "no option --bogus"),
    ],
)
def test_one_line_names_an_invalid_option_and_what_it_expects(
    argv: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("bogus: 1\n")
    assert refusal(capsys, *argv.replace("FILE", str(tmp_path / "c.yaml")).split()) == line


def test_flags_have_dashes_switches_negations_and_lists_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (
        "p --test-set a-b --keys c_d e --keys f --sizes 1e6 2 --no-skip-it -k 3 --kind=y "
        "--inner.rate 2"
    ).split()
    assert parsed(*words) == 0
    expected = Options(
        Path("p"), "a-b", None, 3, ("c_d", "e", "f"), (1e6, 2.0), False, "y", Inner(2.0)
    )
    assert capsys.readouterr().out == f"{expected!r}\n"
    assert parsed("p", "--skip-it", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"options": repr(Options(Path("p"))), "failed": 0}
    assert parsed("p", "--test-set=-a", "--keys=-b") == 0
    assert "test_set='-a'" in (line := capsys.readouterr().out) and "keys=('-b',)" in line
    assert parsed("--", "--odd_name") == 0
    assert "--odd_name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "memory", "shard"),
    [
        ("20GB", 20 * 10**9, 20 * 10**9),
        ("1.5 gib", 3 * 2**29, 3 * 2**29),
        ("8", 8, 8 * 2**20),
        ("1e9", 10**9, 10**9 * 2**20),
        ("2T", 2 * 10**12, 2 * 10**12),
        ("64MiB", 2**26, 2**26),
        ("9B", 9, 9),
    ],
)
def test_sizes_have_units(text: str, memory: int, shard: int, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "c.yaml").write_text(f"memory: {text}\nshard: {text}\n")
    for argv in (["--memory", text, "--shard", text], ["--config", str(tmp_path / "c.yaml")]):
        assert parsed("p", *argv) == 0
        assert f"memory={memory}, shard={shard})" in capsys.readouterr().out
    assert copy.deepcopy(Mebibytes(text)) == Mebibytes(str(Mebibytes(text))) == shard, (
        "as --print_config prints it"
    )


def test_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("p", "--test-set", "half") == 1
    assert parsed("p", "--test-set", "none") == 2
    assert capsys.readouterr().err == "error: none: no such test set; give another\n"


def test_help_keeps_line_breaks_and_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed("--help")
    text = capsys.readouterr().out
    assert end.value.code == 0 and "\n    a command to copy\n" in text
    assert (
        "--skip-it/--no-skip-it" in text
        and "default: set" in text
        and "usage: python -m room.verb PATH" in text
    )


def test_only_the_chosen_sub_command_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    verbs = {"one": ("no.such.module", "first"), "two": (f"{__name__}:second", "second")}
    assert choose("room", "About.", verbs, ["two", "a"]) == 7
    assert choose("room", "About.", verbs, ["--help"]) == 0
    assert "two  second" in capsys.readouterr().out
    assert choose("room", "About.", verbs, []) == 2
    assert choose("room", "About.", verbs, ["twp"]) == 2
    assert capsys.readouterr().err.endswith(
        "error: python -m room has no command twp: did you mean two?\n"
    )


def second(argv: list[str]) -> int:
    return 7
