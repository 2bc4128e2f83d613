"""A process that has everything imported, and runs each function in a fork of itself, which can be
killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.store.conftest import ROOT

NAMING = ("link", "replace", "rename", "unlink")
"""operations that make, exchange or remove the name of a file"""
FAILED = 78
"""exit status of a fork whose function raised an exception"""


class Forks:
    """The process below; `modules` are those that it imports at its start."""

    def __init__(self, *modules: str) -> None:
        program = f"import {', '.join([__name__, *modules])}; {__name__}.serve()"
        command = [sys.executable, "-W", "ignore:.*use of fork:DeprecationWarning", "-c", program]
        environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment
        )

    def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        kill_at: int = 0,
        operations: tuple[str, ...] = NAMING,
    ) -> int:
        """Call a function of a module in a fork and return its exit status.

        `kill_at` kills it before that one of its `operations`.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        server = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        request = [
            function.__module__,
            function.__qualname__,
            arguments,
            kill_at,
            operations,
            server,
        ]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def serve() -> None:
    """Answer each request with the exit status of a process."""
    for line in sys.stdin:
        module, name, arguments, kill_at, operations, environment = json.loads(line)
        pid = os.fork()
        if not pid:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.environ.update(environment)
            if kill_at:
                _kill_at(kill_at, operations)
            try:
                os._exit(int(getattr(import_module(module), name)(*arguments) or 0))
            except BaseException:
                traceback.print_exc()
                os._exit(FAILED)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _kill_at(number: int, operations: list[str]) -> None:
    """Kill this process just before that one of its operations."""
    steps, guard = [number], threading.Lock()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with guard:
                steps[0] -= 1
                if steps[0] <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in operations:
        setattr(os, name, counted(getattr(os, name)))
