"""The frame of every runnable: `python -m ROOM` and `python -m ROOM.VERB` end in `run(main)`.

It imports only light parts of the standard library, and `choose` the module of the chosen verb and
no other, so that `--help` stays fast.

Exit statuses that are decided here, each with one line on standard error:

- 130 and 143: interrupted by Ctrl-C or SIGTERM, from the first import on; a second signal ends the
  process at once
- 141, without a line: standard output was closed by its reader (`| head`), as for a program that
  SIGPIPE ends
- 1: memory or disk space ran out; 2 is for command lines that no machine could run
- 2: a path is longer than the file system takes
- 1, with a traceback: an unexpected exception, because it is a bug
"""

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PIPE_CLOSED = 128 + signal.SIGPIPE


class Terminated(KeyboardInterrupt):
    """SIGTERM. Code that cleans up after Ctrl-C cleans up after SIGTERM in the same way."""


@dataclass
class _RunState:
    pid: int = 0
    """process that installed the handlers; a fork of it prints nothing"""
    stderr: int = 2
    """descriptor of the line about an interrupt, also while descriptor 2 is redirected"""
    running: bool = False
    """whether `main` runs: before and after it there is nothing to clean up"""
    hint: str = ""
    """state that an interrupted run leaves, and how to continue"""
    signal: int | None = None
    """the signal that interrupted `main`"""


_state = _RunState()


def run(main: Callable[[], int | None], hint: str = "run the same command again") -> NoReturn:
    """Call `main` and exit with the status that it returns (None is 0).

    Args:
        main: The command. It reads `sys.argv` itself.
        hint: State that an interrupted run leaves, and how to continue; the end of the line `error:
            interrupted; ...`.

    Raises:
        SystemExit: Always, except for an unexpected exception, which passes.
    """
    _state.hint, _state.signal, _state.running = hint, None, True
    if _state.pid != os.getpid():
        _state.pid = os.getpid()
        with suppress(OSError):  # standard error may be closed
            _state.stderr = os.dup(2)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` started this process
            signal.signal(number, _interrupt)
    sys.unraisablehook = _unraisable
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="backslashreplace")  # a file name may hold bytes that are no text
    try:
        status = _status(main)
    finally:
        _state.running = False
    raise SystemExit(status)


def _status(main: Callable[[], int | None]) -> int | str | None:
    """The exit status of `main`, after standard output is flushed."""
    try:
        try:
            status: int | str | None = main()
        except SystemExit as ending:  # argparse: --help, or a command line that it refuses
            status = ending.code
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:
        # only to recognise what is listed above: anything else is raised again
        if _state.signal is not None:  # whatever became of the interrupt on its way here
            return 128 + _state.signal
        if isinstance(error, KeyboardInterrupt):
            _say(f"interrupted; {_state.hint}")
            return 128 + signal.SIGINT
        if _is_memory(error):
            _say(
                "out of memory: make the batch, the model or the number of workers smaller, or use "
                "a larger machine"
            )
            return 1
        if isinstance(error, OSError) and error.errno in _FULL:
            where = error.filename or "standard output or a file"
            _say(f"{where}: {error.strerror}; free some space and run the same command again")
            _end_output()
            return 1
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            _say(
                f"{os.fsdecode(error.filename or '')[:60]}...: {error.strerror}; give a shorter "
                "path"
            )
            return 2
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            _end_output()
            return _PIPE_CLOSED
        raise
    # `main` may have answered an interrupt itself, or lost it in a library's `except BaseException`
    return status if _state.signal is None else 128 + _state.signal


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The signal handler: print the line, and let the next signal end the process without Python's
    help."""
    if os.getpid() != _state.pid:
        raise KeyboardInterrupt
    for each in _SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    if not _state.running:
        _say("interrupted")
        os._exit(128 + number)
    _say(f"interrupted; {_state.hint}")
    _state.signal = number
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """End at once when Python would drop an interrupt because it arrived in a callback or a
    finaliser."""
    if _state.signal is not None and _state.pid == os.getpid():
        if isinstance(lost.exc_value, KeyboardInterrupt):
            os._exit(128 + _state.signal)
        return  # a library that an interrupt left half imported
    sys.__unraisablehook__(lost)


def _say(what: str) -> None:
    """One line on standard error, past Python's buffers, which a handler may have interrupted."""
    with suppress(OSError):  # closed, or its reader has gone
        os.write(_state.stderr, f"error: {what}\n".encode(errors="backslashreplace"))


def _end_output() -> None:
    """Drop output that standard output does not take: Python would fail on it when it ends."""
    with suppress(OSError, AttributeError):  # None where it was closed
        sys.stdout.flush()
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reader_has_gone() -> bool:
    """Whether standard output is a pipe that nobody reads; the error may be about another one."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except (io.UnsupportedOperation, AttributeError):  # closed, or replaced by a test or a notebook
        return False
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _is_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, numpy's, or a device's."""
    torch = sys.modules.get("torch")
    kind = getattr(torch, "OutOfMemoryError", MemoryError)
    return isinstance(error, (MemoryError, kind)) or "DefaultCPUAllocator" in str(error)


def spoken(module: str) -> str:
    """Return the command of a module: `stepdiff annotate audit` for one in stepdiff, else `python
    -m MODULE`."""
    if module.startswith("stepdiff"):
        return module.replace("_core", "").replace(".", " ")
    return f"python -m {module}"


def choose(
    program: str,
    description: str,
    verbs: Mapping[str, tuple[str, str]],
    argv: list[str] | None = None,
    listed: bool = True,
) -> int:
    """Call the function of the verb that the command line names; returns its exit status, 2 if no
    verb is named.

    Args:
        program: Module of the command.
        description: Printed by `--help`, before the list of verbs.
        verbs: Verb -> (`module:function`, its help in one line). The function takes the remaining
            arguments and returns the exit status; without `:function` it is `main`.
        argv: Arguments; default: `sys.argv[1:]`.
        listed: Whether to list the verbs after the description; else the description does.
    """
    first, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if first in ("", "-h", "--help"):
        width = max(map(len, verbs))
        lines = [f"  {verb:<{width}}  {about}" for verb, (_, about) in verbs.items()]
        head = [f"usage: {spoken(program)} COMMAND [OPTIONS]", "", description.strip()]
        lines = ["", "commands:", *lines] if listed else []
        tail = ["", f"Options of a command: {spoken(program)} COMMAND --help"]
        print("\n".join([*head, *lines, *tail]), file=None if first else sys.stderr)
        return 0 if first else 2
    if first not in verbs:
        import difflib

        near = difflib.get_close_matches(first, verbs, 1)
        meant = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(verbs)}"
        print(f"error: {spoken(program)} has no command {first}: {meant}", file=sys.stderr)
        return 2
    module, _, function = verbs[first][0].partition(":")
    return int(getattr(import_module(module), function or "main")(rest))
