"""Batches in stages, on a device that is slow by itself: the stages of a GPU, on a CPU."""

import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from featurize.encoders import Encoder, load
from featurize.manifest import Manifest
from featurize.plan import Task, pending, tasks, together
from featurize.shard import featurize_shards
from featurize.staging import Computed, Spent, batch_by_memory, doubled, halved
from featurize.video.decode import Clip
from store import Feature, Store, View

Writer = Callable[..., Path]
SLOW = 0.15  # seconds that each stage takes of a batch


class SlowDevice:
    """A device whose copies and forward passes take SLOW seconds, in which the processor is idle, as with a GPU."""

    def __init__(self, encoder: Encoder, half: tuple[str, ...] = ("tokens",), seconds: float = SLOW) -> None:
        self._encoder, self._half, self._seconds = encoder, half, seconds
        self.batches = 0

    def buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.uint8)

    def upload(self, frames: np.ndarray) -> torch.Tensor:
        time.sleep(self._seconds)
        return torch.from_numpy(frames)

    def forward(self, frames: torch.Tensor) -> Any:
        computed = halved(self._encoder.forward_clips(frames), self._half)
        time.sleep(self._seconds)
        self.batches += 1
        return computed

    def download(self, features: Any) -> Computed:
        time.sleep(self._seconds)
        values, peaks = ({name: array.numpy() for name, array in part.items()} for part in features.values())
        return values, peaks


class Mean(Encoder):
    """Mean colour of each frame: next to no work, so that a device's time is that of its sleep."""

    name, entities, layer, version = "mean", ("clips",), "mean colour", "1"
    short_side = size = 8

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        return {"tokens": Feature((self.frames, 3), dtype)}

    def forward_clips(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"tokens": frames.float().mean((2, 3))}


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> Encoder:
    return load("clip", str(tiny_clip), "cpu")


@pytest.fixture(scope="module")
def clips(video: Writer) -> Manifest:
    """Return 20 clips of two videos and, in the middle, one that begins after the end of its video."""
    paths = {name: video(name, frames=60, g=10) for name in ("one.mp4", "two.mp4")}
    times = [(name, i / 5, i / 5 + 0.5) for name in paths for i in range(10)]
    times.insert(7, ("one.mp4", 8.0, 20.0))
    rows = [(f"{name}_{start}_{end}", name, start, end) for name, start, end in times]
    return Manifest("clips", pl.DataFrame(rows, ["key", "video", "start", "end"], orient="row"), paths, {})


def planned(folder: Path, encoder: Encoder, asked: Manifest, shard: int, batch: int) -> tuple[View, list[Task]]:
    """Return a new view with `shard` rows in a shard, and its tasks."""
    store = Store.open(folder, create=True)
    with store.lock():
        store.catalog("clips").append(asked.rows)
        view = store.create_view("clips", "tiny", encoder.provenance("clips"), encoder.features("clips"), shard)
        view.resize()
    known = store.catalog("clips").rows(asked.rows["key"])
    wanted = pending(asked, known, np.ones(len(known), bool)).sort("row")
    return view, list(tasks(store, view, wanted, batch, threads=1))


def read(view: View) -> dict[str, np.ndarray]:
    return {name: view.read(name, np.flatnonzero(view.status() == 1)) for name in view.features}


def test_staged_features_are_those_of_the_encoder(tmp_path: Path, encoder: Encoder, clips: Manifest) -> None:
    """To the last bit, since the stages only move them; batches of 4 in shards of 8, of which the last is not full."""
    direct, jobs = planned(tmp_path / "direct", encoder, clips, 8, 4)
    told: list[int] = []
    for job in jobs:
        featurize_shards([job], encoder, "cpu", told.append)
    assert sum(told) == 21
    view, jobs = planned(tmp_path / "staged", encoder, clips, 8, 4)
    told = []
    outcome = featurize_shards(jobs, encoder, "cpu", told.append, stages=SlowDevice(encoder, seconds=0))
    assert outcome.error is None and sum(told) == 21
    assert view.status().tolist() == direct.status().tolist() and view.status()[7] == 2
    assert view.failures().equals(direct.failures())
    expected = read(direct)
    for name, values in read(view).items():
        np.testing.assert_array_equal(values, expected[name])
    groups = list(together(jobs, 2))
    assert [group.shard for group in groups] == [0, 2]
    assert [row for group in groups for row in group.rows] == list(range(21))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_features_of_a_cpu(tmp_path: Path, encoder: Encoder, tiny_clip: Path, clips: Manifest) -> None:
    """Up to the rounding of bfloat16."""
    on_gpu = load("clip", str(tiny_clip), "cuda")
    views = []
    for one, device in ((encoder, "cpu"), (on_gpu, "cuda")):
        view, jobs = planned(tmp_path / device, one, clips, 8, batch_by_memory(on_gpu, "cuda", 8))
        featurize_shards(jobs, one, device, lambda rows: None)
        views.append(read(view))
    for name, expected in views[0].items():
        np.testing.assert_allclose(views[1][name], expected, rtol=0, atol=0.03 * np.abs(expected).max())


def test_stages_overlap(tmp_path: Path, clips: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every two stages work at the same time at some time, and the whole is less than one after another."""
    encoder, batches, shards = Mean(None), 12, 6
    spent, device = Spent(), SlowDevice(Mean(None))
    worked: dict[str, list[tuple[float, float]]] = {}
    frames = np.zeros((encoder.frames, 8, 8, 3), np.uint8)

    def timed(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def work_of(*given: Any) -> Any:
            begin = time.monotonic()
            done = work(*given)
            worked.setdefault(stage, []).append((begin, time.monotonic()))
            return done

        work_of.__name__ = stage
        return work_of

    def read_clips(path: Path, intervals: list[tuple[float, float]], *_: Any) -> Iterator[Clip]:
        """Yield clips without decoding; two make a batch."""
        for index in range(len(intervals)):
            timed("decode", time.sleep)(SLOW / 2)
            yield Clip(index, frames, False, np.zeros(encoder.frames))

    written = View.write_shard

    def write(*arguments: Any) -> None:
        time.sleep(SLOW * batches / shards)
        written(*arguments)

    for stage in ("upload", "forward", "download"):
        monkeypatch.setattr(device, stage, timed(stage, getattr(device, stage)))
    monkeypatch.setattr("featurize.video.decode.read_clips", read_clips)
    monkeypatch.setattr(View, "write_shard", timed("write", write))
    many = Manifest("clips", _numbered(clips.rows, 2 * batches), clips.paths, {})
    view, jobs = planned(tmp_path / "store", encoder, many, 2 * batches // shards, 2)
    assert len(jobs) == shards
    begin = time.monotonic()
    featurize_shards(jobs, encoder, "cpu", lambda rows: None, stages=device, spent=spent)
    took = time.monotonic() - begin
    assert (view.status() == 1).all()
    assert set(worked) == set(spent.working) == {"decode", "upload", "forward", "download", "write"}
    for one, other in combinations(worked, 2):
        both = [max(a, c) < min(b, d) for a, b in worked[one] for c, d in worked[other]]
        assert any(both), f"{one} and {other} never work at the same time: {worked}"
    assert took < sum(end - start for pieces in worked.values() for start, end in pieces)


def _numbered(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Return `count` clips with keys of their own."""
    some = pl.concat([rows] * (count // rows.height + 1)).head(count)
    return some.with_columns(key=pl.format("clip_{}", pl.int_range(count)))


@pytest.mark.parametrize("stage", ["upload", "forward", "download"])
def test_an_error_of_a_stage_ends_the_task(
    tmp_path: Path, encoder: Encoder, clips: Manifest, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """As of one of too little memory, whose type the worker pool must know; threads end, and a new run completes it."""
    view, jobs = planned(tmp_path / "store", encoder, clips, 8, 4)
    device, calls = SlowDevice(encoder, seconds=0), []
    whole = getattr(device, stage)

    def fails(data: Any) -> Any:
        calls.append(stage)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(data)

    fails.__name__ = stage
    monkeypatch.setattr(device, stage, fails)
    with pytest.raises(torch.OutOfMemoryError):
        featurize_shards(jobs, encoder, "cpu", lambda rows: None, stages=device)
    assert (view.status() == 0).any()
    monkeypatch.undo()
    featurize_shards(jobs, encoder, "cpu", lambda rows: None, stages=device)
    assert (view.status() != 0).all()


def test_numbers_too_large_for_half_precision_are_named(encoder: Encoder) -> None:
    tokens = torch.tensor([[[1.0, -70_000.0]], [[2.0, 3.0]], [[float("nan"), 1.0]]])
    computed = halved({"tokens": tokens, "embedding": tokens[:, 0]}, ["tokens"])
    assert {name: str(values.dtype) for name, values in computed["values"].items()} == {
        "tokens": "torch.float16",
        "embedding": "torch.float32",
    }
    peaks = computed["peaks"]["tokens"]
    assert list(computed["peaks"]) == ["tokens"] and peaks[:2].tolist() == [70_000, 3] and peaks[2].isnan()
    assert computed["values"]["tokens"][0, 0, 1].isinf()


@pytest.mark.parametrize(
    ("fitting", "most", "expected"), [(9, 100, 8), (9, 5, 4), (0, 100, 1), (100, 1, 1), (64, 64, 64)]
)
def test_a_batch_doubles_while_it_fits(fitting: int, most: int, expected: int) -> None:
    assert doubled(lambda size: size <= fitting, most) == expected


def test_a_class_that_overrides_encode_clips_is_not_staged(encoder: Encoder) -> None:
    """Encoders of other packages keep their interface, also those that derive from one of ours."""

    class Brighter(type(encoder)):  # type: ignore[misc]
        def encode_clips(self, frames):
            return super().encode_clips(frames)

    class Other(Encoder):
        def features(self, entity, dtype="float16"):
            return {}

        def encode_clips(self, frames):
            return {}

    assert encoder.forwards
    assert not Brighter.forwards.fget(Brighter.__new__(Brighter))
    assert not Other(None).forwards


@pytest.mark.parametrize("clips_at_once", [1, 3])
def test_whole_batches_give_the_same_features(encoder: Encoder, clips_at_once: int) -> None:
    """As a GPU is given them: as many frames at once as clips. On a CPU bits do not depend on the batch."""
    frames = np.random.default_rng(0).integers(0, 256, (3, encoder.frames, 32, 32, 3), dtype=np.uint8)
    frames[1] = frames[1, :1]
    expected = encoder.encode_clips(frames)
    for name, values in encoder.encode_clips(frames[1:2]).items():
        np.testing.assert_array_equal(values[0], expected[name][1])
    encoder.whole_batches = True
    try:
        got = [encoder.encode_clips(part) for part in np.split(frames, 3 // clips_at_once)]
    finally:
        encoder.whole_batches = False
    for name, values in expected.items():
        whole = np.concatenate([part[name] for part in got])
        np.testing.assert_allclose(whole, values, rtol=0, atol=1e-5 * np.abs(values).max())
