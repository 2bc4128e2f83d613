"""Alignment next to linear stretching, in the sample world, where the times of steps and sub-actions are known.

python -m benchmarks.alignment --store data/features --world data/kitchen                     # two minutes
python -m benchmarks.alignment --store data/features --world data/kitchen --words runs/words

Pairs are of different videos of one split: clips of one step, whose parts are its sub-actions, and whole videos of one
recipe, whose parts are its steps. A time in a part that both have corresponds to the time of the other at which that
part is as far. The margin of `only_first` and `only_second` is chosen on val; all figures are of test.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from benchmarks.harness import benchmark, race
from heads.evidence.head import WordHead
from retrieval import Moments, align, read_moments
from retrieval.vectors import filled_rows
from stepdiff.common.cli import command
from stepdiff.kitchen.attributes import Attributes
from stepdiff.kitchen.drawing.scenes import moment
from stepdiff.kitchen.truth import read_world
from store import Store, View

EVERY = 0.05  # seconds between two times at which an alignment is compared with the truth
MARGINS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
Parts = dict[str, tuple[float, float]]
"""part -> its start and end, in seconds of the video"""


@dataclass(frozen=True)
class Options:
    store: str
    """feature store"""
    world: str
    """folder of the sample world"""
    view: str = "efficientnet-lite0"
    """view of clips with tokens of frames"""
    words: str = ""
    """folder of heads.words: moments are the evidence of its terms, instead of means of tokens"""
    category: str = ""
    """of the terms, by default all"""
    pairs: int = 400
    """pairs of each kind and split, at most"""


@dataclass(frozen=True)
class Recording:
    """A clip, or a video, with the times of its parts."""

    keys: list[str] = field(default_factory=list)
    """clips"""
    parts: Parts = field(default_factory=dict)

    @property
    def ends(self) -> Float64[np.ndarray, " 2"]:
        """Return begin and end, in seconds."""
        return np.array([min(start for start, _ in self.parts.values()), max(end for _, end in self.parts.values())])

    @property
    def times(self) -> Float64[np.ndarray, " S"]:
        """Return times from begin to end, in seconds."""
        return np.arange(self.ends[0], self.ends[1], EVERY)

    def lacking_in(self, other: "Recording") -> Bool[np.ndarray, " S"]:
        """Return whether each of `times` is in a part that another recording lacks."""
        return inside(self.times, [span for part, span in self.parts.items() if part not in other.parts])


Pair = tuple[Recording, Recording]


def inside(times: Float64[np.ndarray, " S"], spans: Sequence[tuple[float, float]]) -> Bool[np.ndarray, " S"]:
    """Return whether times are in one of the spans."""
    answer = np.zeros(len(times), bool)
    for start, end in spans:
        answer |= (start <= times) & (times < end)
    return answer


def actions(truth: Attributes, start: float, end: float) -> Parts:
    """Return the sub-actions of a clip."""
    times = np.arange(start, end, 0.01)
    names = [moment(truth.sequence, truth.speed, end - start, now - start).action for now in times.tolist()]
    spans = {name: np.flatnonzero(np.array(names) == name) for name in truth.sequence}
    return {name: (float(times[at[0]]), float(times[at[-1]]) + 0.01) for name, at in spans.items()}


def relation(first: Recording, second: Recording) -> str:
    """Return how the parts of two recordings are related."""
    if list(first.parts) == list(second.parts):
        return "same parts"
    shared = [[p for p in one.parts if p in other.parts] for one, other in ((first, second), (second, first))]
    return "some parts missing" if shared[0] == shared[1] else "another order"


def drawn_pairs(view: View, world: Path, most: int) -> dict[tuple[str, str], list[Pair]]:
    """Return pairs by kind and split."""
    truth = read_world(world / "attributes.jsonl")
    groups: dict[tuple[str, str], dict[str, dict[str, Recording]]] = {}
    frame = view.catalog.frame(["key", "video", "start", "end", "step", "activity", "split"])[filled_rows(view)]
    for row in frame.sort("video", "start").iter_rows(named=True):
        if row["key"] not in truth:
            continue
        for kind, group in (("clips", row["step"]), ("videos", row["activity"])):
            videos = groups.setdefault((kind, row["split"]), {}).setdefault(group, {})
            recording = videos.setdefault(row["video"], Recording())
            recording.keys.append(row["key"])
            if kind == "clips":
                recording.parts.update(actions(truth[row["key"]], row["start"], row["end"]))
            else:
                recording.parts[row["step"]] = row["start"], row["end"]
    pairs = {}
    for place, by_group in groups.items():
        both = [pair for group in by_group.values() for pair in itertools.combinations(group.values(), 2)]
        both = [(one, other) for one, other in both if one.parts.keys() & other.parts.keys()]
        pairs[place] = random.Random(0).sample(both, min(most, len(both)))
    return pairs


def errors(
    first: Recording, second: Recording, knots: tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]
) -> tuple[float, float]:
    """Return the mean error in seconds of a piecewise linear map, and the share of times that it maps into the right
    part, over the parts that both have."""
    apart, right = [], []
    for part in first.parts.keys() & second.parts.keys():
        (start, end), (to, until) = first.parts[part], second.parts[part]
        times = np.arange(start, end, EVERY)
        warped = np.interp(times, *knots)
        apart.append(abs(warped - (to + (times - start) / (end - start) * (until - to))))
        right.append((to <= warped) & (warped < until))
    return float(np.concatenate(apart).mean()), float(np.concatenate(right).mean())


def run(options: Options) -> dict[str, Any]:
    """Return the record: errors of times by kind of pair, and precision and recall of spans."""
    view = Store.open(options.store).view("clips", options.view)
    words = WordHead.load(options.words) if options.words else None
    terms = words.of_category(options.category)[0] if words and options.category else slice(None)
    cache: dict[str, Moments] = {}

    def moments(recording: Recording) -> Moments:
        name = " ".join(recording.keys)
        if name not in cache:
            one = read_moments(view, recording.keys)
            cache[name] = Moments(words.evidence(one.vectors)[:, terms], one.seconds, one.clip) if words else one
        return cache[name]

    def agreement(pairs: list[Pair], margin: float) -> tuple[float, float, float]:
        """Return seconds in spans of the alignments that are true, in spans, and that are true."""
        said, true = [], []
        for first, second in pairs:
            alignment = align(moments(first), moments(second), margin)
            said += [inside(first.times, alignment.only_first), inside(second.times, alignment.only_second)]
            true += [first.lacking_in(second), second.lacking_in(first)]
        flat = np.concatenate(said), np.concatenate(true)
        return tuple(float(each.mean()) for each in (flat[0] & flat[1], *flat))  # type: ignore[return-value]

    def f1(right: float, said: float, true: float) -> float:
        return 2 * right / max(said + true, 1e-9)

    drawn = drawn_pairs(view, Path(options.world), options.pairs)
    rows, spans, races = [], [], []
    for kind in ("clips", "videos"):
        results: dict[str, list[tuple[float, ...]]] = {}
        for first, second in drawn[kind, "test"]:
            alignment = align(moments(first), moments(second))
            warped = errors(first, second, (first.times, alignment.warp(first.times)))
            stretched = errors(first, second, (first.ends, second.ends))
            results.setdefault(relation(first, second), []).append((*warped, *stretched))
        for related, values in sorted(results.items()):
            names = ("seconds", "right part", "linear seconds", "linear right part")
            figures = {name: round(float(np.mean(column)), 3) for name, *column in zip(names, *values, strict=True)}
            rows.append({"pairs of": kind, "with": related, "pairs": len(values), **figures})
            if (linear := figures["linear seconds"]) > 0.05:
                races.append(race(f"{kind}, {related}", linear, figures["seconds"], 1.0, "linear stretching"))
        margin = max(MARGINS, key=lambda each: f1(*agreement(drawn[kind, "val"], each)))
        right, said, true = agreement(drawn[kind, "test"], margin)
        figures = {"precision": right / max(said, 1e-9), "recall": right / true, "F1": f1(right, said, true)}
        figures["F1 of everything"] = f1(true, 1, true)
        spans.append({"pairs of": kind, "margin": margin} | {name: round(value, 3) for name, value in figures.items()})
    return {"rows": rows, "spans": spans, "races": races}


main = benchmark("alignment", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
