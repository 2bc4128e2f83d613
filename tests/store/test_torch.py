"""PyTorch datasets: rows, workers, labels, devices, int8 that a device dequantises; epochs that are
interrupted.

After an interruption in the middle of an epoch exactly the samples that were not yet read follow.
Users of other libraries report this case as broken: read some batches, save the state, load it into
a second loader, and go on.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from stepdiff_core.errors import StepDiffError
from store import Feature, View
from store.format.quantise import dequantise as on_cpu
from store.format.quantise import quantise
from store.torch import FeatureDataset, FeatureStream, dequantise, prefetch, to_device
from tests.stores import write_view

FORMS = {"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32")}
KEYS = [f"c{row}" for row in range(37)]
STEPS, NAMES = [row % 5 for row in range(37)], [f"n{row % 3}" for row in range(37)]
FRAME = pl.DataFrame({"key": KEYS, "step": STEPS, "name": NAMES})
LABELS = dict(zip(KEYS, FRAME.select("step", "name").rows(), strict=True))
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*use of fork:DeprecationWarning",
    "ignore:'set_vital':UserWarning",
    "ignore:This DataLoader will create:UserWarning",
)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """37 clips with labels, shards of 8 rows, the tokens int8; and a clip that failed."""
    place = tmp_path_factory.mktemp("torch") / "store"
    return write_view(place, FRAME, FORMS, failures={"broken": "no video"}, shard=8)


def stream(view: View, features: Any = "embedding", **options: Any) -> FeatureStream:
    return FeatureStream(view, features, **{"batch_size": 4, "rank": 0, "world": 1, **options})


def loader(
    one_stream: FeatureStream,
    start: str | None,
    kind: type[DataLoader] = DataLoader,
    **options: Any,
) -> DataLoader:
    """Return a loader of the stream, with two workers if `start` names a start method."""
    if start:
        options |= {"num_workers": 2, "multiprocessing_context": start, "timeout": 200}
    return kind(one_stream, batch_size=None, **options)


def keys(batches: Any) -> list[list[str]]:
    return [batch["key"] for batch in batches]


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.full)])
def test_each_row_is_read_once_by_one_worker_of_one_rank(view: View, start: str) -> None:
    """The batches and their order are the same with any number of worker processes."""
    ranks = [stream(view, rank=rank, world=2) for rank in range(2)]
    loaders = [loader(one_stream, start, persistent_workers=True) for one_stream in ranks]
    alone = [stream(view, rank=rank, world=2) for rank in range(2)]
    epochs = []
    for epoch in range(2):
        for one_stream in ranks:
            one_stream.set_epoch(epoch)
        with_workers = [keys(one) for one in loaders]
        assert with_workers == [keys(one_stream) for one_stream in alone]
        assert [len(part) for part in with_workers] == [len(one) for one in loaders] == [5, 5]
        assert sorted(key for part in with_workers for batch in part for key in batch) == sorted(
            KEYS
        )
        epochs.append(with_workers)
    assert epochs[0] != epochs[1]


def check(batch: dict[str, Any], view: View) -> list[str]:
    """Compare a batch with the view and the labels; return its keys."""
    assert (batch["embedding"].numpy() == view.read("embedding", keys=batch["key"])).all()
    levels, scale = view.read_quantised("tokens", view.rows(batch["key"]))
    assert (batch["tokens"].levels.numpy() == levels).all() and (
        batch["tokens"].scale.numpy() == scale
    ).all()
    assert list(zip(batch["step"].tolist(), batch["name"], strict=True)) == [
        LABELS[key] for key in batch["key"]
    ]
    return batch["key"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_features_equal_view_read_and_labels_match_their_keys(view: View, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    one_stream = stream(
        view, ["tokens", "embedding"], labels=["step", "name", (pl.col("step") * 0.5).alias("half")]
    )
    seen = []
    for batch in loader(one_stream, None):
        seen += check(batch, view)
        half = to_device(batch, device, torch.float16)["tokens"]
        assert (half.cpu().numpy() == view.read("tokens", keys=batch["key"], dtype="float16")).all()
        assert batch["half"].tolist() == [LABELS[key][0] / 2 for key in batch["key"]]
    ahead = []
    for batch in prefetch(one_stream, device):
        assert batch["tokens"].device.type == batch["embedding"].device.type == device
        assert (
            batch["tokens"].cpu().numpy() == view.read("tokens", keys=batch["key"], dtype="float32")
        ).all()
        ahead += batch["key"]
    assert sorted(seen) == sorted(ahead) == sorted(KEYS)


@pytest.mark.parametrize("start", [None, "fork"])
def test_a_dataset_gives_each_chosen_row_once(view: View, start: str | None) -> None:
    dataset = FeatureDataset(
        view, ["tokens", "embedding"], where=pl.col("step") != 4, labels=["step", "name"]
    )
    chosen = [key for key in KEYS if LABELS[key][0] != 4]
    assert (
        len(dataset) == len(chosen) and [dataset[at]["key"] for at in range(len(chosen))] == chosen
    )
    options: dict[str, Any] = (
        {"num_workers": 2, "multiprocessing_context": start, "timeout": 200} if start else {}
    )
    seen = []
    for batch in DataLoader(dataset, batch_size=6, shuffle=True, **options):
        seen += check(batch, view)
    assert sorted(seen) == sorted(chosen)


def test_a_state_of_worker_processes_or_of_other_rows_is_refused(view: View) -> None:
    one_stream = stream(view)
    one_stream.set_epoch(0)
    next(iter(loader(one_stream, "fork")))
    with pytest.raises(StepDiffError, match="take the state_dict of a StatefulDataLoader"):
        one_stream.state_dict()
    with pytest.raises(StepDiffError, match="the state is of 2 worker processes, not of 0"):
        one_stream.load_state_dict({**stream(view).state_dict(), "workers": 2})
    with pytest.raises(StepDiffError, match="differ in seed"):
        one_stream.load_state_dict(stream(view, seed=1).state_dict())


def test_rows_are_chosen_by_keys_or_by_a_where_clause(view: View) -> None:
    one_stream = FeatureStream(
        view, "embedding", pl.Series(["c9", "c2"]), batch_size=4, labels=["step"], shuffle=False
    )
    assert [(batch["key"], batch["step"].tolist()) for batch in one_stream] == [
        (["c9", "c2"], [4, 2])
    ]
    for wrong, why in [
        ({"keys": ["c1", "c99"]}, "no key 'c99'"),
        ({"keys": ["broken"]}, "broken is failed"),
        ({"keys": ["c1"], "where": pl.col("step") == 1}, "not by both"),
        ({"where": pl.col("colour") == 1}, "no column 'colour' in the catalog of clips"),
        ({"where": pl.col("name") + 1 > pl.col("step")}, "do not fit the catalog"),
        ({"where": pl.col("step") > 9}, "no row to read"),
        (
            {"labels": [pl.lit(None).alias("gone") + pl.col("step")]},
            "37 rows have no label 'gone', the first is c0",
        ),
        (
            {"labels": [pl.col("step").alias("embedding")]},
            "label 'embedding' has the name of another part",
        ),
        ({"rank": 1}, "both rank and world"),
    ]:
        with pytest.raises(StepDiffError, match=why):
            FeatureStream(view, "embedding", **{"batch_size": 4, **wrong})


def test_ranks_come_from_the_environment(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    one_stream = FeatureStream(view, "embedding", batch_size=4)
    assert (one_stream.rank, one_stream.world) == (1, 2) and keys(one_stream) == keys(
        stream(view, rank=1, world=2)
    )
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(StepDiffError, match="RANK is 1 and WORLD_SIZE is 1: set both variables"):
        FeatureStream(view, "embedding", batch_size=4)


SCRIPT = """
import sys
from torch.utils.data import DataLoader
from store import Store
from store.torch import FeatureStream

if __name__ == "__main__":
    stream = FeatureStream(Store.open(sys.argv[1]).view("clips", "net"), "tokens", batch_size=2)
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    for epoch in range(10**6):
        stream.set_epoch(epoch)
        for batch in loader:
            print("batch", flush=True)
            if sys.argv[2] == "fail":
                raise ValueError("as planned")
"""


@pytest.mark.full
@pytest.mark.parametrize("how", ["fail", "interrupt"])
def test_a_failed_or_interrupted_iteration_leaves_no_process(
    view: View, how: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(view.paths.store), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "batch\n"
        children = (
            psutil.Process(process.pid).children(recursive=True) if how == "interrupt" else []
        )
        assert len(children) == 2 * (how == "interrupt")
        for _ in range(30):
            if how == "interrupt":  # again: Python drops an interrupt inside torch's __del__
                process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
                break
    assert process.returncode
    deadline = time.monotonic() + 60
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(child.is_running() for child in children)
    assert not [
        p
        for p in psutil.process_iter(["cmdline"])
        if str(tmp_path / "script.py") in (p.info["cmdline"] or [])
    ]


def test_importing_the_store_imports_no_torch_ray_or_pyarrow() -> None:
    code = (
        "import sys, store; store.Store, store.View; print(*{'torch', 'ray', 'pyarrow'} & "
        "{*sys.modules})"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "\n"
    )


@pytest.mark.parametrize("channels", [1, 64, 100, 1280])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dequantised_values_equal_those_of_the_stores_kernel(channels: int, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    values = np.random.default_rng(0).normal(size=(3, 5, channels)).astype(np.float32)
    values[0, 0, 0] = 65504  # 127 * scale is slightly larger
    levels, scale = quantise(values)
    parts = [torch.from_numpy(part).to(device) for part in (levels, scale)]
    assert (dequantise(*parts).cpu().numpy() == on_cpu(levels, scale)).all()
    half = on_cpu(levels, scale, "float16")
    assert (dequantise(*parts, dtype=torch.float16).cpu().numpy() == half).all()
    assert np.isfinite(half).all()


BATCHES = 10  # of four clips


class Reader:
    """A stream with a loader of one kind: none, torch's or torchdata's, with some worker
    processes."""

    def __init__(
        self, view: View, kind: str, workers: int = 0, stream_options: Any = None, **options: Any
    ) -> None:
        self.stream, self.kind = stream(view, **stream_options or {}), kind
        if workers:
            options |= {"num_workers": workers, "multiprocessing_context": "fork", "timeout": 200}
        loaders = {"torch": DataLoader, "torchdata": StatefulDataLoader}
        self.loader = (
            loaders[kind](self.stream, batch_size=None, **options)
            if kind in loaders
            else self.stream
        )
        self.epoch = self.received = 0

    def state(self) -> str:
        """Return the state as a checkpoint has it."""
        state = (
            self.loader.state_dict()
            if self.kind == "torchdata"
            else self.stream.state_dict(self.received)
        )
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
def test_an_epoch_resumes_after_any_batch(
    view: View, kind: str, workers: int, shuffle: bool
) -> None:
    """Also before the first batch, after the last one, and in the next epoch."""
    options = {"shuffle": shuffle}
    whole = list(Reader(view, "stream", stream_options=options).batches(2))
    assert len(whole) == 2 * BATCHES
    stops = range(2 * BATCHES) if not workers else (1, BATCHES, BATCHES + 3)
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
    [
        {"prefetch_factor": 4},
        {"persistent_workers": True},
        {"snapshot_every_n_steps": 3},
        {"prefetch_factor": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("stop", [4, BATCHES + 5])
def test_batches_that_workers_read_ahead_are_not_lost(
    view: View, options: dict[str, Any], stop: int
) -> None:
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
    """Persistent workers hold copies of the stream; a position that they did not see would start
    the epoch again."""
    whole = list(Reader(view, "stream").batches(2))
    reader = Reader(view, "torch", 2, persistent_workers=True)
    reading = reader.batches(2)
    assert list(islice(reading, 6)) == whole[:6]
    saved = reader.state()
    assert list(reading) == whole[6:]
    reader.load(saved)
    assert list(reader.batches(2)) == whole[6:]


def test_a_resumed_epoch_is_followed_by_a_whole_one_or_refused(view: View) -> None:
    ordered = stream(view, shuffle=False)
    whole = [batch["key"] for batch in ordered]
    ordered.load_state_dict({**ordered.state_dict(), "epoch": 0, "position": 7})
    loader = DataLoader(
        ordered, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=200
    )
    assert [batch["key"] for batch in loader] == whole[7:]
    with pytest.raises(StepDiffError, match="call set_epoch"):
        list(loader)
    ordered.set_epoch(0)
    assert [batch["key"] for batch in loader] == whole
    with pytest.raises(
        StepDiffError, match="received=11 is refused: 10 batches were left of this epoch"
    ):
        ordered.state_dict(11)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "workers"), [("stream", 0), ("torch", 2), ("torchdata", 2)])
def test_another_number_of_ranks_continues_with_the_same_samples(
    view: View, kind: str, workers: int
) -> None:
    """One rank, then two, then one: each step has the samples of an uninterrupted run, in its
    order."""
    whole = list(Reader(view, "stream").batches(2))
    seen: list[list[str]] = []
    saved = None
    for world, steps in ((1, 3), (2, 9), (1, 2), (2, None)):
        options = [{"rank": n, "world": world, "batch_size": 4 // world} for n in range(world)]
        readers = [Reader(view, kind, workers, one) for one in options]
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
