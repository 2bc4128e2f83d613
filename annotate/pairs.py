"""python -m annotate.pairs --store data/features --out data/pairs.parquet --cap 12 \
    --hold-out data/kitchen/diffcap_test.jsonl data/kitchen/diffmcq_test.jsonl data/kitchen/diffrank_test.jsonl

Chooses pairs of training clips that show one step in two videos, at most CAP a step, and some of different steps: a
Parquet file of pair, reference, candidate, reference_step, candidate_step, same_step. A row stands for both orders of
its pair.

Which two clips make a pair: drawn by seed out of all that a step has.

No list of all pairs is ever made. The clips of a step are sorted by video. A clip's partners are those of the videos
behind its own, so that the pairs of a step are numbered without gaps, and a number tells its two clips by one search.

Guarantees
- no clip of another split than train is in a pair, and none that is held out (heads.data.hold_out)
- the same seed and clips give the same file
- steps that have no pair are counted: of one clip, or of one video
- pairs of different steps are of steps with different names
- the chosen pairs are written some at a time
- every pair of clips of one step and of two videos is as likely as any other
- no pair comes twice, in either order
- a step gives all the pairs that it has, or as many as the cap
- the pairs of a step depend on the seed, its name and its clips, on no other step
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Int64, Integer

from annotate.sources.held_out import given
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from common.io.files import stream_parquet
from common.streams import generator
from heads.data.clip_texts import ClipTexts
from heads.data.clips import knows_splits
from heads.data.hold_out import NAMESAKE, REASONS, VIDEO, HoldOut, known_clips
from store import Store

_DRAWS = 4  # random pairs for each one that is wanted: most are of different steps


def same_step(
    step: Integer[np.ndarray, " C"], video: Integer[np.ndarray, " C"], names: Sequence[str], cap: int, seed: int
) -> Int64[np.ndarray, "P 2"]:
    """At most `cap` pairs a step, as places of their two clips, which stands first by a toss; step by step.

    step: of each clip, as a place in `names`.
    """
    order = np.lexsort((video, step))
    starts, step_end = _groups(step[order])
    _, video_end = _groups(step[order], video[order])
    numbered = np.concatenate(
        [[0], np.cumsum(step_end - video_end)]
    )  # pairs before those that each clip comes first in
    numbers: list[int] = []
    tosses: list[int] = []
    for clip, low, high in zip(
        order[starts], numbered[starts].tolist(), numbered[step_end[starts]].tolist(), strict=True
    ):
        count = min(cap, high - low)
        if count:
            rng = generator(seed, "pairs of a step", names[step[clip]])
            numbers += (low + rng.choice(high - low, count, replace=False)).tolist()
            tosses += rng.integers(2, size=count).tolist()
    number, toss = np.array(numbers, np.int64), np.array(tosses, bool)
    first = np.searchsorted(numbered, number, side="right") - 1
    second = video_end[first] + number - numbered[first]
    return np.stack([order[np.where(toss, second, first)], order[np.where(toss, first, second)]], axis=1)


def other_step(
    step: Integer[np.ndarray, " C"], video: Integer[np.ndarray, " C"], count: int, seed: int
) -> Int64[np.ndarray, "Q 2"]:
    """At most `count` pairs of clips of different steps and videos, as places; fewer where there are few."""
    if not len(step):
        return np.zeros((0, 2), np.int64)
    rng = generator(seed, "pairs of other steps", len(step))
    drawn = rng.integers(len(step), size=(_DRAWS * count, 2))
    drawn = drawn[(step[drawn[:, 0]] != step[drawn[:, 1]]) & (video[drawn[:, 0]] != video[drawn[:, 1]])]
    _, once = np.unique(np.sort(drawn, axis=1), axis=0, return_index=True)
    return drawn[np.sort(once)[:count]]


def _groups(*keys: Integer[np.ndarray, " C"]) -> tuple[Int64[np.ndarray, " groups"], Int64[np.ndarray, " C"]]:
    """Where runs of equal keys start, and for each place where its run ends."""
    size = len(keys[0])
    change = np.zeros(max(size - 1, 0), bool)
    for key in keys:
        change |= key[1:] != key[:-1]
    starts = np.concatenate([np.zeros(min(size, 1), np.int64), np.flatnonzero(change) + 1])
    ends = np.append(starts[1:], size)[: len(starts)]
    return starts, np.repeat(ends, ends - starts)


SCHEMA = {
    "pair": pl.Int64,
    "reference": pl.String,
    "candidate": pl.String,
    "reference_step": pl.String,
    "candidate_step": pl.String,
    "same_step": pl.Boolean,
}
_ROWS = 2**18
"""pairs written at once"""
_OTHER_SPLIT = "not of the train split"


@dataclass(frozen=True)
class PairsOptions:
    store: str
    """feature store, whose catalog knows step and split of each clip"""
    out: str
    """Parquet file to write"""
    step: str = "step"
    """column of the catalog whose value the clips of a pair share: step, or HT-Step's step_id, which tells recipes
    apart"""
    cap: int = 20
    """pairs a step, at most"""
    other: float = 0.1
    """part of all pairs that are of different steps"""
    texts: str | None = None
    """Parquet file or folder of texts about clips, as annotate.describe writes: only clips that have one make pairs"""
    seed: int = 0
    """seed of the choice"""
    hold_out: tuple[str, ...] = ()
    """published test sets whose clips are in no pair"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in time"""
    test_sets: tuple[str, ...] = ()
    """old name of hold_out: files with commas between them"""


def run(options: PairsOptions) -> dict[str, Any]:
    if options.cap < 1 or not 0 <= options.other < 1:
        raise StepDiffError(f"--cap {options.cap} --other {options.other}: at least 1, and a part from 0 up to 1")
    hold_out = given(options.hold_out, options.hold_out_by, options.test_sets)
    clips, left_out = candidates(options, hold_out)
    label, labels = _coded(clips["label"])
    step, _ = _coded(clips["step"].str.to_lowercase())
    video, _ = _coded(clips["video"])
    same = same_step(label, video, labels, options.cap, options.seed)
    other = other_step(step, video, round(len(same) * options.other / (1 - options.other)), options.seed)
    if not len(same):
        raise StepDiffError(f"{options.store}: no step has training clips of two videos; left out were {left_out}")
    pairs = np.concatenate([same, other])
    order = generator(options.seed, "order of chosen pairs").permutation(len(pairs))
    of_label = (
        pl.DataFrame({"label": label, "video": video}).group_by("label").agg(pl.len(), pl.col("video").n_unique())
    )
    record = {
        "pairs": len(same),
        "other_step_pairs": len(other),
        "steps": len(labels),
        "steps_of_one_clip": of_label.filter(pl.col("len") == 1).height,
        "steps_of_one_video": of_label.filter(pl.col("len") > 1, pl.col("video") == 1).height,
        "clips": clips.height,
        "left_out": left_out,
        "splits": _OTHER_SPLIT in left_out,
        "namesakes": hold_out.sources.get("clips", {}).get(NAMESAKE, 0),
    }
    about = {"options": asdict(options), **record}
    stream_parquet(Path(options.out), SCHEMA, _rows(clips, pairs, order, len(same)), {"provenance": json.dumps(about)})
    return {"out": options.out, **record}


def candidates(options: PairsOptions, hold_out: HoldOut) -> tuple[pl.DataFrame, dict[str, int]]:
    """key, label, step and video of every clip that may be in a pair, and how many may not, by reason.

    label: what the clips of a pair share; step: its name in words.
    """
    frame = known_clips(Store.open(options.store), "step", options.step)
    if options.step not in frame.columns:
        raise StepDiffError(f"{options.store}: no clip has a {options.step}; featurize a manifest with that column")
    hold_out.look_up(frame)
    left_out = {}

    def keep(reason: str, kept: pl.Series | pl.Expr) -> None:
        nonlocal frame
        before = frame.height
        frame = frame.filter(kept)
        left_out[reason] = before - frame.height

    label = pl.col(options.step).cast(pl.String).str.strip_chars()
    step = pl.col("step").str.strip_chars() if "step" in frame.columns else label
    keep("no step", (label != "").fill_null(False))
    if knows_splits(frame):
        keep(_OTHER_SPLIT, (pl.col("split") == "train").fill_null(False))
    if hold_out.files:
        frame = hold_out.keep(frame, "clips")
        left_out |= {reason: hold_out.sources["clips"][reason] for reason in REASONS}
    if options.texts is not None:
        described = pl.Series(list(dict(ClipTexts(options.texts).items())), dtype=pl.String)
        keep("no text", pl.col("key").is_in(described.implode()))
    return frame.select(
        "key", label.alias("label"), step.fill_null("").alias("step"), VIDEO.fill_null("").alias("video")
    ), left_out


def _coded(values: pl.Series) -> tuple[Integer[np.ndarray, " C"], list[str]]:
    """Each value as its place among the different ones, and those, sorted: a code's order depends on no other value."""
    different = values.unique().sort()
    return values.cast(pl.Enum(different)).to_physical().to_numpy(), different.to_list()


def _rows(
    clips: pl.DataFrame, pairs: Int64[np.ndarray, "P 2"], order: Int64[np.ndarray, " P"], same: int
) -> Iterator[pl.DataFrame]:
    """Rows of the file, some at a time."""
    for start in range(0, len(order), _ROWS):
        chosen = order[start : start + _ROWS]
        reference, candidate = (clips[pairs[chosen, side]] for side in (0, 1))
        yield pl.DataFrame(
            {
                "pair": np.arange(start, start + len(chosen)),
                "reference": reference["key"],
                "candidate": candidate["key"],
                "reference_step": reference["step"],
                "candidate_step": candidate["step"],
                "same_step": chosen < same,
            },
            schema=SCHEMA,
        )


def show(record: dict[str, Any]) -> None:
    print("{out}: {pairs:,} pairs of one step, {other_step_pairs:,} of two, out of {clips:,} clips".format(**record))
    without = "{steps:,} steps; no pair in {steps_of_one_clip:,} of one clip, {steps_of_one_video:,} of one video"
    print(without.format(**record))
    for reason, count in record["left_out"].items():
        print(f"left out: {count:,} clips, {reason}")
    if not record["splits"]:
        print("the catalog has no splits: every clip that --hold-out does not name may train")
    if record["namesakes"]:
        print(f"kept: {record['namesakes']:,} clips, {NAMESAKE}")


def main(argv: list[str] | None = None) -> int:
    return parse(PairsOptions, argv, "annotate.pairs", __doc__, run, show, status=incomplete)


if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
