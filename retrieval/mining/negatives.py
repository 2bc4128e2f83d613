"""DiffMCQ questions from a DiffCap test set and the store: three hard negatives for every
difference text.

All computations are in float64. A pair's embedding is (r + c) / 2 of its clips' embeddings, each
divided by its L2 norm. For a question, the other distinct (reference, candidate) pairs of the test
set are walked by the L2 distance of their embeddings to the true pair's; pairs at equal distance
keep the order of their first appearance. A pair is skipped

- in V1 if it shares a clip with the true pair,
- in V2 if it is the true pair, or the true pair reversed; supplement S5 excludes only the pair
  itself, which `allow_reversed` does too: the reversed pair has the same embedding, so it becomes
  the first option,
- in both if one of its difference texts in the question's category has a cosine above the threshold
  to the question's text: supplement S5 takes such texts for equivalent,
- in all variants, with the attributes of a rendered world (`--truth`), if the question's text is as
  true of it (stepdiff.kitchen.truth.as_true_by): nobody could tell it from the true pair,

and the walk stops at three pairs. V3 keeps the reference or the candidate and draws three other
clips of the test set for the other place, regardless of distance or text, but never the true pair
reversed.

The walk is compiled. A float32 matrix product estimates the distances of a block of true pairs to
all pairs. The pairs with the smallest estimates are sorted by their exact distance, and the walk
stops where this order is no longer certain. If that is not enough, all pairs are sorted.

Guarantees
- a clip without features is refused, so every question can be answered
- the compiled walk sorts few pairs, with the result of walking all of them
- random draws depend on the seed and the question's content, not on its position in the file
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from retrieval.exact import compiled
from retrieval.vectors import fill_command, normalised
from retrieval.verbs.files import Negatives
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.tables import short
from stepdiff_core.progress import progress
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.testsets import DiffMCQ, Pair, read_test_set, write_test_set
from stepdiff_core.threads import each, shares
from store import Store, View, text_key
from store.view import OK

NEGATIVES = 3
BLOCK = 512  # true pairs estimated at a time
SHORTLIST = 256  # pairs sorted exactly at first

Variant = Literal["V1", "V2", "V3"]
# clips that a negative may share with the true pair; 2: the reversed pair as well
MOST_SHARED = {"V1": 0, "V2": 1}
AsTrue = Callable[[str, str, Pair, Pair], bool]
"""text, category, its pair, another pair -> whether the text is as true of the other pair"""

Texts = Float64[np.ndarray, "texts text_dim"]
PairClips = Int64[np.ndarray, "pairs 2"]
OfQuestions = Int64[np.ndarray, " questions"]


class Questions(NamedTuple):
    """The questions of a test set as arrays, sorted by pair and category."""

    clips: PairClips  # positions of each pair's reference and candidate among the clips
    bounds: Int64[np.ndarray, " groups_and_one"]
    """questions bounds[p * categories + c] to bounds[p * categories + c + 1] belong to pair p in
    category c, and thereby all difference texts of that pair in that category"""
    text: OfQuestions  # position of each question's text among the texts
    texts: Texts  # normalised embeddings
    as_true: Bool[np.ndarray, "questions pairs_or_none"]
    """whether each question's text is as true of a pair as of its own; no column: unknown"""


class Estimates(NamedTuple):
    """Of some true pairs to all pairs."""

    squares: Float32[np.ndarray, "true pairs"]  # of their distances
    limits: Float64[np.ndarray, " true"]  # up to which pairs are sorted
    certain: Float64[np.ndarray, " true"]  # the distance up to which the order is then complete


def walk(
    questions: Questions,
    averages: Float64[np.ndarray, "pairs dim"],
    most_shared: int,
    threshold: float,
) -> tuple[Int64[np.ndarray, "questions 3"], Bool[np.ndarray, " questions"]]:
    """Return the positions of the first three pairs that each question's walk keeps, -1 if there
    are fewer, and whether it passed a pair that the text is as true of.

    A pair is kept if it is not the true pair, shares at most `most_shared` clips with it, none of
    its texts in the question's category has a cosine above `threshold` to the question's text, and
    the text is not as true of it.
    """
    negatives = np.full((len(questions.text), NEGATIVES), -1, np.int64)
    passed = np.zeros(len(questions.text), np.bool_)
    squares, ones = np.sum(averages * averages, axis=-1), np.ones(len(averages))
    one = np.column_stack([-2 * averages, squares, ones]).astype(np.float32)
    # one @ other is the squared distance
    other = np.column_stack([averages, ones, squares]).astype(np.float32)
    with progress("walked pairs", len(averages)) as advance:
        for start in range(0, len(averages), BLOCK):
            estimates = _reach(one[start : start + BLOCK] @ other.T, averages.shape[1])

            def some(part: tuple[int, int]) -> None:
                near = Estimates(*(array[slice(*part)] for array in estimates))  # noqa: B023
                at = start + part[0]  # noqa: B023
                _walk_some(at, near, averages, questions, most_shared, threshold, negatives, passed)

            each(some, shares(len(estimates.squares)))
            advance(len(estimates.squares))
    return negatives, passed


def error_of(dim: int) -> float:
    """Return twice the error bound of an estimated squared distance of vectors no longer than 1.

    It is Higham's bound of a float32 sum of `dim` + 2 products whose magnitudes sum to 4.
    """
    return 8 * (dim + 8) * 2.0**-24


def _reach(estimates: Float32[np.ndarray, "true pairs"], dim: int) -> Estimates:
    """Return the estimates, and how far they reach."""
    limits = np.full(len(estimates), np.inf)
    if SHORTLIST < estimates.shape[1]:
        limits = np.partition(estimates, SHORTLIST, axis=1)[:, SHORTLIST].astype(np.float64)
    squares = limits - error_of(dim)
    return Estimates(estimates, limits, np.where(squares > 0, np.sqrt(np.abs(squares)), -1.0))


@compiled
def _walk_some(
    first: int,
    near: Estimates,
    averages: Float64[np.ndarray, "pairs dim"],
    questions: Questions,
    most_shared: int,
    threshold: float,
    negatives: Int64[np.ndarray, "questions 3"],
    passed: Bool[np.ndarray, " questions"],
) -> None:
    """Fill `negatives` and `passed` for the questions of some true pairs, those from `first`."""
    clips, bounds, text, texts, as_true = questions
    categories = (len(bounds) - 1) // len(clips)
    for at in range(len(near.squares)):
        pair, limit, reach, filled = first + at, near.limits[at], near.certain[at], False
        while not filled:
            others = np.flatnonzero(near.squares[at] <= limit)
            distances = np.array([distance(averages[other], averages[pair]) for other in others])
            # stable: equal distances keep the order of the pairs
            order = np.argsort(distances, kind="mergesort")
            filled = True
            for category in range(categories):
                group = pair * categories + category
                for question in range(bounds[group], bounds[group + 1]):
                    count = 0
                    for place in order:
                        if count == negatives.shape[1] or distances[place] > reach:
                            break
                        other = others[place]
                        theirs = other * categories + category
                        if (
                            other != pair
                            and _shared(clips[other], clips[pair]) <= most_shared
                            and not _alike(
                                texts,
                                text[question],
                                text[bounds[theirs] : bounds[theirs + 1]],
                                threshold,
                            )
                        ):
                            if as_true.shape[1] > 0 and as_true[question, other]:
                                passed[question] = True
                                continue
                            negatives[question, count] = other
                            count += 1
                    filled = filled and count == negatives.shape[1]
            filled = filled or limit == np.inf
            limit = reach = np.inf


@compiled
def distance(a: Float64[np.ndarray, " dim"], b: Float64[np.ndarray, " dim"]) -> float:
    """Return the L2 distance."""
    total = 0.0
    for d in range(len(a)):
        total += (a[d] - b[d]) * (a[d] - b[d])
    return np.sqrt(total)


@compiled
def _shared(one: Int64[np.ndarray, " 2"], other: Int64[np.ndarray, " 2"]) -> int:
    return int(one[0] == other[0] or one[0] == other[1]) + int(
        one[1] == other[0] or one[1] == other[1]
    )


@compiled
def _alike(texts: Texts, text: int, others: Int64[np.ndarray, " others"], threshold: float) -> bool:
    """Return whether the cosine of a text to one of the others is above the threshold."""
    for other in others:
        cosine = 0.0
        for d in range(texts.shape[1]):
            cosine += texts[text, d] * texts[other, d]
        if cosine > threshold:
            return True
    return False


@dataclass(frozen=True)
class StatedDifference:
    """One text of one row, about a pair in a category."""

    pair: Pair
    category: str
    text: str


class StatedDifferences:
    """The differences of a DiffCap test set in its order, and its pairs, clips and texts."""

    __test__ = False  # keeps pytest from collecting it

    def __init__(self, differences: Iterable[StatedDifference]) -> None:
        self.differences = list(differences)
        self.pairs = list(dict.fromkeys(one.pair for one in self.differences))
        self.clips = list(dict.fromkeys(clip for one in self.differences for clip in one.pair))
        self.texts = list(dict.fromkeys(one.text for one in self.differences))


@dataclass(frozen=True)
class Drawn:
    """The questions, and how many were dropped or changed."""

    questions: list[DiffMCQ]
    dropped: int
    """those without three negatives"""
    passed: int = 0
    """those with a nearer pair that is no negative, because the text is as true of it"""


def hard_negatives(
    test_set: StatedDifferences,
    clips: Float64[np.ndarray, "clips dim"],
    texts: Texts,
    variant: Literal["V1", "V2"],
    threshold: float,
    seed: int,
    allow_reversed: bool = False,
    as_true: AsTrue | None = None,
) -> Drawn:
    """Return the questions of V1 or V2 from the normalised embeddings of `test_set.clips` and
    `test_set.texts`.

    allow_reversed: V2 may have the true pair reversed as an option; as_true: by the truth of a
    rendered world.
    """
    place = {clip: at for at, clip in enumerate(test_set.clips)}
    pairs = np.array([[place[clip] for clip in pair] for pair in test_set.pairs])
    averages = (clips[pairs[:, 0]] + clips[pairs[:, 1]]) / 2
    arrays, order = _arrays(test_set, pairs, texts, as_true)
    drawn = np.empty((len(order), NEGATIVES), np.int64)
    drawn[order], passed = walk(
        arrays, averages, 2 if allow_reversed else MOST_SHARED[variant], threshold
    )
    questions = []
    for one, negatives in zip(test_set.differences, drawn.tolist(), strict=True):
        if negatives[-1] >= 0:
            questions.append(
                _question(one, [test_set.pairs[at] for at in negatives], _source(seed, one))
            )
    return Drawn(questions, len(test_set.differences) - len(questions), int(passed.sum()))


def _arrays(
    test_set: StatedDifferences,
    pairs: PairClips,
    texts: Texts,
    as_true: AsTrue | None,
) -> tuple[Questions, OfQuestions]:
    """Return the questions as arrays, and the difference of each."""
    pair = {name: at for at, name in enumerate(test_set.pairs)}
    text = {words: at for at, words in enumerate(test_set.texts)}
    category = {
        name: at
        for at, name in enumerate(dict.fromkeys(one.category for one in test_set.differences))
    }
    groups = np.array(
        [pair[one.pair] * len(category) + category[one.category] for one in test_set.differences]
    )
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(len(pair) * len(category) + 1))
    places = np.array([text[one.text] for one in test_set.differences])
    of_pairs = np.zeros((len(order), 0), np.bool_)
    if as_true is not None:
        ones = [test_set.differences[at] for at in order]
        of_pairs = np.array(
            [[as_true(one.text, one.category, one.pair, p) for p in test_set.pairs] for one in ones]
        )
    return Questions(pairs, bounds, places[order], texts, of_pairs), order


def random_negatives(
    test_set: StatedDifferences, seed: int, as_true: AsTrue | None = None
) -> Drawn:
    """Return the questions of V3: one clip of the true pair stays, the other is drawn from the test
    set."""
    questions, passed = [], 0
    for one in test_set.differences:
        draw = _source(seed, one)
        keep_reference = draw.random() < 0.5
        spare = NEGATIVES + len(one.pair)  # the draw may contain the pair's own clips
        drawn = draw.sample(test_set.clips, min(spare, len(test_set.clips)))
        reference, candidate = one.pair
        pairs = [
            (reference, x) if keep_reference else (x, candidate) for x in drawn if x not in one.pair
        ]
        if as_true is not None:
            wrong = [pair for pair in pairs if not as_true(one.text, one.category, one.pair, pair)]
            passed += wrong[:NEGATIVES] != pairs[:NEGATIVES]
            pairs = wrong
        if len(pairs) >= NEGATIVES:
            questions.append(_question(one, pairs[:NEGATIVES], draw))
    return Drawn(questions, len(test_set.differences) - len(questions), passed)


def _source(seed: int, one: StatedDifference) -> random.Random:
    return random.Random(json.dumps([seed, *one.pair, one.category, one.text]))


def _question(one: StatedDifference, negatives: list[Pair], draw: random.Random) -> DiffMCQ:
    options = [one.pair, *negatives]
    draw.shuffle(options)
    return DiffMCQ(one.text, one.category, tuple(options), one.pair)


def write_questions(options: Negatives) -> dict[str, Any]:
    """Write the questions of a DiffCap file; return the counts.

    Raises StepDiffError: no question has three negatives, or features are missing; it names the
    command that adds them.
    """
    store, view = options.opened()
    variant, seed = options.variant, options.seed
    if options.allow_reversed and variant != "V2":
        raise StepDiffError(
            f"--allow-reversed is for V2; {variant} never has the true pair reversed"
        )
    rows = read_test_set("diffcap", options.test_set)
    test_set = StatedDifferences(
        StatedDifference((row.reference, row.candidate), row.category, text)
        for row in rows
        for text in row.text
    )
    if not test_set.differences:
        raise StepDiffError(
            f"the test set {options.test_set} contains no difference text: name a DiffCap file"
        )
    of_clips = _rows_of_clips(store, view, test_set.clips)
    as_true = registry.truth_of(options.truth, "as_true_by")
    if variant == "V3":
        drawn = random_negatives(test_set, seed, as_true)
    else:
        clips = normalised(view, options.feature, of_clips)
        texts = _texts(store, options.text_view, test_set, options.test_set)
        reversed_too, threshold = options.allow_reversed, options.threshold
        drawn = hard_negatives(
            test_set, clips, texts, variant, threshold, seed, reversed_too, as_true
        )
    if not drawn.questions:
        raise StepDiffError(
            f"none of the {drawn.dropped} differences of {options.test_set} has three negatives: "
            "the test set needs more pairs"
        )
    write_test_set("diffmcq", options.out, drawn.questions)
    counts = {"questions": len(drawn.questions), "dropped": drawn.dropped}
    settings = {"variant": variant, "seed": seed, "threshold": options.threshold}
    reversed_ = {"allow_reversed": True} if options.allow_reversed else {}
    truth = {} if as_true is None else {"as_true_passed": drawn.passed, "truth": str(options.truth)}
    return {**counts, **settings, **reversed_, **truth, "out": str(options.out)}


def _rows_of_clips(store: Store, view: View, clips: Sequence[str]) -> Int64[np.ndarray, " clips"]:
    rows = store.catalog("clips").rows(clips)
    missing = np.flatnonzero(~_filled(view, rows))
    if len(missing):
        raise StepDiffError(
            f"{_and_more(clips[missing[0]], len(missing))} of the test set have no features in "
            f"clips/{view.name} of {store.path}: run "
            f"{fill_command(store.path, view.name, view.provenance.encoder, 'CLIPS.csv')}, or "
            "remove the rows of failed clips from the test set"
        )
    return rows


def _texts(store: Store, name: str, test_set: StatedDifferences, file: Path) -> Texts:
    view = store.view("texts", name) if name in store.views("texts") else None
    rows = store.catalog("texts").rows([text_key(text) for text in test_set.texts])
    missing = np.flatnonzero(~_filled(view, rows)) if view is not None else np.arange(len(rows))
    if view is None or len(missing):
        encoder = view.provenance.encoder if view is not None else name
        first = repr(short(test_set.texts[missing[0]]))
        raise StepDiffError(
            f"{_and_more(first, len(missing))} of the difference texts are not in texts/{name} of "
            f"{store.path}: run {fill_command(store.path, name, encoder, file)}"
        )
    return normalised(view, "embedding", rows)


def _filled(view: View, rows: Int64[np.ndarray, " rows"]) -> np.ndarray:
    filled = rows >= 0
    filled[filled] = view.status()[rows[filled]] == OK
    return filled


def _and_more(first: str, count: int) -> str:
    return first if count == 1 else f"{first} and {count - 1} more"
