"""Featurizing end to end, compared with its parts and with the usual loop.

python -m benchmarks.featurize                               # EfficientNet-Lite0, about 5 minutes
python -m benchmarks.featurize --encoder internvideo-mm-b16  # random weights where none are given
python -m benchmarks.featurize --clips 8 --rounds 1          # a first look

A run is what a worker does with a shard: open, decode, encode, write, fsync, commit, on one CPU core (or
a GPU and all cores), the encoder loaded before. For comparison, on the same clips: the bare forward pass on frames in
memory, the bare decoding of the videos from end to end, without a picture made of it, and a seek for each clip with
PyAV and with decord (whose encoder sees a clip at a time, so their decoding is what to compare). They take turns;
medians count. Processor seconds are listed next to those of the clock: other programs disturb them less.
"""

import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import av
import numpy as np
import polars as pl
import torch

from benchmarks.common_loops import loop, with_decord, with_pyav
from benchmarks.footage import Footage, kitchen, long_video
from benchmarks.report import Row, line, report
from common.cli import command
from common.cli.options import options_of
from featurize.encoders import Encoder, load
from featurize.encoders.internvideo.model import SIZES, InternVideoMM
from featurize.shard import featurize_shard
from featurize.task import Task
from featurize.video.decode import Clip
from featurize.video.threads import decoded_clips
from store import Store

BATCH = 4


@dataclass(frozen=True)
class Seconds:
    """What all clips took."""

    clock: float
    cpu: float
    decoding: float | None
    """of the clock's, if known"""


@dataclass(frozen=True)
class Options:
    """Compare featurizing with its parts and with common loops."""

    encoder: str = "efficientnet-lite0"
    """an encoder of clips"""
    weights: str | None = None
    """its weights, as `python -m featurize` takes them; InternVideo without any gets random ones"""
    device: str = "cpu"
    """cpu (one core) or cuda"""
    clips: int = 48
    """clips of each kind of video"""
    gop: int = 250
    """frames from keyframe to keyframe of the long video"""
    rounds: int = 5
    """measurements of each, whose median counts"""
    folder: Path = Path("data/bench")
    """where the videos are made and stay"""


class Case:
    """One kind of video, in every way."""

    def __init__(self, footage: Footage, encoder: Encoder, device: str, folder: Path) -> None:
        """`folder` is for what is written, and emptied before every measurement."""
        self.footage, self.encoder, self.device, self.folder = footage, encoder, device, folder
        self.crop = encoder.picture
        self.clips = dict(enumerate(footage.clips))
        self.threads = 1 if device == "cpu" else max((os.cpu_count() or 2) - 1, 1)
        found = dict(decoded_clips(self.clips, encoder.frames, self.crop, self.threads))
        self.frames = np.stack([clip.frames for _, clip in sorted(found.items()) if isinstance(clip, Clip)])
        assert len(self.frames) == len(self.clips), "a clip could not be decoded"
        self.ways: dict[str, Callable[[], float | None]] = {
            "featurize": self.featurize,
            "bare forward": self.forward,
            "bare decode": self.decode,
            "featurize's decoding": self.pictures,
            "seek a clip, PyAV": lambda: loop(with_pyav, footage.clips, encoder, folder),
        }
        if find_spec("decord"):
            self.ways["seek a clip, decord"] = lambda: loop(with_decord, footage.clips, encoder, folder)

    def measure(self, rounds: int) -> dict[str, Seconds]:
        """Median seconds of every way."""
        taken: dict[str, list[Seconds]] = defaultdict(list)
        names = list(self.ways)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                taken[name].append(self._time(name))
                print(f"{self.footage.name}, {name}: {taken[name][-1].clock:.2f} s", file=sys.stderr)
        return {name: _median(times) for name, times in taken.items()}

    def _time(self, name: str) -> Seconds:
        if name == "featurize":
            self._empty_store()
        clock, cpu = time.perf_counter(), time.process_time()
        decoding = self.ways[name]()
        return Seconds(time.perf_counter() - clock, time.process_time() - cpu, decoding)

    def _empty_store(self) -> None:
        store = Store.open(self.folder / "store", create=True)
        keys = pl.DataFrame({"key": [f"clip_{row}" for row in self.clips]})
        with store.lock():
            store.catalog("clips").append(keys)
            view = store.create_view("clips", "bench", self.encoder.provenance("clips"), self.encoder.features("clips"))
            view.resize()

    def featurize(self) -> None:
        """A worker's shards."""
        store = Store.open(self.folder / "store")
        view = store.view("clips", "bench")
        for shard in range(-(-len(self.clips) // view.rows_per_shard)):
            rows = tuple(row for row in self.clips if row // view.rows_per_shard == shard)
            clips = {row: self.clips[row] for row in rows}
            task = Task(str(store.path), "clips", "bench", shard, rows, {}, BATCH, clips, threads=self.threads)
            featurize_shard(task, self.encoder, self.device, lambda rows: None)
        assert (view.status() == 1).all(), "a clip failed"

    def forward(self) -> None:
        """The encoder alone, on frames in memory, in the same batches."""
        for start in range(0, len(self.frames), BATCH):
            self.encoder.encode_clips(self.frames[start : start + BATCH])

    def decode(self) -> None:
        """Every frame of every video, by one thread."""
        for video in self.footage.videos:
            with av.open(video) as container:
                container.streams.video[0].codec_context.thread_count = 1
                for _ in container.decode(video=0):
                    pass

    def pictures(self) -> None:
        """The clips as the encoder takes them, without an encoder."""
        for _ in decoded_clips(self.clips, self.encoder.frames, self.crop, self.threads):
            pass


def figures(case: Case, rounds: int) -> tuple[list[Row], list[Row]]:
    """The rows of the table, and the lines that are drawn."""
    found, count = case.measure(rounds), len(case.clips)
    name, footage = case.footage.name, case.footage
    rows: list[Row] = [
        {
            "videos": name,
            "clips a video": round(count / len(footage.videos), 1),
            "gop": footage.gop,
            "way": way,
            "ms a clip": round(taken.clock / count * 1e3, 1),
            "of it decoding": "" if taken.decoding is None else round(taken.decoding / count * 1e3, 1),
            "CPU ms a clip": round(taken.cpu / count * 1e3, 1),
            "clips a second": round(count / taken.clock, 2),
        }
        for way, taken in found.items()
    ]
    forward, decode, ours = found["bare forward"], found["bare decode"], found["featurize"]
    if case.device == "cpu":
        sum_of_both = "1 / (1/forward + 1/decode)"
        lines = [
            line(f"featurize, {name}", 1 / ours.clock, 1 / (forward.clock + decode.clock), 0.9, sum_of_both),
            line(f"the same by CPU time, {name}", 1 / ours.cpu, 1 / (forward.cpu + decode.cpu), 0.9, sum_of_both),
        ]
    else:
        slower = max(forward.clock, decode.clock)
        lines = [line(f"featurize, {name}", 1 / ours.clock, 1 / slower, 0.95, "the slower of forward and decode")]
    for way, taken in found.items():
        if taken.decoding is not None:
            decoding = found["featurize's decoding"].clock
            lines.append(line(f"speed of decoding, {name}", 1 / decoding, 1 / taken.decoding, 2.0, way))
    return rows, lines


def random_weights(name: str, folder: Path) -> Path:
    """A checkpoint of random numbers: they take as long as trained ones."""
    path = folder / f"{name}_random.ckpt"
    if not path.exists():
        torch.manual_seed(0)
        model = InternVideoMM(SIZES[name])
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        torch.save({"state_dict": {f"clip.{key}": value for key, value in model.state_dict().items()}}, path)
    return path


def _median(times: list[Seconds]) -> Seconds:
    decoding = [taken.decoding for taken in times if taken.decoding is not None]
    return Seconds(
        median(taken.clock for taken in times),
        median(taken.cpu for taken in times),
        median(decoding) if decoding else None,
    )


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = options_of(Options, argv, "benchmarks.featurize")
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    weights = options.weights
    if weights is None and options.encoder in SIZES:
        weights = str(random_weights(options.encoder, folder))
    shown = [kitchen(folder, options.clips), long_video(folder, options.clips, options.gop)]
    if options.device == "cpu":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    encoder = load(options.encoder, weights, options.device)
    rows: list[Row] = []
    lines: list[Row] = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for footage in shown:
            more, held = figures(Case(footage, encoder, options.device, Path(scratch) / "run"), options.rounds)
            rows += more
            lines += held
    report(
        "featurize", rows, lines, encoder=options.encoder, device=options.device, batch=BATCH, clips=options.clips,
        rounds=options.rounds,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    command.run(main)
