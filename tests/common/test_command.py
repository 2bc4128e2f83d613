"""How every command ends, and that each uses the same wrapper."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from _stepdiff import RUNNABLE as ROOMS
from _stepdiff import module_of

ROOT = Path(__file__).parents[2]
RUNNABLES = sorted(
    file
    for folder in (*ROOMS, ".")
    for file in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")
    if re.search(r"^if __name__ == .__main__.:", file.read_text(encoding="utf-8"), re.MULTILINE)
)


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def start(*arguments: str, **more: object) -> subprocess.Popen[str]:
    """Start a process in its own process group, as a terminal does."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "start_new_session": True}
    return subprocess.Popen([sys.executable, *arguments], **{**pipes, **more})  # type: ignore[call-overload]


def script(body: str, **more: object) -> subprocess.Popen[str]:
    """Start a process that runs `main`, which `body` defines."""
    head = "import os, signal, sys, time\nfrom common.cli import command\n"
    return start("-c", f"{head}{body}\ncommand.run(main)", **more)


def wait_for_handlers(process: subprocess.Popen[str]) -> None:
    """Wait until the first line of the project has run: Python handles SIGINT itself, SIGTERM only with our handler."""
    while process.poll() is None:
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        if caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.001)


@pytest.mark.parametrize("file", RUNNABLES, ids=module)
def test_every_command_uses_the_wrapper(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (last,) = (node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))
    assert ast.unparse(last.body[-1]).startswith("command.run(main")
    room = file.relative_to(ROOT).parts[0]
    if room in ROOMS:
        first = next(
            node
            for node in ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        )
        assert ast.unparse(first) == "import _stepdiff"


def test_the_list_of_commands_is_complete() -> None:
    found = {module(file) for file in RUNNABLES}
    assert {"store", "weights", "kitchen", "featurize", "retrieval", "heads.train", "annotate.pairs"} < found
    assert found >= {f"benchmarks.{name}" for name in ("search", "store.read", "train_step")}


COMMANDS = {
    "kitchen": ["kitchen", "--out", "{}/world", "--videos", "40"],
    "store": ["store", "info", "{}"],
    "retrieval": ["retrieval", "plan", "--clips", "1e6", "--dim", "768"],
    "heads": ["heads.table", "{}/none.json"],
}


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.5, 1, 2])
@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_prints_one_line_and_no_traceback(name: str, seconds: float, tmp_path: Path) -> None:
    process = start("-m", *(part.format(tmp_path) for part in COMMANDS[name]))
    wait_for_handlers(process)
    time.sleep(seconds)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert "Traceback" not in message and "Exception ignored" not in message
    if not ended and process.returncode == 130:
        assert message.count("error: interrupted") == 1 and message.splitlines()[-1].startswith("error: interrupted")
    elif not ended:  # it ended by itself: 2 if it takes input that does not exist; -2 is Python's own exit status
        assert process.returncode in (0, 1, 2, -signal.SIGINT)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_runs_the_clean_up(number: signal.Signals, status: int) -> None:
    process = script(
        "def main():\n  try:\n    print('on', flush=True); time.sleep(60)\n  finally:\n    print('cleaned', flush=True)"
    )
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    process.send_signal(number)
    wrote, message = process.communicate(timeout=60)
    assert (process.returncode, wrote) == (status, "cleaned\n")
    assert message == "error: interrupted; run the same command again\n"


def test_a_second_interrupt_ends_the_process_at_once() -> None:
    process = script(
        "def main():\n  try:\n    print('on', flush=True); time.sleep(60)\n"
        "  finally:\n    print('cleaning', flush=True); time.sleep(60)"
    )
    assert process.stdout is not None
    for line in ("on\n", "cleaning\n"):
        assert process.stdout.readline() == line
        process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT  # a shell reports 130
    assert message == "error: interrupted; run the same command again\n"


def test_an_interrupt_that_a_library_swallows_still_ends_the_command() -> None:
    swallowing = "class Odd:\n  def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(1)\n"
    process = script(swallowing + "def main():\n  Odd(); time.sleep(60)")
    _, message = process.communicate(timeout=30)
    assert (process.returncode, message) == (130, "error: interrupted; run the same command again\n")
    process = script("def main():\n  try: os.kill(os.getpid(), 2); time.sleep(9)\n  except BaseException: return 0")
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_closed_pipe_ends_the_command_quietly() -> None:
    for body in ("for _ in range(10**6): print('x' * 80)", "print('x')", "print('x'); raise SystemExit(0)"):
        reading, writing = os.pipe()
        os.close(reading)
        process = script(f"def main():\n  {body}", stdout=writing)
        os.close(writing)
        _, message = process.communicate(timeout=60)
        assert (process.returncode, message) == (141, "")


def test_a_full_disk_or_too_little_memory_is_reported_in_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        process = script("def main():\n  print('x')", stdout=full, env=buffered)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        message == "error: standard output: No space left on device; free some space and run the same command again\n"
    )
    process = script("def main():\n  with open('/dev/full', 'w') as file: file.write('x')")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1 and message.startswith("error: standard output or a file: No space left on device; ")
    process = script("def main():\n  bytes(2**62)")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1 and message.startswith("error: out of memory") and len(message.splitlines()) == 1


def test_an_unexpected_exception_keeps_its_traceback() -> None:
    process = script("def main():\n  return {}['key']")
    _, message = process.communicate(timeout=60)
    assert process.returncode == 1 and message.splitlines()[-1] == "KeyError: 'key'" and "Traceback" in message


def test_a_file_name_that_is_not_utf_8_can_be_printed() -> None:
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    process = script("def main():\n  print(os.fsdecode(bytes([255])))", env=strict)
    wrote, _ = process.communicate(timeout=60)
    assert (process.returncode, wrote) == (0, "\\udcff\n")


def test_an_ignored_interrupt_stays_ignored() -> None:
    body = "def main():\n  os.kill(os.getpid(), 2); print('done')"
    process = script(body, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))  # as nohup does
    assert process.communicate(timeout=60)[0] == "done\n" and process.returncode == 0


def test_importing_a_room_keeps_the_signal_handlers_of_a_program() -> None:
    process = start("-c", "import signal, heads, annotate; print(signal.getsignal(2) is signal.default_int_handler)")
    assert process.communicate(timeout=60)[0] == "True\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("python -m store info", "store"),
        ("python -um heads.train", "heads.train"),
        ("python -mstore", "store"),
        ("python -W ignore -X dev -m kitchen", "kitchen"),
        ("python -Wignore -m kitchen", "kitchen"),
        ("python -c import -m store", None),
        ("python x.py -m store", None),
        ("python -", None),
        ("python", None),
        ("python -m", None),
    ],
)
def test_the_command_that_started_python_is_read_from_its_command_line(line: str, found: str | None) -> None:
    assert module_of(line.split()) == found


def test_the_wrapper_imports_no_heavy_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, common.cli.command, _stepdiff; print(*sys.modules)"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert not {"jsonargparse", "yaml", "numpy", "ray", "torch"} & set(done.stdout.split())
