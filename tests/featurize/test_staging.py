"""Batches in stages, on a device that is slow by itself: the stages of a GPU, on a CPU."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from featurize.__main__ import main
from featurize.encoders import Encoder, load
from featurize.manifest import Manifest
from featurize.plan import Task, together
from featurize.shard import featurize_shards
from featurize.staging import Computed, Gpu, Spent, batch_by_memory, doubled, halved
from featurize.video.decode import Clip
from featurize.video.picture import Bounded
from stepdiff_core.errors import StepDiffError
from store import Feature, Store, View, text_key
from store.__main__ import main as store_main
from store.io.records import all_writes
from tests.store.conftest import flip

from .conftest import Writer, clips_of, new_view, planned, write_clips

SLOW = 0.15  # seconds that each stage takes of a batch


class SlowDevice(Gpu):
    """A device whose copies and forward passes take SLOW seconds, in which the processor is idle,
    as with a GPU."""

    def __init__(
        self,
        encoder: Encoder,
        half: tuple[str, ...] = ("tokens",),
        seconds: float = SLOW,
        room: int = 100,
    ) -> None:
        """`room`: clips of a forward pass for which there is memory."""
        self._encoder, self._half, self._seconds, self._room = encoder, half, seconds, room
        self.asked: list[int] = []  # clips of each forward pass

    def buffer(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.uint8)

    def upload(self, frames: np.ndarray) -> torch.Tensor:
        time.sleep(self._seconds)
        return torch.from_numpy(frames)

    def forward(self, frames: torch.Tensor) -> Any:
        self.asked.append(len(frames))
        if len(frames) > self._room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        computed = halved(self._encoder.forward_clips(frames), self._half)
        time.sleep(self._seconds)
        return computed

    def download(self, features: Any) -> Computed:
        time.sleep(self._seconds)
        values, peaks = (
            {name: array.numpy() for name, array in part.items()} for part in features.values()
        )
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
    """Return 20 clips of two videos and, in the middle, one that begins after the end of its
    video."""
    paths = {name: video(name, frames=60, g=10) for name in ("one.mp4", "two.mp4")}
    times = [(name, i / 5, i / 5 + 0.5) for name in paths for i in range(10)]
    times.insert(7, ("one.mp4", 8.0, 20.0))
    rows = [(f"{name}_{start}_{end}", name, start, end) for name, start, end in times]
    return clips_of(rows, paths)


def view_and_tasks(
    folder: Path, encoder: Encoder, requested: Manifest, shard: int, batch: int
) -> tuple[View, list[Task]]:
    view = new_view(folder, encoder, requested, shard)
    return view, planned(view, requested, batch)


def read(view: View) -> dict[str, np.ndarray]:
    return {name: view.read(name, np.flatnonzero(view.status() == 1)) for name in view.features}


def test_staged_features_are_those_of_the_encoder(
    tmp_path: Path, encoder: Encoder, clips: Manifest
) -> None:
    """To the last bit, since the stages only move them; batches of 4 in shards of 8, of which the
    last is not full."""
    direct, jobs = view_and_tasks(tmp_path / "direct", encoder, clips, 8, 4)
    told: list[int] = []
    for job in jobs:
        featurize_shards([job], encoder, "cpu", told.append)
    assert sum(told) == 21
    view, jobs = view_and_tasks(tmp_path / "staged", encoder, clips, 8, 4)
    told = []
    outcome = featurize_shards(
        jobs, encoder, "cpu", told.append, stages=SlowDevice(encoder, seconds=0)
    )
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
def test_a_gpu_gives_the_features_of_a_cpu(
    tmp_path: Path, encoder: Encoder, tiny_clip: Path, clips: Manifest
) -> None:
    """Up to the rounding of bfloat16."""
    on_gpu = load("clip", str(tiny_clip), "cuda")
    views = []
    for one, device in ((encoder, "cpu"), (on_gpu, "cuda")):
        view, jobs = view_and_tasks(
            tmp_path / device, one, clips, 8, batch_by_memory(on_gpu, "cuda", 8)
        )
        featurize_shards(jobs, one, device, lambda rows: None)
        views.append(read(view))
    for name, expected in views[0].items():
        np.testing.assert_allclose(
            views[1][name], expected, rtol=0, atol=0.03 * np.abs(expected).max()
        )


def test_stages_overlap(tmp_path: Path, clips: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every two stages work at the same time at some time, and the whole is less than one after
    another."""
    encoder, batches, shards = Mean(None), 12, 6
    spent, device = Spent(), SlowDevice(Mean(None))
    worked: dict[str, list[tuple[float, float]]] = {}
    frames = np.zeros((encoder.frames, 8, 8, 3), np.uint8)

    def timed(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def work_of(*inputs: Any) -> Any:
            begin = time.monotonic()
            done = work(*inputs)
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
    view, jobs = view_and_tasks(tmp_path / "store", encoder, many, 2 * batches // shards, 2)
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
    """Of one of too little memory the worker pool must know the type; all threads end, and a new
    run completes it."""
    error = RuntimeError if stage == "forward" else torch.OutOfMemoryError
    view, jobs = view_and_tasks(tmp_path / "store", encoder, clips, 8, 4)
    device, calls = SlowDevice(encoder, seconds=0), []
    whole = getattr(device, stage)

    def fails(data: Any) -> Any:
        calls.append(stage)
        if len(calls) == 4:
            raise error("CUDA out of memory. Tried to allocate 2 GiB")
        return whole(data)

    fails.__name__ = stage
    monkeypatch.setattr(device, stage, fails)
    with pytest.raises(error) as caught:  # which keeps the functions that the error left
        featurize_shards(jobs, encoder, "cpu", lambda rows: None, stages=device)
    assert not [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("prefetch", "write"))
    ]
    assert caught.traceback and (view.status() == 0).any()
    monkeypatch.undo()
    featurize_shards(jobs, encoder, "cpu", lambda rows: None, stages=device)
    assert (view.status() != 0).all()


@pytest.fixture
def roomy(encoder: Encoder) -> Iterator[Encoder]:
    """The encoder as on a GPU: it sees whole batches at once, and remembers for how many clips
    there is memory."""
    encoder.whole_batches = True
    yield encoder
    encoder.whole_batches, encoder.forward_rows = False, None


@pytest.mark.parametrize(
    ("room", "requested", "remaining"),
    [(4, [4] * 6, None), (3, [4, *[2] * 12], 2), (1, [4, 2, *[1] * 24], 1)],
)
def test_a_batch_without_memory_is_computed_in_halves(
    tmp_path: Path,
    roomy: Encoder,
    clips: Manifest,
    room: int,
    requested: list[int],
    remaining: int | None,
) -> None:
    """Later batches are halved at once; features are those of whole batches, within what float16
    rounds of tokens."""
    whole, jobs = view_and_tasks(tmp_path / "whole", roomy, clips, 8, 4)
    featurize_shards(jobs, roomy, "cpu", lambda rows: None)
    view, jobs = view_and_tasks(tmp_path / "halves", roomy, clips, 8, 4)
    told: list[int] = []
    device = SlowDevice(roomy, seconds=0, room=room)
    outcome = featurize_shards(jobs, roomy, "cpu", told.append, stages=device)
    assert device.asked == requested and outcome.forward_rows == roomy.forward_rows == remaining
    assert sum(told) == 21 and view.failures().equals(whole.failures())
    assert [recorded(view, row).get("forward_rows") for row in (0, 8, 20)] == [remaining] * 3
    assert view.status().tolist() == whole.status().tolist()
    expected = read(whole)
    for name, values in read(view).items():
        most = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            values, expected[name], rtol=0, atol=(1e-3 if name == "tokens" else 1e-5) * most
        )


def recorded(view: View, row: int) -> dict[str, Any]:
    """Return what is recorded of the run that wrote a row."""
    writes = (
        write for _, writes in all_writes(view.paths, view.rows_per_shard) for write in writes
    )
    return next(write.info for write in writes if row in write.rows)


def test_one_clip_without_memory_ends_the_task(
    tmp_path: Path, roomy: Encoder, clips: Manifest
) -> None:
    _, jobs = view_and_tasks(tmp_path / "store", roomy, clips, 8, 4)
    with pytest.raises(torch.OutOfMemoryError):
        featurize_shards(
            jobs, roomy, "cpu", lambda rows: None, stages=SlowDevice(roomy, seconds=0, room=0)
        )


class Small(Encoder):
    """Counts letters of texts, or pixels of whole pictures, where there is memory for two rows at
    once."""

    name, entities, layer, version = "small", ("texts", "clips"), "count", "1"
    max_tokens = None

    @property
    def picture(self) -> Bounded:
        return Bounded(64)

    def features(self, entity: str, dtype: str = "float16") -> dict[str, Feature]:
        return {"embedding": Feature((1,), "float32")}

    def encode_texts(self, texts: list[str]) -> dict[str, np.ndarray]:
        return {"embedding": np.array([[len(text)] for text in self.fitting(texts)], np.float32)}

    def encode_wholes(self, clips: Any) -> list[Any]:
        return super().encode_wholes(self.fitting(clips))

    def encode_whole(self, frames: np.ndarray, seconds: np.ndarray) -> dict[str, np.ndarray]:
        return {"embedding": np.array([frames.size], np.float32)}

    def fitting(self, rows: list[Any]) -> list[Any]:
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows


@pytest.mark.parametrize("entity", ["texts", "clips"])
def test_texts_and_whole_pictures_without_memory_are_computed_in_parts(
    tmp_path: Path, clips: Manifest, entity: str
) -> None:
    keys = [text_key("a" * count) for count in range(1, 8)]
    texts = Manifest(
        "texts", pl.DataFrame({"key": keys, "text": ["a" * n for n in range(1, 8)]}), {}, {}
    )
    view, jobs = view_and_tasks(
        tmp_path / "store", small := Small(None), texts if entity == "texts" else clips, 8, 7
    )
    for job in jobs:
        assert featurize_shards([job], small, "cpu", lambda rows: None).forward_rows == 2
    (values,) = read(view).values()
    assert recorded(view, 0)["forward_rows"] == 2 and len(values) == (
        7 if entity == "texts" else 20
    )
    if entity == "texts":
        assert values[:, 0].tolist() == list(range(1, 8))


def test_too_little_memory_is_said_once(
    tmp_path: Path,
    video: Writer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run of several shards says it once; rows that become absent are computed in batches of that
    size."""
    (tmp_path / "tight.py").write_text(TIGHT)
    monkeypatch.syspath_prepend(tmp_path)
    path = video("one.mp4", frames=60, g=10)
    rows = [(f"c{n}", str(path), n / 5, n / 5 + 0.5) for n in range(8)]
    write_clips(tmp_path / "clips.csv", rows)
    store = Store.open(tmp_path / "store", create=True)
    with store.lock():
        tight = load("tight:Tight", device="cpu")
        store.create_view("clips", "tight", tight.provenance("clips"), tight.features("clips"), 4)
    flags = [
        "--manifest",
        str(tmp_path / "clips.csv"),
        "--store",
        str(tmp_path / "store"),
        "--encoder",
        "tight:Tight",
    ]
    assert main([*flags, "--batch-size", "4"]) == 0
    line = "a GPU has no memory for a whole batch: from now on at most 1 clips at once"
    assert capsys.readouterr().err.count(line) == 1
    view = Store.open(tmp_path / "store").view("clips", "tight")
    assert [recorded(view, row)["forward_rows"] for row in (0, 7)] == [1, 1]
    before = read(view)["embedding"]
    flip(Path(str(view.paths.shard("embedding", 0, 2))), 3)
    assert store_main(["verify", str(tmp_path / "store"), "--withdraw"]) == 0 and main(flags) == 0
    assert capsys.readouterr().err.count(line) == 0
    np.testing.assert_array_equal(
        read(Store.open(tmp_path / "store").view("clips", "tight"))["embedding"], before
    )


TIGHT = """
import torch
from featurize.encoders import Encoder
from store import Feature


class Tight(Encoder):
    name, entities, layer, size, short_side, version = "tight", ("clips",), "mean colour", 8, 8, "1"

    def __init__(self, weights, device):
        super().__init__(weights)

    def features(self, entity, dtype="float16"):
        return {"embedding": Feature((3,), "float32")}

    def encode_clips(self, frames):
        if len(frames) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"embedding": frames.mean((1, 2, 3)).astype("float32") + 1}
"""


def compiler_works() -> bool:
    """Return whether torch.compile can compile here: it needs a C++ compiler."""
    try:
        return bool(torch.compile(lambda values: values.sin() + 1)(torch.zeros(2))[0] == 1)
    except Exception:  # whatever it raises
        return False


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_compiled_encoder_has_its_own_provenance(
    tmp_path: Path,
    encoder: Encoder,
    tiny_clip: Path,
    video: Writer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features of the compiled forward pass are those of the other one within 1e-5 of the largest
    value."""
    if not compiler_works():
        pytest.skip("torch.compile does not work here")
    # The compiler would trace the checks of shapes, which are on only in tests, and their state
    # breaks in its copy.
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    compiled = load("clip", str(tiny_clip), "cpu", compile=True)
    frames = np.random.default_rng(0).integers(
        0, 256, (2, encoder.frames, 32, 32, 3), dtype=np.uint8
    )
    expected = encoder.encode_clips(frames)
    for name, values in compiled.encode_clips(frames).items():
        np.testing.assert_allclose(
            values, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max()
        )
    assert (
        compiled.provenance("clips").layer == f"{encoder.provenance('clips').layer}; torch.compile"
    )
    assert compiled.provenance("texts") == encoder.provenance("texts")
    path = video("compiled.mp4")
    flags = [
        str(path),
        "--store",
        str(tmp_path / "store"),
        "--encoder",
        "clip",
        "--weights",
        str(tiny_clip),
    ]
    assert main([*flags, "--compile", "--batch-size", "2"]) == 0
    view = Store.open(tmp_path / "store").view("clips", "clip")
    assert view.provenance.layer.endswith("; torch.compile") and recorded(view, 0)["choices"] == {
        "compile": True
    }
    capsys.readouterr()
    assert (
        main([str(video("another.mp4", g=5)), *flags]) == 2
        and "torch.compile" in capsys.readouterr().err
    )


def test_an_encoder_without_a_forward_pass_is_not_compiled(tmp_path: Path) -> None:
    with pytest.raises(
        StepDiffError,
        match="encoder small has no forward pass that can be compiled: leave --compile",
    ):
        Small(None).compile()


def test_numbers_too_large_for_half_precision_are_named(encoder: Encoder) -> None:
    tokens = torch.tensor([[[1.0, -70_000.0]], [[2.0, 3.0]], [[float("nan"), 1.0]]])
    computed = halved({"tokens": tokens, "embedding": tokens[:, 0]}, ["tokens"])
    assert {name: str(values.dtype) for name, values in computed["values"].items()} == {
        "tokens": "torch.float16",
        "embedding": "torch.float32",
    }
    peaks = computed["peaks"]["tokens"]
    assert (
        list(computed["peaks"]) == ["tokens"]
        and peaks[:2].tolist() == [70_000, 3]
        and peaks[2].isnan()
    )
    assert computed["values"]["tokens"][0, 0, 1].isinf()


@pytest.mark.parametrize(
    ("fitting", "most", "expected"),
    [(9, 100, 8), (9, 5, 4), (0, 100, 1), (100, 1, 1), (64, 64, 64)],
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
    """As a GPU is given them: as many frames at once as clips. On a CPU bits do not depend on the
    batch."""
    frames = np.random.default_rng(0).integers(
        0, 256, (3, encoder.frames, 32, 32, 3), dtype=np.uint8
    )
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
