"""Count the files and functions of the project that a command touches while it runs, imports apart.

    python -m tests.flows store info data/features
    python -m tests.flows heads.evaluate --store data/features ...

A function counts if it is called in any thread of this process and no import is in progress;
`--list` before the module prints them in the order of their first call.
"""

import os
import runpy
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

from stepdiff_core import PACKAGES

ROOT = Path(__file__).parents[1]
FOLDERS = tuple(f"{ROOT / package}{os.sep}" for package in PACKAGES)


class Calls:
    """A profile function that keeps the code of each function of the project in the order of first
    calls."""

    def __init__(self) -> None:
        self.codes: dict[CodeType, None] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code not in self.codes and code.co_filename.startswith(FOLDERS):
            # 2: CO_NEWLOCALS
            if not code.co_name.startswith("<") and code.co_flags & 2 and not _is_importing(frame):
                self.codes[code] = None


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "_find_and_load":
            return True
        frame = frame.f_back
    return False


def main() -> None:
    listed = sys.argv[1] == "--list"
    sys.argv = sys.argv[2 if listed else 1 :]
    calls = Calls()
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(f"exit status {end.code or 0}")
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    files = dict.fromkeys(os.path.relpath(code.co_filename, ROOT) for code in calls.codes)
    if listed:
        for code in calls.codes:
            print(
                f"{os.path.relpath(code.co_filename, ROOT)}:{code.co_firstlineno} "
                f"{code.co_qualname}"
            )
    print(f"{len(files)} files, {len(calls.codes)} functions")


if __name__ == "__main__":
    main()
