"""PyTorch datasets: rows, workers, labels, resuming, devices."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from common.errors import StepDiffError
from store import Feature, Provenance, Store, View
from store.torch import FeatureDataset, FeatureStream, prefetch, to_device

FORMS = {"tokens": Feature((3, 70), "int8"), "embedding": Feature((7,), "float32")}
KEYS = [f"c{row}" for row in range(37)]
STEPS, NAMES = [row % 5 for row in range(37)], [f"n{row % 3}" for row in range(37)]
FRAME = pl.DataFrame({"key": KEYS, "step": STEPS, "name": NAMES})
LABELS = dict(zip(KEYS, FRAME.select("step", "name").rows(), strict=True))
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning", "ignore:'set_vital':UserWarning")


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """37 clips with labels, shards of 8 rows, the tokens int8; and a clip that failed."""
    store = Store.open(tmp_path_factory.mktemp("torch") / "store", create=True)
    made = Provenance("net", "0" * 64, "last", "8 evenly", "centre 224", {"tokens": "int8"})
    rng = np.random.default_rng(0)
    with store.writer("clips", "net", made, FORMS, rows_per_shard=8) as writer:
        for part in FRAME.iter_slices(5):
            values = {name: rng.normal(size=(part.height, *form.shape)) for name, form in FORMS.items()}
            writer.write(part, {name: array.astype(np.float32) for name, array in values.items()})
        writer.write([], {}, {"broken": "no video"})
    return store.view("clips", "net")


def stream(view: View, features: Any = "embedding", **options: Any) -> FeatureStream:
    return FeatureStream(view, features, **{"batch_size": 4, "rank": 0, "world": 1, **options})


def loader(made: FeatureStream, start: str | None, kind: type[DataLoader] = DataLoader, **options: Any) -> DataLoader:
    """Return a loader of the stream, with two workers if `start` names a start method."""
    if start:
        options |= {"num_workers": 2, "multiprocessing_context": start, "timeout": 200}
    return kind(made, batch_size=None, **options)


def keys(batches: Any) -> list[list[str]]:
    return [batch["key"] for batch in batches]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_each_row_is_read_once_per_epoch_by_exactly_one_worker_of_one_rank(view: View, start: str) -> None:
    """The batches and their order are the same with any number of worker processes."""
    ranks = [stream(view, rank=rank, world=2) for rank in range(2)]
    loaders = [loader(made, start, persistent_workers=True) for made in ranks]
    alone = [stream(view, rank=rank, world=2) for rank in range(2)]
    epochs = []
    for epoch in range(2):
        for made in ranks:
            made.set_epoch(epoch)
        with_workers = [keys(one) for one in loaders]
        assert with_workers == [keys(made) for made in alone]
        assert [len(part) for part in with_workers] == [len(one) for one in loaders] == [5, 5]
        assert sorted(key for part in with_workers for batch in part for key in batch) == sorted(KEYS)
        epochs.append(with_workers)
    assert epochs[0] != epochs[1]


def test_features_equal_view_read_and_labels_match_their_keys(view: View) -> None:
    made = stream(view, ["tokens", "embedding"], labels=["step", "name", (pl.col("step") * 0.5).alias("half")])
    seen = 0
    for batch in loader(made, None):
        assert (batch["embedding"].numpy() == view.read("embedding", keys=batch["key"])).all()
        levels, scale = view.read_quantised("tokens", view.rows(batch["key"]))
        assert (batch["tokens"].levels.numpy() == levels).all() and (batch["tokens"].scale.numpy() == scale).all()
        floats = to_device(batch, "cpu")["tokens"]
        assert (floats.numpy() == view.read("tokens", keys=batch["key"], dtype="float32")).all()
        half = to_device(batch, "cpu", torch.float16)["tokens"]
        assert (half.numpy() == view.read("tokens", keys=batch["key"], dtype="float16")).all()
        assert list(zip(batch["step"].tolist(), batch["name"], strict=True)) == [LABELS[key] for key in batch["key"]]
        assert batch["half"].tolist() == [LABELS[key][0] / 2 for key in batch["key"]]
        seen += len(batch["key"])
    assert seen == 37


@pytest.mark.parametrize("start", [None, "fork"])
def test_a_dataset_reads_a_batch_with_one_read(view: View, start: str | None, monkeypatch: Any) -> None:
    dataset = FeatureDataset(view, ["tokens", "embedding"], where=pl.col("step") != 4, labels=["step", "name"])
    chosen = [key for key in KEYS if LABELS[key][0] != 4]
    assert len(dataset) == len(chosen) and [dataset[at]["key"] for at in range(len(chosen))] == chosen
    reads: list[int] = []
    read = View.read_quantised

    def counted(self: View, feature: str, rows: np.ndarray, *rest: Any) -> Any:
        reads.append(len(rows))
        return read(self, feature, rows, *rest)

    monkeypatch.setattr(View, "read_quantised", counted)
    options: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": start, "timeout": 200} if start else {}
    seen = []
    for batch in DataLoader(dataset, batch_size=6, shuffle=True, **options):
        assert list(zip(batch["step"].tolist(), batch["name"], strict=True)) == [LABELS[key] for key in batch["key"]]
        assert (batch["embedding"].numpy() == view.read("embedding", keys=batch["key"])).all()
        levels, scale = read(view, "tokens", view.rows(batch["key"]))
        assert (batch["tokens"].levels.numpy() == levels).all() and (batch["tokens"].scale.numpy() == scale).all()
        seen += batch["key"]
    assert sorted(seen) == sorted(chosen)
    assert start or reads == [6, 6, 6, 6, len(chosen) - 24]


@pytest.mark.parametrize("stop", [0, 1, 4, 10])
def test_a_resumed_epoch_continues_with_exactly_the_remaining_batches(view: View, stop: int) -> None:
    unbroken = stream(view)
    parts = [(batch["key"], json.loads(json.dumps(unbroken.state_dict()))) for _ in range(2) for batch in unbroken]
    again = stream(view)
    if stop:
        again.load_state_dict(parts[stop - 1][1])
    rest = keys(again) + keys(again)
    assert rest[: len(parts) - stop] == [part for part, _ in parts[stop:]]


@pytest.mark.parametrize("start", [None, "fork", "spawn"])
@pytest.mark.parametrize("stop", [1, 6, 10])
def test_a_stateful_dataloader_resumes_within_an_epoch(view: View, start: str | None, stop: int) -> None:
    if start == "spawn" and stop != 6:
        pytest.skip("starting processes takes seconds: once is enough")

    def begun() -> tuple[FeatureStream, StatefulDataLoader]:
        made = stream(view)
        return made, loader(made, start, StatefulDataLoader)

    alone = stream(view)
    epochs = [keys(alone) for _ in range(2)]
    made, running = begun()
    made.set_epoch(0)
    given = iter(running)
    seen = [next(given)["key"] for _ in range(stop)]
    state = running.state_dict()
    del given, running
    assert seen == epochs[0][:stop]
    made, running = begun()
    running.load_state_dict(state)
    made.set_epoch(0)
    assert keys(running) == epochs[0][stop:]
    made.set_epoch(1)
    assert keys(running) == epochs[1]


def test_a_state_of_worker_processes_or_of_other_rows_is_refused(view: View) -> None:
    made = stream(view)
    made.set_epoch(0)
    next(iter(loader(made, "fork")))
    with pytest.raises(StepDiffError, match="take the state_dict of a StatefulDataLoader"):
        made.state_dict()
    with pytest.raises(StepDiffError, match="the state is of 2 worker processes, not of 0"):
        made.load_state_dict({**stream(view).state_dict(), "workers": 2})
    with pytest.raises(StepDiffError, match="differ in seed"):
        made.load_state_dict(stream(view, seed=1).state_dict())


def test_worker_processes_require_set_epoch(view: View) -> None:
    made = stream(view)
    with pytest.raises(StepDiffError, match="call set_epoch"):
        keys(loader(made, "fork"))
    made.set_epoch(3)
    first = keys(loader(made, "fork"))
    with pytest.raises(StepDiffError, match="call set_epoch"):
        keys(loader(made, "fork"))
    made.set_epoch(3)
    assert keys(loader(made, "fork")) == first
    ordered = stream(view, shuffle=False)
    assert keys(loader(ordered, "fork")) == keys(loader(ordered, "fork")) == keys(ordered)


def test_rows_are_chosen_by_keys_or_by_a_where_clause(view: View) -> None:
    made = FeatureStream(view, "embedding", pl.Series(["c9", "c2"]), batch_size=4, labels=["step"], shuffle=False)
    assert [(batch["key"], batch["step"].tolist()) for batch in made] == [(["c9", "c2"], [4, 2])]
    for wrong, why in [
        ({"keys": ["c1", "c99"]}, "no key 'c99'"),
        ({"keys": ["broken"]}, "broken is failed"),
        ({"keys": ["c1"], "where": pl.col("step") == 1}, "not by both"),
        ({"where": pl.col("colour") == 1}, "no column 'colour' in the catalog of clips"),
        ({"where": pl.col("name") + 1 > pl.col("step")}, "do not fit the catalog"),
        ({"where": pl.col("step") > 9}, "no row to read"),
        ({"labels": [pl.lit(None).alias("gone") + pl.col("step")]}, "37 rows have no label 'gone', the first is c0"),
        ({"labels": [pl.col("step").alias("embedding")]}, "label 'embedding' has the name of another part"),
        ({"rank": 1}, "both rank and world"),
    ]:
        with pytest.raises(StepDiffError, match=why):
            FeatureStream(view, "embedding", **{"batch_size": 4, **wrong})


def test_ranks_come_from_the_environment(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = FeatureStream(view, "embedding", batch_size=4)
    assert (made.rank, made.world) == (1, 2) and keys(made) == keys(stream(view, rank=1, world=2))
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(StepDiffError, match="RANK is 1 and WORLD_SIZE is 1: set both variables"):
        FeatureStream(view, "embedding", batch_size=4)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("pin", [False, True])
def test_batches_are_prefetched_to_the_device(view: View, device: str, pin: bool) -> None:
    if (device == "cuda" or pin) and not torch.cuda.is_available():
        pytest.skip("no GPU")
    seen = []
    for batch in prefetch(stream(view, ["tokens", "embedding"], pin_memory=pin), device):
        assert batch["tokens"].device.type == batch["embedding"].device.type == device
        assert (batch["tokens"].cpu().numpy() == view.read("tokens", keys=batch["key"], dtype="float32")).all()
        assert (batch["embedding"].cpu().numpy() == view.read("embedding", keys=batch["key"])).all()
        seen += batch["key"]
    assert sorted(seen) == sorted(KEYS)


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


@pytest.mark.parametrize("how", ["fail", "interrupt"])
def test_a_failed_or_interrupted_iteration_leaves_no_process(view: View, how: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(view.paths.store), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "batch\n"
        children = psutil.Process(process.pid).children(recursive=True) if how == "interrupt" else []
        if how == "interrupt":
            assert len(children) == 2
            process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode
    deadline = time.monotonic() + 60
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(child.is_running() for child in children)
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path / "script.py") in (p.info["cmdline"] or [])]


def test_importing_the_store_imports_no_torch() -> None:
    code = "import sys, store; store.Store, store.Batches, store.View; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
