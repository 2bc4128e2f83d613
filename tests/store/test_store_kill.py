"""A run that is killed at any moment and resumed writes the same arrays as an uninterrupted run."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr

from store import Store
from store.verbs.verify import verify

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("STORE_KILLS", "20"))  # STORE_KILLS=500 for a long test, STORE_SEED to repeat one

# A process with everything imported: for each path it reads, it forks a writer and prints its pid and exit status.
# A run appends rows and writes the absent ones, in two rounds so that some shards are completed later.
RUNS = """
import os, sys
import numpy as np, polars as pl
from store import Feature, Provenance, Store

features = {"tokens": Feature((6, 130), "int8"), "embedding": Feature((32,), "float32")}

def values(path, rows):
    with open(f"{path}.encoded", "a") as log:
        log.write("".join(f"{row}\\n" for row in rows))
    return {name: np.array([np.random.default_rng([row, len(name)]).normal(size=f.shape) for row in rows], np.float32)
            .reshape(len(rows), *f.shape) for name, f in features.items()}

def run(path):
    store = Store.open(path, create=True)
    with store.lock():
        for count in (11, 20):
            store.catalog("clips").append(pl.DataFrame({"key": [f"c{n}" for n in range(count)]}))
            view = store.create_view("clips", "net", Provenance("net", "0", "l", "f", "c", {}), features, 8)
            view.resize()
            for keep in (lambda row: row % 3 == 0, lambda row: True):
                absent = [row for row in np.flatnonzero(view.status() == 0).tolist() if keep(row)]
                for shard in sorted({row // 8 for row in absent}):
                    rows = [row for row in absent if row // 8 == shard]
                    good = np.array([row for row in rows if row % 7], np.int64)
                    bad = {row: f"bad {row}" for row in rows if not row % 7}
                    view.write_shard(shard, good, values(path, good.tolist()), bad, {"torch": "1"})

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        run(line.strip())
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Runs:
    """Writers that can be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def encoded(self, store: Path) -> list[int]:
        """Return the rows that the last run encoded."""
        log = Path(f"{store}.encoded")
        rows = [int(row) for row in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return rows

    def run(self, store: Path, kill_after: float | None = None) -> int:
        """Return the exit status of a run: -9 if it was killed after `kill_after` seconds."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{store}\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())


@pytest.fixture
def runs() -> Iterator[Runs]:
    command = [sys.executable, "-W", "ignore:.*use of fork:DeprecationWarning", "-c", RUNS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield Runs(process)


def arrays(store: Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(store / "arrays.zarr" / "clips" / "net", mode="r")
    return {name: group[name][:] for name in ("tokens", "scale", "embedding", "checksum", "status")}


@pytest.mark.timeout(120 + 4 * KILLS)
def test_a_run_killed_at_any_moment_and_resumed_gives_the_same_arrays(tmp_path: Path, runs: Runs) -> None:
    whole = tmp_path / "whole"
    begin = time.monotonic()
    assert runs.run(whole) == 0
    seconds = time.monotonic() - begin
    expected, reasons = arrays(whole), Store.open(whole).view("clips", "net").failures()
    assert np.bincount(expected["status"]).tolist() == [0, 17, 3]
    assert sorted(runs.encoded(whole)) == np.flatnonzero(expected["status"] == 1).tolist()

    seed = int(os.environ.get("STORE_SEED", random.randrange(2**32)))
    dice = random.Random(seed)
    stores = (tmp_path / f"store{n}" for n in itertools.count())
    store, killed = next(stores), 0
    committed: set[int] = set()  # rows of the shards that existed before the last run
    while killed < KILLS:
        ended = runs.run(store, dice.uniform(0, seconds))
        assert not committed & set(runs.encoded(store)), f"a row is encoded twice (seed {seed})"
        committed = whatever_status_says_is_true(store, expected)
        if ended == 0:  # finished before it was killed: use another store
            seconds *= 0.9
            check(store, expected, reasons, seed)
            shutil.rmtree(store)
            store, committed = next(stores), set()
            continue
        killed, seconds = killed + 1, seconds * 1.05  # about two of three runs are killed, at any point
    assert runs.run(store) == 0
    assert not committed & set(runs.encoded(store)), f"a row is encoded twice (seed {seed})"
    check(store, expected, reasons, seed)


def whatever_status_says_is_true(path: Path, expected: dict[str, np.ndarray]) -> set[int]:
    """Return the rows whose status is ok and check them."""
    if not (path / "store.json").exists():
        return set()
    store = Store.open(path)
    assert verify(store) == []
    catalog = store.catalog("clips")
    assert catalog.rows([f"c{n}" for n in range(len(catalog))]).tolist() == list(range(len(catalog)))
    if "net" not in store.views("clips"):
        return set()
    view = store.view("clips", "net")
    status = view.status()
    ok = np.flatnonzero(status == 1)
    assert (expected["status"][: len(status)][status > 0] == status[status > 0]).all()
    for name in ("tokens", "embedding"):
        assert (view.read(name, ok) == expected[name][ok]).all()
    assert set(view.failures()["reason"]) == {f"bad {row}" for row in np.flatnonzero(status == 2)}
    return set(ok.tolist())


def check(path: Path, expected: dict[str, np.ndarray], reasons: pl.DataFrame, seed: int) -> None:
    found = arrays(path)
    for name, content in expected.items():
        assert np.array_equal(found[name], content), f"{name} differs (seed {seed})"
    store = Store.open(path)
    assert verify(store) == []
    assert store.view("clips", "net").failures().equals(reasons)
    with store.lock():
        assert not [p for p in path.rglob(".tmp*")], "no temporary files are left for the next planner"
