"""Featurizing end to end, compared with its parts and with the usual loop.

python -m benchmarks.featurize                               # EfficientNet-Lite0, about 5 minutes
python -m benchmarks.featurize --encoder internvideo-mm-b16 --weights B16.ckpt
python -m benchmarks.featurize --clips 3 --rounds 1          # a first look
python -m benchmarks.featurize --device cuda --clips 1024    # a GPU, whose stages overlap; a table
                                                             says what waits

A run is what a worker does with a shard: open, decode, encode, write, fsync, commit, on one CPU
core (or a GPU and all cores), with the encoder loaded before. Its ceiling, on the same clips: the
forward pass alone on frames in memory, and decoding the videos from end to end without converting a
frame. The peer seeks each clip with PyAV, converts only the chosen frames, and encodes one clip at
a time. They take turns; medians count. The processor's seconds are reported too: other programs
disturb them less.

On a GPU the ceiling is the slower of the forward pass, of frames that are on the GPU, and the
decoding by all cores. A table `stages` has where the time goes (docs/benchmarks.md); stages run at
the same time, so their sum is more than all.

The videos are rendered kitchen videos of a few clips each, and one long video of many clips.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import torch
from av.video.frame import PictureType
from PIL import Image

from benchmarks.harness import Row, benchmark, measured, race, races, render_kitchen, timed, times
from featurize.encoders import Encoder, load
from featurize.plan import Task
from featurize.shard import featurize_shards
from featurize.staging import Spent, batch_by_memory
from featurize.video.decode import Clip, Source, decoded_clips
from featurize.video.frames import chosen
from stepdiff_core.cli import command
from stepdiff_core.threads import cores
from store import Store

BATCH = 4  # clips, on a CPU
BATCHES = 8  # of a GPU, at least, so that stages can overlap
OURS, FORWARD, DECODE, SEEK = "featurize", "bare forward", "bare decode", "seek a clip, PyAV"
PICTURES = "featurize's decoding"
WIDTH, HEIGHT, RATE = 640, 360, 24  # of the long video
SECONDS = 4.0  # of a clip of the long video
CLIPS_A_KITCHEN_VIDEO = 4  # about


@dataclass(frozen=True)
class FeaturizeBenchmarkOptions:
    encoder: str = "efficientnet-lite0"
    """an encoder of clips"""
    weights: str | None = None
    """its weights, as `python -m featurize` takes them"""
    device: str = "cpu"
    """cpu (one core) or cuda"""
    compile: bool = False
    """compile the forward pass; the seconds of that are `warm_up_seconds` of the record"""
    clips: int = 48
    """clips of each kind of video"""
    gop: int = 250
    """frames from keyframe to keyframe of the long video"""
    rounds: int = 5
    """measurements of each, whose median counts"""
    folder: Path = Path("data/bench")
    """where the videos are made and stay"""


def long_video(folder: Path, sources: list[Source], gop: int) -> list[Source]:
    """Encode one video of as many clips in a row, with a keyframe every `gop` frames of those
    videos."""
    path = folder / f"long_{len(sources)}_{gop}.mp4"
    if not path.exists():
        videos = cycle(dict.fromkeys(source.video for source in sources))
        frames = chain.from_iterable(av.open(video).decode(video=0) for video in videos)
        options = {"crf": "20", "preset": "veryfast", "g": str(gop), "sc_threshold": "0"}
        temporary = path.with_suffix(".part")
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for number, frame in enumerate(islice(frames, round(len(sources) * SECONDS * RATE))):
                picture = frame.reformat(WIDTH, HEIGHT)
                picture.pts, picture.time_base = number, Fraction(1, RATE)
                # else the encoder makes keyframes where the source had them
                picture.pict_type = PictureType.NONE
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        os.replace(temporary, path)
    return [
        Source(str(path), number * SECONDS, (number + 1) * SECONDS)
        for number in range(len(sources))
    ]


def with_pyav(clip: Source, encoder: Encoder) -> np.ndarray:
    """Seek to the keyframe before the clip, decode to its end, resize the short side and crop the
    centre."""
    with av.open(clip.video) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        container.seek(int(clip.start / stream.time_base), stream=stream)
        inside = []
        for frame in container.decode(stream):
            if frame.time >= clip.end:
                break
            if frame.time >= clip.start:
                inside.append(frame)
    squares = []
    for place in chosen(len(inside), encoder.frames):
        image = inside[place].to_image()
        short, size = min(image.size), encoder.size
        width, height = (side * encoder.short_side // short for side in image.size)
        left, top = (width - size) // 2, (height - size) // 2
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        squares.append(np.asarray(resized.crop((left, top, left + size, top + size))))
    return np.stack(squares)


def ways(
    sources: list[Source],
    encoder: Encoder,
    threads: int,
    device: str,
    batch: int,
    folder: Path,
    spent: Spent,
) -> tuple[dict[str, Callable[[], object]], Callable[[str], None]]:
    """Return every way to read or encode the clips, and what empties the folder before each.

    `spent` receives the seconds of a GPU's stages.
    """
    clips = dict(enumerate(sources))
    decoded = dict(decoded_clips(clips, encoder.frames, encoder.picture, threads))
    frames = np.stack(
        [clip.frames for _, clip in sorted(decoded.items()) if isinstance(clip, Clip)]
    )
    assert len(frames) == len(clips), "a clip could not be decoded"
    batches = [frames[start : start + batch] for start in range(0, len(frames), batch)]
    on_gpu = (
        [torch.from_numpy(some).to(device) for some in batches]
        if device != "cpu" and encoder.forwards
        else []
    )

    def clear(way: str) -> None:
        """Empty the folder; featurize gets a store with the clips' keys."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if way == OURS:
            store = Store.open(folder / "store", create=True)
            with store.writer(
                "clips", "bench", encoder.provenance("clips"), encoder.features("clips")
            ) as writer:
                writer.add(pl.DataFrame({"key": [f"clip_{row}" for row in clips]}))

    def featurize() -> None:
        """Do what a worker does with its shards."""
        store = Store.open(folder / "store")
        view = store.view("clips", "bench")
        shards = []
        for shard in range(-(-len(clips) // view.rows_per_shard)):
            rows = tuple(row for row in clips if row // view.rows_per_shard == shard)
            sources = {row: clips[row] for row in rows}
            shards.append(
                Task(
                    str(store.path),
                    "clips",
                    "bench",
                    shard,
                    rows,
                    {},
                    batch,
                    sources,
                    threads=threads,
                )
            )
        featurize_shards(shards, encoder, device, lambda rows: None, spent=spent)
        assert (view.status() == 1).all(), "a clip failed"

    def forward() -> None:
        """Run the encoder alone, on frames in memory, in the same batches; on a GPU without
        copies."""
        for there in on_gpu:
            encoder.forward_clips(there)
        if on_gpu:
            torch.cuda.synchronize()
            return
        for some in batches:
            encoder.encode_clips(some)

    def decode() -> None:
        """Decode every frame of every video, in one thread."""
        for video in dict.fromkeys(source.video for source in sources):
            with av.open(video) as container:
                container.streams.video[0].codec_context.thread_count = 1
                for _ in container.decode(video=0):
                    pass

    def pictures() -> None:
        """Decode the clips as the encoder takes them, without encoding them."""
        for _ in decoded_clips(clips, encoder.frames, encoder.picture, threads):
            pass

    def seek() -> None:
        """Read every clip by a seek."""
        for source in sources:
            with_pyav(source, encoder)

    def loop() -> None:
        """Read every clip by a seek, encode it and save its features with numpy."""
        for number, source in clips.items():
            for name, values in encoder.encode_clips(with_pyav(source, encoder)[None]).items():
                np.save(folder / f"{number}_{name}.npy", values[0].astype(np.float16))

    every: dict[str, Callable[[], object]] = {
        OURS: featurize,
        FORWARD: forward,
        DECODE: decode,
        PICTURES: pictures,
        SEEK: loop,
        f"{SEEK}, decoding": seek,
    }
    return every, clear


def stages(videos: str, clips: int, runs: int, spent: Spent, seconds: float, forward: float) -> Row:
    """Return where the time of `runs` runs went on a GPU, whose stages `spent` sums.

    A run is of `clips` clips and takes `seconds`; `forward` are those of the forward pass alone.
    """
    waiting, working = spent.waiting, spent.working
    ms = {
        "waits for decoding": waiting["upload"],
        "copy to": working["upload"],
        "forward": working["forward"],
        "forward waits": waiting["forward"],
        "copy back": working["download"],
        "write": working["write"],
        "waits for writing": waiting["write"],
    }
    rates = {"clips/s": round(clips / seconds, 1), "of forward": round(forward / seconds, 3)}
    return {
        "videos": videos,
        **rates,
        **{name: round(total / runs / clips * 1e3, 3) for name, total in ms.items()},
    }


def run(options: FeaturizeBenchmarkOptions) -> dict[str, Any]:
    """Return the record."""
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _, clips = render_kitchen(folder, -(-options.clips // CLIPS_A_KITCHEN_VIDEO) + 2)
    short_clips = [
        Source(*row)
        for row in clips.head(options.clips).select("video", "start", "end").iter_rows()
    ]
    footage = {
        "kitchen videos": short_clips,
        "one long video": long_video(folder, short_clips, options.gop),
    }
    threads = max(cores() - 1, 1)
    if options.device == "cpu":
        threads = 1
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    encoder = load(options.encoder, options.weights, options.device, compile=options.compile)
    batch = BATCH
    if options.device != "cpu":  # what the GPU has memory for
        batch = batch_by_memory(encoder, options.device, max(options.clips // BATCHES, 1))
    blank = np.zeros((batch, encoder.frames, encoder.size, encoder.size, 3), np.uint8)
    first, again = (timed(lambda: encoder.encode_clips(blank))[0] for _ in range(2))
    rows: list[Row] = []
    held: list[Row] = []
    of_stages: list[Row] = []
    for name, sources in footage.items():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            spent = Spent()
            every, clear = ways(
                sources, encoder, threads, options.device, batch, Path(scratch, "run"), spent
            )
            seconds = measured(every, options.rounds, f"{name}, ", before=clear)
        rows += times(seconds, len(sources), "clip", videos=name)
        case, ours, forward, decode = (
            f"featurize, {name}",
            *(seconds[way] for way in (OURS, FORWARD, DECODE)),
        )
        if options.device == "cpu":
            ceiling = "forward + decode"
            held.append(race(case, forward.clock + decode.clock, ours.clock, 0.9, ceiling))
            held.append(race(f"{case}, CPU time", forward.cpu + decode.cpu, ours.cpu, 0.9, ceiling))
        else:
            slower = max(forward.clock, seconds[PICTURES].clock)
            held.append(race(case, slower, ours.clock, 0.95, "the slower of forward and decoding"))
            of_stages.append(
                stages(name, len(sources), options.rounds + 1, spent, ours.clock, forward.clock)
            )
        held += races(case, seconds, OURS, {SEEK: 1.0})
        seeking = seconds[f"{SEEK}, decoding"].clock
        held.append(race(f"decoding, {name}", seeking, seconds[PICTURES].clock, 2.0, SEEK))
    facts = {
        "encoder": options.encoder,
        "device": options.device,
        "batch": batch,
        "clips": options.clips,
    }
    facts |= {"compile": options.compile, "warm_up_seconds": round(first - again, 2)}
    return {"rows": rows, "races": held, "stages": of_stages, **facts, "gop": options.gop}


main = benchmark("featurize", FeaturizeBenchmarkOptions, __doc__, run)

if __name__ == "__main__":
    command.run(main)
