"""Ends the processes of a local Ray once the process that started it has gone, however it went.

    python common/workers/reaper.py MARK < PIPE

It runs as a process of its own, in a session of its own, because a driver that SIGKILL ends cannot clean up. The driver
holds the other end of PIPE: the end of that file means that the driver has ended, or that it has shut Ray down. A
process belongs to the local Ray if its environment holds the line `COMMON_RAY_MARK=MARK`; no other process is touched,
so a cluster that was there already stays.

While the pipe has said nothing, Ray is starting. Ray's C++ code may end the driver in that time without Python's help,
so the line that says so comes from here.
"""

import os
import signal
import sys
import time
from pathlib import Path

VARIABLE = "COMMON_RAY_MARK"
STARTED = b"s"
"""written to the pipe once Ray answers, or once the driver reports a failed start itself"""
_LINE = b"error: ended while Ray was starting (logs: /tmp/ray/session_latest/logs); run the same command again\n"
_PATIENCE = 10.0  # seconds
_PAUSE = 0.05  # seconds


def marked(mark: str) -> list[int]:
    """Return the ids of the running processes that were started with the mark in their environment."""
    line = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if line in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:  # it has ended, or it is another user's
                continue
    return found


def end(mark: str) -> None:
    """Kill every marked process, and those that they start meanwhile."""
    last = time.monotonic() + _PATIENCE
    while (found := marked(mark)) and time.monotonic() < last:
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:  # it has ended
                continue
        time.sleep(_PAUSE)


def main(mark: str) -> None:
    """Wait for the driver's end, then end its Ray."""
    started = False
    while said := os.read(0, 1):
        started = started or said == STARTED
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # whoever reads the driver's standard error need not wait for us
    if not started:
        os.write(2, _LINE)
    end(mark)


if __name__ == "__main__":
    main(sys.argv[1])
