"""Featurizing end to end, compared with its parts and with the usual loop.

python -m benchmarks.featurize                               # EfficientNet-Lite0, about 5 minutes
python -m benchmarks.featurize --encoder internvideo-mm-b16  # random weights where none are given
python -m benchmarks.featurize --clips 8 --rounds 1          # a first look

A run is what a worker does with a shard: open, decode, encode, write, fsync, commit, on one CPU core (or a GPU and all
cores), with the encoder loaded before. It is compared, on the same clips, with the forward pass alone on frames in
memory, with decoding the videos from end to end without converting a frame, and with a seek for each clip by PyAV and
by decord, with and without the encoder. They take turns; medians count. The processor's seconds are reported too:
other programs disturb them less.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.report import Row, benchmark, line, measured
from stepdiff.common.cli import command
from stepdiff.common.threads import cores

if TYPE_CHECKING:
    from benchmarks.harness.footage import Footage, Read
    from featurize.encoders import Encoder

BATCH = 4


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

    def __init__(self, footage: "Footage", encoder: "Encoder", device: str, folder: Path) -> None:
        """folder: for what is written; it is emptied before every measurement."""
        from benchmarks.harness.footage import loop, with_decord, with_pyav
        from featurize.video.decode import Clip, decoded_clips

        self.footage, self.encoder, self.device, self.folder = footage, encoder, device, folder
        self.crop = encoder.picture
        self.clips = dict(enumerate(footage.clips))
        self.threads = 1 if device == "cpu" else max(cores() - 1, 1)
        found = dict(decoded_clips(self.clips, encoder.frames, self.crop, self.threads))
        self.frames = np.stack([clip.frames for _, clip in sorted(found.items()) if isinstance(clip, Clip)])
        assert len(self.frames) == len(self.clips), "a clip could not be decoded"
        self.ways: dict[str, Callable[[], object]] = {
            "featurize": self.featurize,
            "bare forward": self.forward,
            "bare decode": self.decode,
            "featurize's decoding": self.pictures,
        }
        self.seeks = {"seek a clip, PyAV": with_pyav}
        if find_spec("decord"):
            self.seeks["seek a clip, decord"] = with_decord
        for name, read in self.seeks.items():
            self.ways[name] = partial(loop, read, footage.clips, encoder, folder)
            self.ways[f"{name}, decoding"] = partial(self.seek, read)

    def seek(self, read: "Read") -> None:
        """Decode the clips by a seek for each, without encoding them."""
        for clip in self.footage.clips:
            read(clip, self.encoder)

    def clear(self, way: str) -> None:
        """Empty the folder before a measurement; featurize gets a store with the clips' keys."""
        import polars as pl

        from store import Store

        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if way != "featurize":
            return
        store = Store.open(self.folder / "store", create=True)
        keys = pl.DataFrame({"key": [f"clip_{row}" for row in self.clips]})
        with store.lock():
            store.catalog("clips").append(keys)
            view = store.create_view("clips", "bench", self.encoder.provenance("clips"), self.encoder.features("clips"))
            view.resize()

    def featurize(self) -> None:
        """Do what a worker does with its shards."""
        from featurize.plan import Task
        from featurize.shard import featurize_shard
        from store import Store

        store = Store.open(self.folder / "store")
        view = store.view("clips", "bench")
        for shard in range(-(-len(self.clips) // view.rows_per_shard)):
            rows = tuple(row for row in self.clips if row // view.rows_per_shard == shard)
            clips = {row: self.clips[row] for row in rows}
            task = Task(str(store.path), "clips", "bench", shard, rows, {}, BATCH, clips, threads=self.threads)
            featurize_shard(task, self.encoder, self.device, lambda rows: None)
        assert (view.status() == 1).all(), "a clip failed"

    def forward(self) -> None:
        """Run the encoder alone, on frames in memory, in the same batches."""
        for start in range(0, len(self.frames), BATCH):
            self.encoder.encode_clips(self.frames[start : start + BATCH])

    def decode(self) -> None:
        """Decode every frame of every video, in one thread."""
        import av

        for video in self.footage.videos:
            with av.open(video) as container:
                container.streams.video[0].codec_context.thread_count = 1
                for _ in container.decode(video=0):
                    pass

    def pictures(self) -> None:
        """Decode the clips as the encoder takes them, without encoding them."""
        from featurize.video.decode import decoded_clips

        for _ in decoded_clips(self.clips, self.encoder.frames, self.crop, self.threads):
            pass


def compared(case: Case, rounds: int) -> tuple[list[Row], list[Row]]:
    """Measure a case; return rows and lines."""
    count, name = len(case.clips), case.footage.name
    found = measured(case.ways, rounds, f"{name}, ", before=case.clear)
    rows: list[Row] = [
        {
            "videos": name,
            "clips a video": round(count / len(case.footage.videos), 1),
            "gop": case.footage.gop,
            "way": way,
            "ms a clip": round(taken.clock / count * 1e3, 1),
            "CPU ms a clip": round(taken.cpu / count * 1e3, 1),
            "clips a second": round(count / taken.clock, 2),
        }
        for way, taken in found.items()
    ]
    forward, decode, ours = found["bare forward"], found["bare decode"], found["featurize"]
    if case.device == "cpu":
        sum_of_both = "1 / (1/forward + 1/decode)"
        lines = [
            line(f"featurize, {name}", forward.clock + decode.clock, ours.clock, 0.9, sum_of_both),
            line(f"the same by CPU time, {name}", forward.cpu + decode.cpu, ours.cpu, 0.9, sum_of_both),
        ]
    else:
        slower = max(forward.clock, decode.clock)
        lines = [line(f"featurize, {name}", slower, ours.clock, 0.95, "the slower of forward and decode")]
    decoding = found["featurize's decoding"].clock
    lines += [
        line(f"speed of decoding, {name}", found[f"{way}, decoding"].clock, decoding, 2.0, way) for way in case.seeks
    ]
    return rows, lines


def random_weights(name: str, folder: Path) -> Path:
    """Write a checkpoint of random numbers: they take as long as trained ones."""
    import torch

    from featurize.encoders.internvideo.model import SIZES, InternVideoMM

    path = folder / f"{name}_random.ckpt"
    if not path.exists():
        torch.manual_seed(0)
        model = InternVideoMM(SIZES[name])
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        torch.save({"state_dict": {f"clip.{key}": value for key, value in model.state_dict().items()}}, path)
    return path


def run(options: Options) -> dict[str, Any]:
    """Return rows and lines."""
    import torch

    from benchmarks.harness.footage import kitchen, long_video
    from featurize.encoders import load
    from featurize.encoders.internvideo.model import SIZES

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
            more, held = compared(Case(footage, encoder, options.device, Path(scratch) / "run"), options.rounds)
            rows += more
            lines += held
    facts = {"encoder": options.encoder, "device": options.device, "batch": BATCH, "clips": options.clips}
    return {"rows": rows, "lines": lines, **facts, "rounds": options.rounds}


main = benchmark("featurize", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
