"""stepdiff annotate manifest --annotations annotations.json --taxonomy taxonomy.csv \\
    --splits video_splits.json --narration raw_caption.json --out clips.parquet

Makes the manifest that python -m featurize reads: one row a clip, with clip, video, start, end,
split and what is known about it. The command above reads HT-Step and HowTo100M: the rows are
segments, with step, step_id, activity and the narration in them. Other sources, one at a time:

    --sentences htm_aa_v1.csv         sentences of aligned speech, each a clip with itself as
                                      narration: htm_aa_v1.csv, htm_align.json,
                                          sentencified_htm_*.json
    --images 'laion/{000..999}.tar'   captioned images of webdataset tar files, or of what
                                      img2dataset writes
    --dataset NAME --data FOLDER      captaincook, egoexo-exo, egoexo-ego, assembly101-fine or
                                      assembly101-coarse, in the published files
    --test-sets diffrank.jsonl        the clips that published test sets name, with the split test
    --benchmark NAME --data FOLDER    the clips of a benchmark, e.g. convis; with --texts the texts
                                      that embeddings compare with them

Narration is any of HowTo100M's forms: caption.json, raw_caption.json, sentencified_htm_*.json,
htm_align.json, htm_aa_v1.csv, or a folder of VIDEO.csv.

    --hold-out diffrank_dataset.jsonl    its clips, and every clip of their videos, get the split
                                         test: most published DiffRank clips are of HT-Step's train
                                             videos

Clips of --sentences, --dataset and --benchmark whose videos are not on disk are left out. The
command prints which share of the videos is on disk; --json lists the missing ones. Nothing is
downloaded.

Guarantees
- unusable segments are counted by reason
- a held-out clip has the split test, whatever the split of its video: heads.data.hold_out names it
- the manifest of test sets has each of their clips once, with the times of its id
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, at_least, incomplete, parse
from stepdiff_core.errors import StepDiffError

if TYPE_CHECKING:
    import polars as pl

    from stepdiff.annotate.sources.blocks import ClipSelection


VIDEOS = "videos/{video}.mp4"


@dataclass(frozen=True)
class ManifestOptions:
    out: str = field(metadata=WRITTEN)
    """manifest to write: .csv, .parquet or .jsonl"""
    annotations: str | None = None
    """HT-Step's annotations.json"""
    taxonomy: str | None = None
    """HT-Step's taxonomy.csv, with annotations"""
    sentences: str | None = None
    """sentences with their times: htm_aa_v1.csv, a .json file by video, or a folder of VIDEO.csv"""
    images: tuple[str, ...] = ()
    """tar files, tables (.parquet) of img2dataset, or folders of them; {00..99} is a range"""
    dataset: str | None = None
    """captaincook, egoexo-exo, egoexo-ego, assembly101-fine or assembly101-coarse"""
    test_sets: tuple[str, ...] = ()
    """published test sets (.jsonl)"""
    benchmark: str | None = None
    """benchmark, by its name as --task of heads.evaluate"""
    data: str | None = None
    """folder of the files that the authors of the benchmark or dataset publish"""
    texts: bool = False
    """of a benchmark, the texts that embeddings compare with clips (column text), instead of
    clips"""
    splits: str | None = None
    """HT-Step's video_splits.json, which must agree with the annotations; null: their own subsets
    count"""
    narration: str | None = None
    """speech in HT-Step's segments: a .json or .csv file of many videos, or a folder of VIDEO.csv;
    null: none"""
    seconds: float | None = None
    """length of a clip that is given by one moment; null: 3.2 around a sentence of htm_aa_v1.csv, 8
    before a comment of Ego-Exo4D"""
    least_seconds: float | None = None
    """leave out shorter clips"""
    most_seconds: float | None = None
    """leave out longer clips"""
    videos: str | None = None
    """path of a video's file, from the manifest's folder: {video} is its id, {folder} and {name}
    the two parts of an id that is a path; null: videos/{video}.mp4, for a benchmark or dataset
    {video} in its folder"""
    on_disk: bool = True
    """of sentences and datasets, leave out clips whose video is not on disk, and list these
    videos"""
    hold_out: tuple[str, ...] = ()
    """published test sets whose clips get the split test"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in
    time"""


_ANY = ("videos", "least_seconds", "most_seconds", "hold_out", "hold_out_by")
_USES = {
    "annotations": ("taxonomy", "splits", "narration", *_ANY),
    "sentences": ("seconds", "on_disk", *_ANY),
    "images": (),
    "dataset": ("data", "seconds", "on_disk", *_ANY),
    "test_sets": ("videos",),
    "benchmark": ("data", "texts", "videos"),
}
"""source of clips -> the options that it uses"""


def run(options: ManifestOptions) -> dict[str, Any]:
    at_least(options, seconds=0.01)
    out = Path(options.out)
    if out.suffix not in (".csv", ".parquet", ".jsonl"):
        raise StepDiffError(f"{out}: a manifest is .csv, .parquet or .jsonl; give such a name")
    if options.videos is not None and not any(
        mark in options.videos for mark in ("{video}", "{name}")
    ):
        raise StepDiffError(
            f"--videos {options.videos}: write {{video}} in the place of a video's id"
        )
    source = _source(options)
    if source == "benchmark":
        _keep_published(out, Path(options.data or ""))
        if options.texts:
            return _texts_of(options)
    from heads.data.hold_out import HoldOut
    from stepdiff.annotate.sources.blocks import ClipSelection, write_blocks

    faults = Counter[str]()
    look = source == "benchmark" or (options.on_disk and "on_disk" in _USES[source])
    hold_out = HoldOut(options.hold_out, options.hold_out_by)
    bounds = (options.least_seconds, options.most_seconds)
    selection = ClipSelection(_pattern(options, source), out.parent, look, hold_out, *bounds)
    write_blocks(_blocks(options, source, selection, faults), selection, out)
    return _record(options, selection, faults)


def _source(options: ManifestOptions) -> str:
    """Return the option that names the source of clips. StepDiffError: not one, or options that it
    does not use."""
    from stepdiff.annotate.sources.datasets import DATASETS
    from stepdiff_core.tasks import registry

    chosen = [
        one.name
        for one in fields(options)
        if getattr(options, one.name) != one.default and one.name != "out"
    ]
    source = next((name for name in reversed(_USES) if name in chosen), None)
    if source is None or (source == "annotations" and options.taxonomy is None):
        if options.data is not None:
            raise StepDiffError(
                "--data is the folder of a --benchmark or --dataset; give both, or neither"
            )
        raise StepDiffError(
            "give --annotations and --taxonomy of HT-Step, or --test-sets, --benchmark, "
            "--sentences, --images or --dataset"
        )
    if source in ("benchmark", "dataset"):
        name = getattr(options, source)
        if source == "benchmark":
            if registry.get(name, "--benchmark").clips is None:
                raise StepDiffError(
                    f"--benchmark {name}: the task has no list of its videos; give --test-sets"
                )
        elif name not in DATASETS:
            raise StepDiffError(f"--dataset {name}: no such dataset; known: {', '.join(DATASETS)}")
        if options.data is None:
            raise StepDiffError(
                f"--{source} {name} needs --data, the folder of its published files"
            )
    if others := [name for name in chosen if name not in (source, *_USES[source])]:
        flags = [name.replace("_", "-") for name in (source, others[0])]
        why = (
            "is a manifest of its own"
            if others[0] in _USES
            else "does not use all of these options"
        )
        raise StepDiffError(f"--{flags[0]} {why}; leave out --{flags[1]}")
    return source


def _pattern(options: ManifestOptions, source: str) -> str:
    if options.videos is not None:
        return options.videos
    if options.data is not None:
        return (
            Path(os.path.relpath(options.data, Path(options.out).parent)) / "{video}"
        ).as_posix()
    return "{video}" if source == "images" else VIDEOS


def _blocks(
    options: ManifestOptions, source: str, selection: "ClipSelection", faults: Counter[str]
) -> Iterator["pl.DataFrame"]:
    """Return the clips of a source, in blocks; count omitted ones by reason."""
    from stepdiff.annotate.sources import datasets, images, narration
    from stepdiff.annotate.sources.blocks import benchmark_clips

    left_out, data = selection.left_out, Path(options.data or "")
    if source == "sentences":
        return narration.read_sentences(
            Path(options.sentences or ""), options.seconds or narration.SECONDS, faults
        )
    if source == "images":
        return images.read_images(options.images, Path(options.out).parent, left_out)
    if source == "test_sets":
        return _of_test_sets(options)
    if source == "benchmark":
        return benchmark_clips(options.benchmark or "", data, selection)
    if source == "dataset":
        return datasets.DATASETS[options.dataset or ""](data, options.seconds, left_out)
    files = options.annotations or "", options.taxonomy or "", options.splits, options.narration
    return datasets.read_htstep(*files, left_out, faults)


def _of_test_sets(options: ManifestOptions) -> Iterator["pl.DataFrame"]:
    import polars as pl

    from heads.data.hold_out import read_test_clips
    from stepdiff_core.tasks.testsets import split_clip

    clips = read_test_clips(options.test_sets)
    videos = pl.Series("video", [split_clip(clip)[0] for clip in clips["key"]], pl.String)
    yield clips.select(
        pl.col("key").alias("clip"), videos, "start", "end", pl.lit("test").alias("split")
    )


def _keep_published(out: Path, folder: Path) -> None:
    """Raise StepDiffError if a file in the folder of a benchmark that is no manifest would be
    overwritten."""
    from featurize.manifest import read_manifest

    if out.exists() and out.resolve().is_relative_to(folder.resolve()):
        try:
            read_manifest(out)
        except StepDiffError:
            raise StepDiffError(
                f"--out {out} would overwrite a file of --data; name another --out"
            ) from None


def _texts_of(options: ManifestOptions) -> dict[str, Any]:
    """Write the manifest of the texts of a benchmark; return its record."""
    import polars as pl

    from stepdiff.annotate.sources.blocks import write_frames
    from stepdiff_core.tasks import registry
    from stepdiff_core.tasks.benchmarks.rows import Choice

    benchmark = registry.get(options.benchmark or "")
    rows = benchmark.read(Path(options.data or "")).rows
    texts = list(
        dict.fromkeys(
            row.about for row in rows if isinstance(row, Choice) and row.about is not None
        )
    )
    if not texts:
        raise StepDiffError(
            f"{benchmark.title} has no texts that embeddings compare with clips; leave out --texts"
        )
    frame = pl.DataFrame({"text": texts})
    write_frames(iter([frame]), frame.schema, Path(options.out))
    return {"manifest": options.out, "texts": len(texts)}


def _record(
    options: ManifestOptions, selection: "ClipSelection", faults: Counter[str]
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "manifest": options.out,
        "clips": selection.clips,
        "videos": selection.videos,
        "steps": len(selection.steps),
        "splits": dict(selection.splits),
        "unusable": dict(+selection.left_out),
        "narrated": selection.texts["narration"],
        "captioned": selection.texts["caption"],
        "narration_faults": dict(+faults),
        "held_out": dict(selection.held),
        "held_out_of": dict(selection.held_of),
        "missing": selection.missing if selection.look else None,
    }
    if options.benchmark is not None:
        videos = selection.videos + len(selection.missing) + len(selection.unreadable)
        missing = {"missing": selection.missing, "unreadable": selection.unreadable}
        record["benchmark"] = {
            "name": options.benchmark,
            "clips": selection.total_clips,
            "videos": videos,
            **missing,
        }
    return record


def show(record: dict[str, Any]) -> None:
    if "texts" in record:
        print("{manifest}: {texts} texts".format(**record))
        return
    line = (
        "{manifest}: {clips} clips of {videos} videos and {steps} steps, {narrated} with narration"
    )
    print((line + (", {captioned} with a caption" if record["captioned"] else "")).format(**record))
    if (missing := record["missing"]) is not None:
        of = record.get("benchmark", {})
        videos = of.get("videos", record["videos"] + len(missing))
        name = f"{of['name']}: " if of else ""
        print(
            f"{name}{record['videos']} of {videos} videos ({record['videos'] / videos:.1%}) are on "
            "disk"
        )
        if missing:
            print(f"missing: {len(missing)} videos, e.g. {missing[0]}; --json lists them")
        for video, reason in of.get("unreadable", {}).items():
            print(f"left out: {video}: {reason}")
    print("splits: " + ", ".join(f"{split} {count}" for split, count in record["splits"].items()))
    for reason, count in record["held_out"].items():
        print(f"split test: {count} x {reason}")
    if of := record["held_out_of"]:
        print(
            "held out, by their split before: "
            + ", ".join(f"{split} {count}" for split, count in of.items())
        )
    for what in ("unusable", "narration_faults"):
        for reason, count in record[what].items():
            print(f"left out: {count} x {reason}")


def main(argv: list[str] | None = None) -> int:
    return parse(
        ManifestOptions, argv, "stepdiff.annotate.manifest", __doc__, run, show, status=incomplete
    )


if __name__ == "__main__":
    command.run(main)
