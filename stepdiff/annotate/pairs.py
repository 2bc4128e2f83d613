"""stepdiff annotate pairs --store data/features --out data/pairs.parquet --cap 12 \\
    --hold-out data/kitchen/diffcap_test.jsonl data/kitchen/diffmcq_test.jsonl

Chooses pairs of training clips that show one step in two videos, at most CAP a step, and some of
different steps: a Parquet file of pair, reference, candidate, reference_step, candidate_step,
same_step. A row means both orders of its pair.

Guarantees
- clips of other splits, and test clips and their overlaps, are in no pair: those that
  heads.data.hold_out names
- the same seed and clips give the same file
- pairs of one step are of two videos, and other pairs of steps with different names
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, incomplete, parse
from stepdiff_core.errors import StepDiffError


@dataclass(frozen=True)
class PairsOptions:
    store: str
    """feature store, whose catalog has step and split of each clip"""
    out: str = field(metadata=WRITTEN)
    """Parquet file to write"""
    step: str = "step"
    """column of the catalog whose value the clips of a pair share: step, or HT-Step's step_id,
    which distinguishes recipes"""
    cap: int = 20
    """pairs a step, at most"""
    other: float = 0.1
    """fraction of all pairs that are of different steps"""
    texts: str | None = None
    """Parquet file or folder of texts about clips, as stepdiff annotate describe writes: only clips
    that have one make pairs"""
    seed: int = 0
    """seed of the choice"""
    hold_out: tuple[str, ...] = ()
    """published test sets whose clips are in no pair"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in
    time"""


def run(options: PairsOptions) -> dict[str, Any]:
    if options.cap < 1 or not 0 <= options.other < 1:
        raise StepDiffError(
            f"--cap {options.cap} --other {options.other}: at least 1, and a fraction from 0 up to "
            "1"
        )
    import numpy as np
    import polars as pl

    from heads.data.hold_out import NAMESAKE, HoldOut
    from stepdiff.annotate.qa import pair_choice as choice
    from stepdiff.annotate.sources.blocks import write_frames
    from stepdiff_core.streams import generator

    hold_out = HoldOut(options.hold_out, options.hold_out_by)
    clips, left_out = choice.candidates(options.store, options.step, options.texts, hold_out)
    label, labels = choice.coded(clips["label"])
    step, _ = choice.coded(clips["step"].str.to_lowercase())
    video, _ = choice.coded(clips["video"])
    same = choice.same_step(label, video, labels, options.cap, options.seed)
    other = choice.other_step(
        step, video, round(len(same) * options.other / (1 - options.other)), options.seed
    )
    if not len(same):
        raise StepDiffError(
            f"{options.store}: no step has training clips of two videos; left out: {left_out}"
        )
    pairs = np.concatenate([same, other])
    order = generator(options.seed, "order of chosen pairs").permutation(len(pairs))
    of_label = (
        pl.DataFrame({"label": label, "video": video})
        .group_by("label")
        .agg(pl.len(), pl.col("video").n_unique())
    )
    record = {
        "pairs": len(same),
        "other_step_pairs": len(other),
        "steps": len(labels),
        "steps_of_one_clip": of_label.filter(pl.col("len") == 1).height,
        "steps_of_one_video": of_label.filter(pl.col("len") > 1, pl.col("video") == 1).height,
        "clips": clips.height,
        "left_out": left_out,
        "splits": choice.OTHER_SPLIT in left_out,
        "namesakes": hold_out.sources.get("clips", {}).get(NAMESAKE, 0),
    }
    about = {"options": asdict(options), **record}
    rows = choice.rows(clips, pairs, order, len(same))
    write_frames(rows, choice.SCHEMA, Path(options.out), {"provenance": json.dumps(about)})
    return {"out": options.out, **record}


def show(record: dict[str, Any]) -> None:
    print(
        "{out}: {pairs:,} pairs of one step, {other_step_pairs:,} of two, out of {clips:,} "
        "clips".format(**record)
    )
    without = (
        "{steps:,} steps; no pair in {steps_of_one_clip:,} of one clip, {steps_of_one_video:,} of "
        "one video"
    )
    print(without.format(**record))
    for reason, count in record["left_out"].items():
        print(f"left out: {count:,} clips, {reason}")
    if not record["splits"]:
        print("the catalog has no splits: every clip that is not held out may train")
    if record["namesakes"]:
        from heads.data.hold_out import NAMESAKE

        print(f"kept: {record['namesakes']:,} clips, {NAMESAKE}")


def main(argv: list[str] | None = None) -> int:
    return parse(
        PairsOptions, argv, "stepdiff.annotate.pairs", __doc__, run, show, status=incomplete
    )


if __name__ == "__main__":
    command.run(main)
