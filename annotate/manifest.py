"""python -m annotate.manifest --annotations annotations.json --taxonomy taxonomy.csv --splits video_splits.json \\
    --narration raw_caption.json --out clips.parquet

Makes the manifest that python -m featurize reads from the files of HT-Step and HowTo100M: one row a segment, with clip,
video, start, end, step, step_id, activity, split and the narration in it.

Narration is any of HowTo100M's forms: caption.json, raw_caption.json, sentencified_htm_*.json, htm_align.json,
htm_aa_v1.csv, or a folder of VIDEO.csv.

    --hold-out diffrank_dataset.jsonl    its clips, and every clip of their videos, get the split test: most published
                                         DiffRank clips are of HT-Step's train videos

    python -m annotate.manifest --test-sets diffrank_dataset.jsonl --out test_clips.parquet

makes the manifest of the clips that published test sets name: clip, video, start, end and the split test.

    python -m annotate.manifest --benchmark convis --data data/convis --out convis.parquet

makes that of the clips of a benchmark whose videos are on disk, in the folders that its authors use. It prints which
share of the videos that is; --json lists the missing ones. With --texts it makes the manifest of the texts that
embeddings compare with its clips, instead.

Guarantees
- the files of the sample world give exactly its clips
- unusable segments are counted by reason
- a held-out clip has the split test, whatever the split of its video: heads.data.hold_out names it
- the manifest of test sets has each of their clips once, with the times of its id
- a missing video of a benchmark is listed, and the manifest has the clips of the others
"""

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from annotate.sources.htstep import Segment, read_annotations, read_splits, read_taxonomy
from annotate.sources.narration import heard, read_narration
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from tasks.benchmarks.rows import Choice

if TYPE_CHECKING:
    import polars as pl

    from tasks.benchmarks.benchmark import Benchmark


VIDEOS = "videos/{video}.mp4"


@dataclass(frozen=True)
class ManifestOptions:
    out: str
    """manifest to write: .csv, .parquet or .jsonl"""
    annotations: str | None = None
    """HT-Step's annotations.json; null: with test_sets"""
    taxonomy: str | None = None
    """HT-Step's taxonomy.csv; null: with test_sets"""
    test_sets: tuple[str, ...] = ()
    """published test sets (.jsonl) whose clips are the manifest, instead of HT-Step's segments"""
    benchmark: str | None = None
    """benchmark whose clips are the manifest, instead of HT-Step's segments; its name as --task of heads.evaluate"""
    data: str | None = None
    """folder of the files that the authors of the benchmark publish"""
    texts: bool = False
    """of a benchmark, the texts that embeddings compare with clips (column text), instead of clips"""
    splits: str | None = None
    """HT-Step's video_splits.json, which must agree with the annotations; null: their own subsets count"""
    narration: str | None = None
    """speech: a .json or .csv file of many videos, or a folder of VIDEO.csv; null: no narration"""
    videos: str | None = None
    """path of a video's file, from the manifest's folder; null: videos/{video}.mp4, for a benchmark {video} in its
    folder"""
    hold_out: tuple[str, ...] = ()
    """published test sets whose clips get the split test"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in time"""


def run(options: ManifestOptions) -> dict[str, Any]:
    out = Path(options.out)
    if out.suffix not in (".csv", ".parquet", ".jsonl"):
        raise StepDiffError(f"{out}: a manifest is .csv, .parquet or .jsonl; give such a name")
    if options.videos is not None and "{video}" not in options.videos:
        raise StepDiffError(f"--videos {options.videos}: write {{video}} in the place of a video's id")
    if options.benchmark is not None:
        return _of_benchmark(options)
    if options.data is not None:
        raise StepDiffError("--data is the folder of a --benchmark; give both, or neither")
    if options.test_sets:
        return _write(options, _of_test_sets(options))
    if options.annotations is None or options.taxonomy is None:
        raise StepDiffError("give --annotations and --taxonomy of HT-Step, or --test-sets, or --benchmark")
    import polars as pl

    from heads.data.hold_out import HoldOut

    hold_out = HoldOut(options.hold_out, options.hold_out_by)
    splits = None if options.splits is None else read_splits(options.splits)
    segments, unusable = read_annotations(options.annotations, read_taxonomy(options.taxonomy), splits)
    if not segments:
        raise StepDiffError(f"{options.annotations}: no segment in it can be used ({dict(unusable) or 'it has none'})")
    faults = Counter[str]()
    speech = {} if options.narration is None else _narration(options.narration, segments, faults)
    frame = pl.DataFrame([_row(segment, speech.get(segment.clip), options.videos or VIDEOS) for segment in segments])
    hold_out.look_up(frame.rename({"clip": "key"}))
    held = frame.select("clip", "split").join(hold_out.clips.rename({"key": "clip"}), on="clip")
    is_held = pl.col("clip").is_in(held["clip"].implode())
    frame = frame.with_columns(split=pl.when(is_held).then(pl.lit("test")).otherwise("split"))
    reasons, splits_before = (dict(held[name].value_counts(sort=True).iter_rows()) for name in ("reason", "split"))
    return _write(options, frame, unusable, +faults, reasons, splits_before)


def _refuse_others(options: ManifestOptions, source: str) -> None:
    """Raise StepDiffError for options of another source of clips."""
    others = ("annotations", "taxonomy", "splits", "narration", "hold_out", "test_sets")
    if given := [name for name in others if name != source and getattr(options, name)]:
        flags = [name.replace("_", "-") for name in (source, given[0])]
        raise StepDiffError(f"--{flags[0]} is a manifest of its own; leave out --{flags[1]}")


def _of_benchmark(options: ManifestOptions) -> dict[str, Any]:
    """Write the manifest of the clips of a benchmark that are on disk; return its record."""
    from annotate.sources.benchmarks import on_disk
    from tasks import benchmarks

    _refuse_others(options, "benchmark")
    benchmark = benchmarks.get(options.benchmark or "")
    if options.data is None:
        raise StepDiffError(f"--benchmark {benchmark.name} needs --data, the folder of its published files")
    if options.texts:
        return _texts_of(options, benchmark)
    folder = Path(options.out).parent
    beneath = Path(os.path.relpath(options.data, folder)) / "{video}"
    found = on_disk(benchmark.clips(Path(options.data)), options.videos or beneath.as_posix(), folder)
    if found.frame.is_empty():
        raise StepDiffError(
            f"{options.data}: none of the {found.videos} videos of {benchmark.title} is on disk, e.g. "
            f"{[*found.missing, *found.unreadable][0]}; put them there, or say where they are with --videos"
        )
    share = {"videos": found.videos, "missing": found.missing, "unreadable": found.unreadable}
    return _write(options, found.frame) | {"benchmark": {"name": benchmark.name, "clips": found.clips, **share}}


def _texts_of(options: ManifestOptions, benchmark: "Benchmark") -> dict[str, Any]:
    """Write the manifest of the texts of a benchmark; return its record."""
    import polars as pl

    rows = benchmark.read(Path(options.data or "")).rows
    texts = list(dict.fromkeys(row.about for row in rows if isinstance(row, Choice) and row.about is not None))
    if not texts:
        raise StepDiffError(f"{benchmark.title} has no texts that embeddings compare with clips; leave out --texts")
    _write_frame(Path(options.out), pl.DataFrame({"text": texts}))
    return {"manifest": options.out, "texts": len(texts)}


def _of_test_sets(options: ManifestOptions) -> "pl.DataFrame":
    """Return the manifest of the clips that the test sets name."""
    import polars as pl

    from heads.data.hold_out import read_test_clips
    from tasks.testsets import split_clip

    _refuse_others(options, "test_sets")
    clips = read_test_clips(options.test_sets)
    videos = [(options.videos or VIDEOS).replace("{video}", split_clip(clip)[0]) for clip in clips["key"]]
    columns = {"clip": clips["key"], "video": pl.Series(videos), "start": clips["start"], "end": clips["end"]}
    return pl.DataFrame(columns).with_columns(split=pl.lit("test"))


def _write(
    options: ManifestOptions,
    frame: "pl.DataFrame",
    unusable: Mapping[str, int] = {},
    faults: Mapping[str, int] = {},
    held_out: Mapping[str, int] = {},
    held_out_of: Mapping[str, int] = {},
) -> dict[str, Any]:
    """Write the manifest; return the record of what it has and what was left out."""
    out = Path(options.out)
    _write_frame(out, frame)
    columns = frame.columns
    return {
        "manifest": str(out),
        "clips": frame.height,
        "videos": frame["video"].n_unique(),
        "steps": frame["step_id"].n_unique() if "step_id" in columns else 0,
        "splits": dict(frame["split"].value_counts(sort=True).iter_rows()),
        "unusable": dict(unusable),
        "narrated": frame["narration"].str.len_chars().gt(0).sum() if "narration" in columns else 0,
        "narration_faults": dict(faults),
        "held_out": dict(held_out),
        "held_out_of": dict(held_out_of),
    }


def _write_frame(out: Path, frame: "pl.DataFrame") -> None:
    from common.io.files import write_bytes

    write: Any = {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[out.suffix]
    file = io.BytesIO()
    write(file)
    write_bytes(out, file.getvalue())


def _narration(path: str, segments: Sequence[Segment], faults: Counter[str]) -> dict[str, str]:
    by_video: dict[str, list[Segment]] = {}
    for segment in segments:
        by_video.setdefault(segment.video, []).append(segment)
    return {
        segment.clip: heard(pieces, segment.start, segment.end)
        for video, pieces in read_narration(path, by_video, faults)
        for segment in by_video[video]
    }


def _row(segment: Segment, said: str | None, videos: str) -> dict[str, Any]:
    return {
        "clip": segment.clip,
        "video": videos.replace("{video}", segment.video),
        "start": segment.start,
        "end": segment.end,
        "step": segment.step.headline,
        "step_id": segment.step_id,
        "activity": segment.step.activity,
        "split": segment.split,
        "narration": said or "",
    }


def show(record: dict[str, Any]) -> None:
    if "texts" in record:
        print("{manifest}: {texts} texts".format(**record))
        return
    print("{manifest}: {clips} clips of {videos} videos and {steps} steps, {narrated} with narration".format(**record))
    if of := record.get("benchmark"):
        missing, unreadable = of["missing"], of["unreadable"]
        there = of["videos"] - len(missing) - len(unreadable)
        print(f"{of['name']}: {there} of {of['videos']} videos ({there / of['videos']:.1%}) are on disk")
        if missing:
            print(f"missing: {len(missing)} videos, e.g. {missing[0]}; --json lists them")
        for video, reason in unreadable.items():
            print(f"left out: {video}: {reason}")
    print("splits: " + ", ".join(f"{split} {count}" for split, count in record["splits"].items()))
    for reason, count in record["held_out"].items():
        print(f"split test: {count} x {reason}")
    if of := record["held_out_of"]:
        print("held out, by their split before: " + ", ".join(f"{split} {count}" for split, count in of.items()))
    for what in ("unusable", "narration_faults"):
        for reason, count in record[what].items():
            print(f"left out: {count} x {reason}")


def main(argv: list[str] | None = None) -> int:
    return parse(ManifestOptions, argv, "annotate.manifest", __doc__, run, show, status=incomplete)


if __name__ == "__main__":
    command.run(main)
