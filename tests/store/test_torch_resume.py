"""Training that is interrupted in the middle of an epoch: what follows is exactly what was not yet read.

Users of other libraries report this case as broken: read some batches, save the state, load it into a second loader,
and go on.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from stepdiff.common.errors import StepDiffError
from store import Feature, Provenance, Store, View
from store.torch import FeatureStream, prefetch

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*use of fork:DeprecationWarning",
    "ignore:'set_vital':UserWarning",
    "ignore:This DataLoader will create:UserWarning",
)
COUNT, BATCHES = 37, 10  # clips, and batches of four of them


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    store = Store.open(tmp_path_factory.mktemp("resume") / "store", create=True)
    made = Provenance("net", "0" * 64, "last", "8 evenly", "centre 224", {"embedding": "float32"})
    with store.writer("clips", "net", made, {"embedding": Feature((3,), "float32")}, rows_per_shard=8) as writer:
        writer.write([f"c{row}" for row in range(COUNT)], {"embedding": np.ones((COUNT, 3), np.float32)})
    return store.view("clips", "net")


def stream(view: View, **options: Any) -> FeatureStream:
    return FeatureStream(view, "embedding", **{"batch_size": 4, "rank": 0, "world": 1, **options})


class Reader:
    """A stream with a loader of one kind: none, torch's or torchdata's, with some worker processes."""

    def __init__(self, view: View, kind: str, workers: int = 0, stream_options: Any = None, **options: Any) -> None:
        self.stream, self.kind = stream(view, **stream_options or {}), kind
        if workers:
            options |= {"num_workers": workers, "multiprocessing_context": "fork", "timeout": 200}
        loaders = {"torch": DataLoader, "torchdata": StatefulDataLoader}
        self.loader = loaders[kind](self.stream, batch_size=None, **options) if kind in loaders else self.stream
        self.epoch = self.received = 0

    def state(self) -> str:
        """Return the state as a checkpoint has it."""
        state = self.loader.state_dict() if self.kind == "torchdata" else self.stream.state_dict(self.received)
        return json.dumps({"epoch": self.epoch, "loader": state})

    def load(self, saved: str) -> None:
        state = json.loads(saved)
        self.epoch = state["epoch"]
        (self.loader if self.kind == "torchdata" else self.stream).load_state_dict(state["loader"])

    def batches(self, epochs: int) -> Iterator[list[str]]:
        """Yield the keys of each batch until the epochs are over."""
        while self.epoch < epochs:
            self.stream.set_epoch(self.epoch)
            self.received = 0
            for batch in prefetch(self.loader, "cpu"):
                self.received += 1
                yield batch["key"]
            self.epoch += 1


KINDS = [
    ("stream", 0),
    pytest.param("torch", 0, marks=pytest.mark.full),
    ("torch", 2),
    pytest.param("torchdata", 0, marks=pytest.mark.full),
    pytest.param("torchdata", 2, marks=pytest.mark.full),
]
kinds = pytest.mark.parametrize(("kind", "workers"), KINDS)


@kinds
@pytest.mark.parametrize("shuffle", [pytest.param(False, marks=pytest.mark.full), True])
def test_an_epoch_resumes_after_any_batch(view: View, kind: str, workers: int, shuffle: bool) -> None:
    """Also before the first batch, after the last one, and in the next epoch."""
    options = {"shuffle": shuffle}
    whole = list(Reader(view, "stream", stream_options=options).batches(2))
    assert len(whole) == 2 * BATCHES
    stops = range(2 * BATCHES) if not workers else (0, 1, 5, BATCHES - 1, BATCHES, BATCHES + 3)
    for stop in stops:
        first = Reader(view, kind, workers, options)
        reading = first.batches(2)
        seen = list(islice(reading, stop))
        saved = first.state() if stop else None
        reading.close()
        second = Reader(view, kind, workers, options)
        if saved:
            second.load(saved)
        assert seen + list(second.batches(2)) == whole, stop


@pytest.mark.full
@pytest.mark.parametrize(
    "options",
    [{"prefetch_factor": 4}, {"persistent_workers": True}, {"snapshot_every_n_steps": 3}, {"prefetch_factor": 1}],
    ids=str,
)
@pytest.mark.parametrize("stop", [4, BATCHES + 5])
def test_batches_that_workers_read_ahead_are_not_lost(view: View, options: dict[str, Any], stop: int) -> None:
    whole = list(Reader(view, "stream").batches(2))
    kinds = ["torchdata"] if "snapshot_every_n_steps" in options else ["torch", "torchdata"]
    for kind in kinds:
        first = Reader(view, kind, 2, {"ahead": 2}, **options)
        reading = first.batches(2)
        seen = list(islice(reading, stop))
        saved = first.state()
        reading.close()
        second = Reader(view, kind, 2, {"ahead": 5}, **options)
        second.load(saved)
        assert seen + list(second.batches(2)) == whole, kind


def test_any_number_of_worker_processes_continues_an_epoch(view: View) -> None:
    """Of torch's DataLoader: workers 2, 3, 0, 1, four batches each, over two epochs."""
    whole, seen, saved = list(Reader(view, "stream").batches(2)), [], None
    for workers in (2, 3, 0, 1, 2):
        reader = Reader(view, "torch", workers)
        if saved:
            reader.load(saved)
        reading = reader.batches(2)
        seen += list(islice(reading, 4))
        saved = reader.state()
        reading.close()
    assert seen == whole


def test_a_state_that_is_loaded_reaches_running_workers(view: View) -> None:
    """Persistent workers hold copies of the stream; a position that they did not see would start the epoch again."""
    whole = list(Reader(view, "stream").batches(2))
    reader = Reader(view, "torch", 2, persistent_workers=True)
    reading = reader.batches(2)
    assert list(islice(reading, 6)) == whole[:6]
    saved = reader.state()
    assert list(reading) == whole[6:]
    reader.load(saved)
    assert list(reader.batches(2)) == whole[6:]


def test_an_epoch_that_was_resumed_is_followed_by_a_whole_one_or_refused(view: View) -> None:
    ordered = stream(view, shuffle=False)
    whole = [batch["key"] for batch in ordered]
    ordered.load_state_dict({**ordered.state_dict(), "epoch": 0, "position": 7})
    loader = DataLoader(ordered, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=200)
    assert [batch["key"] for batch in loader] == whole[7:]
    with pytest.raises(StepDiffError, match="call set_epoch"):
        list(loader)
    ordered.set_epoch(0)
    assert [batch["key"] for batch in loader] == whole
    with pytest.raises(StepDiffError, match="received=11 is refused: 10 batches were left of this epoch"):
        ordered.state_dict(11)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "workers"), [("stream", 0), ("torch", 2), ("torchdata", 2)])
def test_another_number_of_ranks_that_reads_as_many_rows_a_step_continues_with_the_same_samples(
    view: View, kind: str, workers: int
) -> None:
    """One rank, then two, then one: each step has the samples of an uninterrupted run, in its order."""
    whole = list(Reader(view, "stream").batches(2))
    seen: list[list[str]] = []
    saved = None
    for world, steps in ((1, 3), (2, 9), (1, 2), (2, None)):
        options = [{"rank": n, "world": world, "batch_size": 4 // world} for n in range(world)]
        readers = [Reader(view, kind, workers, given) for given in options]
        for reader in readers if saved else ():
            reader.load(saved)
        reading = [reader.batches(2) for reader in readers]
        for parts in islice(zip(*reading, strict=True), steps):
            seen.append([key for part in parts for key in part])
            saved = readers[0].state()
        for one in reading:
            one.close()
    assert [key for step in seen for key in step] == [key for step in whole for key in step]
    assert seen[:8] == whole[:8] and len(seen) == len(whole)


SCRIPT = """
import json, os, sys, time
from pathlib import Path
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from store import Store
from store.torch import FeatureStream

if __name__ == "__main__":
    folder, kind, file = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    stream = FeatureStream(Store.open(folder).view("clips", "net"), "embedding", batch_size=4)
    loader = {"torch": DataLoader, "torchdata": StatefulDataLoader}[kind](stream, batch_size=None, num_workers=2)
    saver = loader if kind == "torchdata" else stream
    saved = json.loads(file.read_text()) if file.exists() else {"epoch": 0, "seen": []}
    if "state" in saved:
        saver.load_state_dict(saved["state"])
    for epoch in range(saved["epoch"], 4):
        stream.set_epoch(epoch)
        for count, batch in enumerate(loader, 1):
            saved["seen"].append(batch["key"])
            state = loader.state_dict() if kind == "torchdata" else stream.state_dict(count)
            file.with_suffix(".new").write_text(json.dumps({**saved, "epoch": epoch, "state": state}))
            os.replace(file.with_suffix(".new"), file)
            time.sleep(0.02)
"""


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "torchdata"])
def test_a_training_that_is_killed_at_any_moment_sees_the_samples_of_an_uninterrupted_one(
    view: View, kind: str, tmp_path: Path
) -> None:
    """Each process continues from the last checkpoint."""
    (tmp_path / "script.py").write_text(SCRIPT)
    file = tmp_path / "state.json"
    command = [sys.executable, str(tmp_path / "script.py"), str(view.paths.store), kind, str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 0
    for more in (3, 6, 9, None):  # batches after which it is killed
        known = file.stat().st_ino if file.exists() else 0
        with subprocess.Popen(command, env=environment) as process:
            try:
                while more and process.poll() is None:
                    now = file.stat().st_ino if file.exists() else 0
                    more, known = more - (now != known), now
                    time.sleep(0.005)
                kills += process.poll() is None and more == 0
                if more == 0:
                    process.kill()
                process.wait(200)
            finally:
                process.kill()
    assert process.returncode == 0 and kills == 3
    assert json.loads(file.read_text())["seen"] == list(Reader(view, "stream").batches(4))
