"""python -m annotate.manifest --annotations annotations.json --taxonomy taxonomy.csv --splits video_splits.json \\
    --narration raw_caption.json --out clips.parquet

Makes the manifest that python -m featurize reads out of what HT-Step and HowTo100M publish: one row a segment, with
clip, video, start, end, step, step_id, activity, split and the narration heard in it.

Narration is any of HowTo100M's forms: caption.json, raw_caption.json, sentencified_htm_*.json, htm_align.json,
htm_aa_v1.csv, or a folder of VIDEO.csv.

    --hold-out diffrank_dataset.jsonl    its clips, and every clip of their videos, get the split test: most published
                                         DiffRank clips are of HT-Step's train videos

Guarantees
- the sample world's own files give the clips that it says it has
- what cannot be used is counted by its reason
- a clip that is held out (heads.data.hold_out) has the split test, whatever HT-Step says of its video
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from annotate.sources.held_out import given
from annotate.sources.htstep import Segment, read_annotations, read_splits, read_taxonomy
from annotate.sources.narration import heard, read_narration
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from common.io.files import write_bytes
from heads.data.hold_out import HoldOut


@dataclass(frozen=True)
class ManifestOptions:
    annotations: str
    """HT-Step's annotations.json"""
    taxonomy: str
    """HT-Step's taxonomy.csv"""
    out: str
    """manifest to write: .csv, .parquet or .jsonl"""
    splits: str | None = None
    """HT-Step's video_splits.json, which the annotations must agree with; null: their own subsets count"""
    narration: str | None = None
    """what is said: a .json or .csv file of many videos, or a folder of VIDEO.csv; null: no narration"""
    videos: str = "videos/{video}.mp4"
    """where the file of a video lies, from the manifest's folder"""
    hold_out: tuple[str, ...] = ()
    """published test sets whose clips get the split test"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in time"""


def run(options: ManifestOptions) -> dict[str, Any]:
    out = Path(options.out)
    if out.suffix not in (".csv", ".parquet", ".jsonl"):
        raise StepDiffError(f"{out}: a manifest is .csv, .parquet or .jsonl; name the file so")
    if "{video}" not in options.videos:
        raise StepDiffError(f"--videos {options.videos}: write {{video}} where a video's id stands in the names")
    hold_out = given(options.hold_out, options.hold_out_by)
    splits = None if options.splits is None else read_splits(options.splits)
    segments, unusable = read_annotations(options.annotations, read_taxonomy(options.taxonomy), splits)
    if not segments:
        raise StepDiffError(f"{options.annotations}: no segment in it can be used ({dict(unusable) or 'it has none'})")
    faults = Counter[str]()
    speech = {} if options.narration is None else _narration(options.narration, segments, faults)
    frame = pl.DataFrame([_row(segment, speech.get(segment.clip), options.videos) for segment in segments])
    held = frame.select("clip", "split").join(_held_out(frame, hold_out), on="clip")
    is_held = pl.col("clip").is_in(held["clip"].implode())
    frame = frame.with_columns(split=pl.when(is_held).then(pl.lit("test")).otherwise("split"))
    data = _encoded(frame, out.suffix)
    write_bytes(out, data)
    return {
        "manifest": str(out),
        "clips": frame.height,
        "videos": frame["video"].n_unique(),
        "steps": frame["step_id"].n_unique(),
        "splits": dict(frame["split"].value_counts(sort=True).iter_rows()),
        "unusable": dict(unusable),
        "narrated": frame["narration"].str.len_chars().gt(0).sum(),
        "narration_faults": dict(+faults),
        "held_out": dict(held["reason"].value_counts(sort=True).iter_rows()),
        "held_out_of": dict(held["split"].value_counts(sort=True).iter_rows()),
    }


def _held_out(frame: pl.DataFrame, hold_out: HoldOut) -> pl.DataFrame:
    """clip and reason of the manifest's clips that are held out."""
    hold_out.look_up(frame.rename({"clip": "key"}))
    return hold_out.clips.rename({"key": "clip"})


def _narration(path: str, segments: Sequence[Segment], faults: Counter[str]) -> dict[str, str]:
    """What is heard in each clip, by its id."""
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


def _encoded(frame: pl.DataFrame, suffix: str) -> bytes:
    file = io.BytesIO()
    if suffix == ".parquet":
        frame.write_parquet(file)
    elif suffix == ".csv":
        frame.write_csv(file)
    else:
        frame.write_ndjson(file)
    return file.getvalue()


def show(record: dict[str, Any]) -> None:
    print("{manifest}: {clips} clips of {videos} videos and {steps} steps, {narrated} with narration".format(**record))
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
    command.run(main, "what is answered stays, run the same command for the rest")
