"""Clips of a source, block by block, to the manifest of python -m featurize.

A source yields blocks: tables of clips with the columns clip, video (its id), start, end (seconds),
split and others. A block has all clips of its videos. Omitted clips are counted by reason.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from heads.data.hold_out import HoldOut
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import make_folder, whole
from stepdiff_core.io.tars import is_regular
from stepdiff_core.progress import progress
from stepdiff_core.tasks import registry

ROWS = 2**16  # of a block, about
_CLIP = {
    "clip": pl.String,
    "video": pl.String,
    "start": pl.Float64,
    "end": pl.Float64,
    "split": pl.String,
}
Clip = tuple[str, str, float, float, str, str]  # clip, video, start, end (seconds), split, text
_MARK = re.compile(r"\{(video|folder|name)\}")
_TEXTS = ("narration", "caption")


@dataclass
class ClipSelection:
    """The choice of a source's clips for the manifest, and the numbers of omitted clips."""

    pattern: str  # path of a video's file from the folder of the manifest, see `place_of`
    folder: Path  # that of the manifest
    look: bool  # whether clips are left out whose videos are not on disk
    hold_out: HoldOut
    least: float | None = None  # seconds of a clip, at least
    most: float | None = None  # seconds of a clip, at most
    probe: bool = False
    """whether clips are left out whose video does not open; a clip without an end gets its video's
    end"""
    total_clips: int = 0  # clips of the benchmark before any was left out, and its title
    title: str = ""
    clips: int = 0  # of the manifest, and so are videos and steps
    videos: int = 0
    steps: set[Any] = field(default_factory=set)
    # clips with a narration, and with a caption
    texts: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)  # videos of the source that are not on disk
    unreadable: dict[str, str] = field(default_factory=dict)  # video -> why its file does not open
    left_out: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)  # held-out clips by reason
    held_of: Counter[str] = field(default_factory=Counter)  # held-out clips by their split before

    def of(self, block: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a block that the manifest has, with the paths of their videos."""
        block = self._of_length(block)
        places = self._places(block["video"].unique(maintain_order=True))
        if self.probe:
            ends = self._ends(places)
            places = {video: place for video, place in places.items() if video in ends}
            block = block.with_columns(
                end=pl.coalesce(
                    "end",
                    pl.col("video").replace_strict(ends, default=None, return_dtype=pl.Float64),
                )
            )
        on_disk = pl.DataFrame(
            list(places.items()), {"video": pl.String, "place": pl.String}, orient="row"
        )
        block = block.join(on_disk, on="video", how="inner", maintain_order="left")
        block = self._held_out(block.with_columns(video="place").drop("place"))
        self.clips, self.videos = self.clips + block.height, self.videos + len(places)
        self.splits.update(dict(block["split"].value_counts(sort=True).iter_rows()))
        self.steps.update(block["step_id"].unique() if "step_id" in block.columns else ())
        for name in set(_TEXTS) & set(block.columns):
            self.texts[name] += int(block[name].str.len_chars().gt(0).sum())
        return block

    def _of_length(self, block: pl.DataFrame) -> pl.DataFrame:
        seconds = pl.col("end") - pl.col("start")
        for bound, word in ((self.least, "shorter"), (self.most, "longer")):
            if bound is not None:
                rows = block.filter(seconds >= bound if word == "shorter" else seconds <= bound)
                self.left_out[f"clips {word} than {bound:g} s"] += block.height - rows.height
                block = rows
        return block

    def _places(self, videos: pl.Series) -> dict[str, str]:
        """Return video -> path of those videos that the manifest has."""
        places = {video: place_of(self.pattern, video) for video in videos}
        if not self.look:
            return places
        on_disk = {
            video: place for video, place in places.items() if is_regular(self.folder / place)
        }
        self.missing += [
            video if self.probe else place
            for video, place in places.items()
            if video not in on_disk
        ]
        return on_disk

    def _ends(self, places: Mapping[str, str]) -> dict[str, float]:
        from featurize.manifest import length
        from featurize.video.media_file import why

        ends: dict[str, float] = {}
        with progress("videos on disk", len(places), "videos") as advance:
            for video, place in places.items():
                try:
                    ends[video] = length(self.folder / place)
                except Exception as error:
                    # whatever FFmpeg or PyAV raises, the file is not a video
                    self.unreadable[video] = why(self.folder / place, error)
                advance(1)
        return ends

    def _held_out(self, block: pl.DataFrame) -> pl.DataFrame:
        """Return a block whose held-out clips have the split test."""
        if not self.hold_out.files or block.is_empty():
            return block
        self.hold_out.look_up(block.rename({"clip": "key"}))
        held = block.select("clip", "split").join(
            self.hold_out.clips.rename({"key": "clip"}), on="clip"
        )
        self.held.update(dict(held["reason"].value_counts(sort=True).iter_rows()))
        self.held_of.update(dict(held["split"].value_counts(sort=True).iter_rows()))
        is_held = pl.col("clip").is_in(held["clip"].implode())
        return block.with_columns(split=pl.when(is_held).then(pl.lit("test")).otherwise("split"))


def place_of(pattern: str, video: str) -> str:
    """Return the path of a video: {video} is its id; of an id that is a path, {folder} and {name}
    are its two parts."""
    path = PurePosixPath(video)
    parts = {"video": video, "folder": str(path.parent), "name": path.name}
    return _MARK.sub(lambda mark: parts[mark[1]], pattern)


def in_blocks(videos: Iterable[Iterable[Clip]], text: str) -> Iterator[pl.DataFrame]:
    """Yield the clips of videos in blocks of about ROWS. text: name of their last column."""
    clips: list[Clip] = []
    for of_video in videos:
        clips += of_video
        if len(clips) >= ROWS:
            yield pl.DataFrame(clips, _CLIP | {text: pl.String}, orient="row")
            clips = []
    if clips:
        yield pl.DataFrame(clips, _CLIP | {text: pl.String}, orient="row")


def benchmark_clips(name: str, data: Path, selection: ClipSelection) -> Iterator[pl.DataFrame]:
    """Yield the clips of a benchmark as one block; those whose video is missing or does not open
    will be left out."""
    benchmark = registry.get(name)
    assert benchmark.clips is not None
    rows = [
        {"clip": clip.clip, "video": clip.video, "start": clip.start or 0.0, "end": clip.end}
        | {**clip.metadata, "split": "test"}
        for clip in benchmark.clips(data)
    ]
    selection.probe, selection.total_clips, selection.title = True, len(rows), benchmark.title
    yield pl.DataFrame(rows, infer_schema_length=None)


def write_blocks(blocks: Iterator[pl.DataFrame], selection: ClipSelection, out: Path) -> None:
    """Write the manifest of the clips that `selection` has of the blocks. StepDiffError: it would
    have no clip."""
    selected = (rows for block in blocks if block.height and (rows := selection.of(block)).height)
    if (first := next(selected, None)) is None:
        raise StepDiffError(_nothing(selection))
    write_frames(chain([first], selected), first.schema, out)


def write_frames(
    frames: Iterator[pl.DataFrame],
    schema: Mapping[str, Any],
    out: Path,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write frames as they come, as .csv, .parquet or .jsonl; with metadata as Parquet, whatever
    the name.

    StepDiffError if the disk refuses.
    """
    from polars.io.plugins import register_io_source

    failure: list[Exception] = []

    def pieces(*_: object) -> Iterator[pl.DataFrame]:
        try:
            for frame in frames:
                yield frame.select(pl.col(name).cast(kind) for name, kind in schema.items())
        except Exception as error:  # polars would wrap it
            failure.append(error)

    make_folder(out.parent)
    with whole(out) as temporary:
        rows = register_io_source(pieces, schema=schema)
        if metadata is not None or out.suffix == ".parquet":
            rows.sink_parquet(temporary, metadata=metadata, engine="streaming")
        else:
            write = rows.sink_csv if out.suffix == ".csv" else rows.sink_ndjson
            write(temporary, engine="streaming")
        if failure:
            raise failure[0]


def _nothing(selection: ClipSelection) -> str:
    if unusable := [*selection.missing, *selection.unreadable]:
        of = f" of {selection.title}" if selection.title else ""
        ways = ["put them there", "say where they are with --videos"]
        ways += [] if selection.probe else ["do not look for them, with --no-on-disk"]
        where = f"{selection.folder / unusable[0]}; {', '.join(ways[:-1])}, or {ways[-1]}"
        return f"none of the {len(unusable)} videos{of} is on disk, e.g. {where}"
    reasons = ", ".join(
        f"{count} x {reason}" for reason, count in selection.left_out.items() if count
    )
    return f"no clip can be used ({reasons or 'the source has none'})"
