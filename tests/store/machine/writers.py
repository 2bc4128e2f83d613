"""Writers of the state machine, which run in the test's process or in a child that can be killed.

As a program (`run_commands`) it reads commands as JSON lines and forks a child that executes each
one. It prints the child's process id and then its exit status. With `crash_at` the child calls `os._exit` just before
its n-th file operation.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from common.errors import StepDiffError
from store import Feature, Provenance, Store
from store.verbs.compact import compact
from store.verbs.drop import drop
from store.verbs.options import CompactOptions, DropOptions, RequantiseOptions
from store.verbs.requantise import requantise
from tests.store.machine.model import MAIN, SHAPES, values_of

CRASHED, REFUSED = 77, 78
"""exit statuses of a child that called `os._exit`, and of one whose command was refused"""
_PROGRAM = "from tests.store.machine.writers import run_commands; run_commands()"
_OPERATIONS = (
    "open",
    "pwrite",
    "pwritev",
    "fsync",
    "replace",
    "rename",
    "link",
    "mkdir",
    "unlink",
    "rmdir",
    "truncate",
)


def provenance(seed: int, dtype: str) -> Provenance:
    """Return the provenance of a view of the state machine."""
    return Provenance("net", f"{seed:064d}", "last", "8 evenly", "crop", {"tokens": dtype, "embedding": "float32"})


def filling(view: str, seed: int, good: list[str], bad: dict[str, str]) -> dict[str, Any]:
    """Return the command that writes keys of a view: `good` ones, and `bad` ones with the reasons of their failure."""
    return {"op": "fill", "view": view, "good": good, "bad": bad, "seed": seed}


def perform(store: Store, command: dict[str, Any]) -> None:
    """Execute a command."""
    path, op = str(store.path), command["op"]
    if op == "append":
        store.catalog("clips").append(pl.DataFrame({"key": command["keys"]}))
    elif op == "create":
        features = {n: Feature(s, command["dtype"] if n == MAIN else "float32") for n, s in SHAPES.items()}
        with store.lock():
            made_by = provenance(command["seed"], command["dtype"])
            store.create_view("clips", command["view"], made_by, features, command["shard"])
    elif op == "fill":
        _fill(store, command)
    elif op == "requantise":
        requantise(RequantiseOptions(path, command["view"], command["to"], command["dtype"]))
    elif op == "drop":
        drop(DropOptions(path, command["view"], yes=True))
    elif op == "compact":
        compact(CompactOptions(path))
    else:
        raise AssertionError(op)


def _fill(store: Store, command: dict[str, Any]) -> None:
    """Write rows shard by shard, as featurize does."""
    good, bad = command["good"], command["bad"]
    with store.lock():
        view = store.view("clips", command["view"])
        view.resize()
        keys = [*good, *bad]
        rows = dict(zip(keys, view.catalog.rows(keys).tolist(), strict=True))
        for shard in sorted({row // view.rows_per_shard for row in rows.values()}):
            here = [key for key in good if rows[key] // view.rows_per_shard == shard]
            failed = [key for key in bad if rows[key] // view.rows_per_shard == shard]
            # the values contain NaN and infinity, which the store detects
            unfit = {key: bad[key].rpartition(" ")[2] for key in failed if bad[key].startswith(f"{MAIN} holds")}
            values = {
                name: np.stack([values_of(key, name, shape, command["seed"]) for key in [*here, *unfit]])
                if here or unfit
                else np.zeros((0, *shape), np.float32)
                for name, shape in SHAPES.items()
            }
            for place, wrong in enumerate(unfit.values(), len(here)):
                values[MAIN][place, -1, -1] = {"NaN": np.nan, "infinity": np.inf}[wrong]
            given = np.array([rows[key] for key in [*here, *unfit]], np.int64)
            reasons = {rows[key]: bad[key] for key in failed if key not in unfit}
            view.write_shard(shard, given, values, reasons, {"n": len(keys)})


class Writers:
    """The program below and its child processes."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore:.*use of fork:DeprecationWarning", "-c", _PROGRAM]
        search = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONPATH": search, "NUMBA_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def run(self, command: dict[str, Any], kill_after: float | None = None) -> int:
        """Execute a command in a child process and return its exit status. `kill_after`: seconds until SIGKILL."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def end(self) -> None:
        """End the program."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def _crash_at(number: int) -> None:
    """End this process just before its file operation number `number`."""
    left, guard = [number], threading.Lock()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with guard:
                left[0] -= 1
                if left[0] <= 0:
                    os._exit(CRASHED)
            return real(*args, **options)

        return call

    for name in _OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def run_commands() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            command = json.loads(line)
            if command.get("crash_at"):
                _crash_at(command["crash_at"])
            try:
                perform(Store.open(command["path"], create=True), command)
            except StepDiffError as error:
                print(error, file=sys.stderr)
                os._exit(REFUSED)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
