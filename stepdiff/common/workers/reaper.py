"""Ends the processes of a local Ray once the process that started it has ended, in whatever way.

    python stepdiff/common/workers/reaper.py MARK < PIPE

It is a separate process in its own session, because a driver killed by SIGKILL cannot clean up. The driver holds the
other end of PIPE, which closes when the driver ends or shuts Ray down. A process belongs to the local Ray if its
environment contains `COMMON_RAY_MARK=MARK`; no other process is touched. Ray's agents set their title, which would
overwrite that environment without `KEEP`. Where Ray's C++ code ends the driver, for example because the GCS is gone, no
Python code of the driver runs: then this process prints the error.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

VARIABLE = "COMMON_RAY_MARK"
KEEP = "SPT_NOENV"
"""variable of the setproctitle in Ray"""
STARTED = b"s"
"""sent once Ray answers"""
ENDED = b"e"
"""sent once the driver has shut Ray down, or reports a failed start itself"""
_LINE = b"error: %b (logs: /tmp/ray/session_latest/logs); run the same command again\n"
_STARTING, _RUNNING = b"ended while Ray was starting", b"this process was killed, or it lost its Ray"
_PATIENCE = 10.0  # seconds
_PAUSE = 0.05  # seconds


def marked(mark: str) -> list[int]:
    """Return the ids of the running processes that were started with the mark in their environment."""
    line = f"{VARIABLE}={mark}".encode()
    processes = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if line in (folder / "environ").read_bytes().split(b"\0"):
                    processes.append(int(folder.name))
            except OSError:  # it has ended, or it is another user's
                continue
    return processes


def end(mark: str) -> None:
    """Kill every marked process, and those that they start in the meantime."""
    last = time.monotonic() + _PATIENCE
    while (processes := marked(mark)) and time.monotonic() < last:
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:  # it has ended
                continue
        time.sleep(_PAUSE)


def main(mark: str) -> None:
    """Wait for the driver's end, then end its Ray."""
    said = b""
    while byte := os.read(0, 1):
        said = byte
    if said != ENDED:
        with suppress(OSError):  # nobody reads it
            os.write(2, _LINE % (_RUNNING if said == STARTED else _STARTING))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # readers of the driver's stderr need not wait
    end(mark)


if __name__ == "__main__":
    main(sys.argv[1])
