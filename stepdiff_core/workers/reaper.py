"""Ends the processes of a local Ray once the process that started it has ended, in whatever way.

    python stepdiff_core/workers/reaper.py < PIPE

A driver killed by SIGKILL cannot clean up, so this is a separate process. It leads the process
group of the local Ray, which the driver's children join while Ray starts. The driver holds the
other end of PIPE, which closes when the driver ends or shuts Ray down. If Ray's C++ code ends the
driver, for example because the GCS is gone, no Python code of the driver runs: then this process
prints the error.
"""

import os
import signal
from contextlib import suppress

STARTED = b"s"
"""sent once Ray answers"""
ENDED = b"e"
"""sent once the driver has shut Ray down, or reports a failed start itself"""
_LINE = b"error: %b (logs: /tmp/ray/session_latest/logs); run the same command again\n"
_STARTING, _RUNNING = (
    b"ended while Ray was starting",
    b"this process was killed, or it lost its Ray",
)


def main() -> None:
    """Wait for the driver's end, then end its Ray, and this process with it."""
    status = b""
    while byte := os.read(0, 1):
        status = byte
    if status != ENDED:
        with suppress(OSError):  # nobody reads it
            os.write(2, _LINE % (_RUNNING if status == STARTED else _STARTING))
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
