"""A head of words from a store: one pass that sums over its training clips, and the results of the
sums; and whether any head knows clips (`Guard`): those that it learned from, and the features that
it reads of others.

X [n, D] are the pooled features of n clips, Y [n, V] their labels. All that a ridge regression
needs are their sums: the Gram matrix of the standardised features is (X'X - n mm') / ss', with the
mean m and the spread s of X. A channel that is constant has weight 0; clips of split val choose the
ridge, and train nothing. Tokens and statistics have a regression each, whose mean predicts: one of
both together sees less (docs/guides/encoders.md).

Guarantees
- a pass that is killed after a minute resumes with the same bits, also by workers; sums of other
  features, texts or options are refused
- a term's evidence is calibrated on clips of videos that its weights have not seen
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
import scipy.linalg
import scipy.sparse as sparse
from jaxtyping import Bool, Float64, Int8, Int64, Integer

from heads.data.catalog_rows import Clips, of_keys, of_rows, united
from heads.data.clips import Features, split_texts
from heads.data.hold_out import VIDEO, HoldOut, test_digest
from heads.data.paired_qa import PairQuestions, clips_in, read_divided
from heads.data.training_clips import TrainedOn
from heads.evaluation.workers import results
from heads.evidence.familiarity import (
    Familiarity,
    Spread,
    as_stored,
    penalty,
    read_arrays,
    standardised,
    write_arrays,
)
from heads.evidence.head import (
    POOLING,
    READS,
    Evidence,
    Pooling,
    WordHead,
    channels_of,
    fold_of,
    pool,
    signed_roots,
)
from heads.evidence.wording import CLIPS, OF_ANSWERS, Wording, learn
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import make_folder, place
from stepdiff_core.progress import progress, say
from stepdiff_core.tasks.prompts import MAIN_ACTION
from stepdiff_core.tasks.testsets import HIGHEST_SCORE, DiffRank, clips_of, read_test_set
from stepdiff_core.weights import fingerprint
from stepdiff_core.workers.pool import WorkPart
from store import Catalog, Store
from store.lineage.answers import read_of, write_record

if TYPE_CHECKING:
    from heads.words import WordOptions

FILE = "sums.safetensors"
"""in the folder of a head while a pass takes longer than SAVE_EVERY"""
SAVE_EVERY = 60.0
"""seconds between two saves of the sums: 100,000 clips of a thousand channels take more than an
hour on a core"""
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
PLAIN_RIDGE, PLAIN_FOLDS = 3.0, 5
"""of a head without evidence of words"""
VAL, FOLDS = "split val", "left-out folds"
"""names of the clips on which values are chosen"""
UNRECORDED = (
    "clips that an earlier version did not record, so that nothing tells which others it does not "
    "know"
)
_MOST_BYTES = 2**36  # of the sums
_AT_ONCE = 16
"""clips whose tokens are in memory"""
_MEASURED = 1024
"""clips left out whose leverage is measured"""
_NO_VARIANCE = 1e-6  # of predictions


class Sums(NamedTuple):
    """Sums over clips. D channels, V terms."""

    clips: Float64[np.ndarray, ""]
    x: Float64[np.ndarray, " D"]
    xx: Float64[np.ndarray, "D D"]
    xy: Float64[np.ndarray, "V D"]
    y: Float64[np.ndarray, " V"]
    yy: Float64[np.ndarray, " V"]

    @classmethod
    def zeros(cls, channels: int, terms: int) -> "Sums":
        """Return the sums over no clip."""
        shapes = ((), (channels,), (channels, channels), (terms, channels), (terms,), (terms,))
        return cls(*map(np.zeros, shapes))

    @classmethod
    def of(cls, values: Float64[np.ndarray, "n D"], labels: sparse.csr_matrix) -> "Sums":
        """Return the sums over n clips. labels: [n, V]."""
        y, yy = (
            np.asarray(each.sum(axis=0), np.float64)[0]
            for each in (labels, labels.multiply(labels).tocsr())
        )
        xy = np.asarray(labels.T.tocsr() @ values)
        return cls(np.array(float(len(values))), values.sum(axis=0), values.T @ values, xy, y, yy)

    def spread(self, ridge: float) -> Spread:
        return Spread.of(float(self.clips), self.x, self.xx, ridge)


def total(parts: Sequence[Sums]) -> Sums:
    """Return the sums over the clips of all parts, added in order."""
    return Sums(*(np.asarray(sum(arrays)) for arrays in zip(*parts, strict=True)))


class Pooled(Features):
    """The inputs of a head of words for clips: their tokens, statistics of early maps, or both."""

    def __init__(self, store: Store, view: str, pooling: Pooling) -> None:
        first, *others = READS[pooling]
        super().__init__(store, view, first)
        self.pooling = pooling
        self.parts: list[Features] = [self, *(Features(store, view, name) for name in others)]
        for part in self.parts:
            if len(part.shape) != 2:
                raise StepDiffError(
                    f"--view {view}: its {part.feature} are {list(part.shape)}, not [N, D]"
                )

    @classmethod
    def chosen(cls, options: "WordOptions", store: Store) -> "Pooled":
        """Return the features of --reads, or the features of a view that a head can read."""
        there = store.view("clips", options.view).features
        chosen = {name for name in ("tokens", "statistics") if name in (options.reads or there)}
        pooling = next((each for each, names in READS.items() if chosen == set(names)), POOLING)
        return cls(store, options.view, pooling)

    @property
    def sizes(self) -> list[int]:
        """Channels of each feature."""
        return [channels_of(self.view, [part.feature]) for part in self.parts]

    def of_frames(
        self, rows: Int64[np.ndarray, " n"], frames: int
    ) -> Float64[np.ndarray, "n frames D"]:
        """Return the pooled features of each frame of clips; statistics belong to the whole clip.
        frames: 1 is all."""
        parts = []
        for part in self.parts:
            values = part.read_rows(rows).numpy()
            if part.feature == "tokens":
                parts.append(pool(values.reshape(len(rows), frames, -1, values.shape[-1])))
            else:
                roots = signed_roots(values).reshape(len(rows), 1, -1)
                parts.append(roots.astype(np.float64).repeat(frames, axis=1))
        return np.concatenate(parts, axis=2)


def pooled(features: Pooled, rows: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, "n D"]:
    """Return the pooled features of each clip."""
    starts = range(0, len(rows), _AT_ONCE)
    return np.concatenate(
        [features.of_frames(rows[start : start + _AT_ONCE], 1)[:, 0] for start in starts]
    )


def reader(options: "WordOptions") -> Callable[[WorkPart], Float64[np.ndarray, "n D"]]:
    """Return the function that pools the features of a shard's clips in a worker."""
    features = Pooled.chosen(options, Store.open(options.store))
    return lambda shard: pooled(features, shard.rows)


class Counting:
    """A pass: the clips that count, the content of their texts, and the sums."""

    def __init__(self, options: "WordOptions", store: Store) -> None:
        """Read the texts. StepDiffError: they cannot be used."""
        self.options, self.store, self.folder = options, store, Path(options.out)
        self.validation: list[DiffRank] | None = None
        if options.validation is not None:
            self.validation = read_test_set("diffrank", options.validation)
        self.features = Pooled.chosen(options, store)
        self.catalog = store.catalog("clips")
        self.hold_out = HoldOut(options.hold_out, options.hold_out_by)
        self.hold_out.look_up(self.catalog)
        self.pairs: list[PairQuestions] = []
        if options.pairqa is not None:
            self.pairs, _ = read_divided(options.pairqa, self.catalog, self.hold_out)
        self.rows, self.groups = self._clips()
        self.wording = self._wording()
        if not self.wording.categories:
            raise StepDiffError(
                f"{options.pairqa}: no question has a `category`, and words are named by category: "
                'add "category" to '
                "its rows"
            )
        self.signs = self.wording.signs(self.pairs)
        sizes = sum(self.features.sizes), len(self.wording.terms)
        self.sums = [Sums.zeros(*sizes) for _ in range(options.folds + 1)]
        """of each fold of the training clips, and of the clips of split val"""

    def _clips(self) -> tuple[Int64[np.ndarray, " n"], Int8[np.ndarray, " n"]]:
        """Return rows and groups of the clips that count, by row."""
        options, folds = self.options, self.options.folds
        texts = partial(split_texts, self.catalog, options.narration, self.features)
        held = self.hold_out.clips["key"].implode()
        val = (block.filter(~pl.col("key").is_in(held)) for block in texts("val"))
        rows, groups = [], []
        for blocks, is_val in (
            (self.hold_out.kept(texts("train"), options.narration), False),
            (val, True),
        ):
            for block in blocks:
                videos = block.select(pl.coalesce(VIDEO, "key"))["video"]
                rows.append(block["row"].to_numpy())
                groups.append(
                    np.array(
                        [folds if is_val else fold_of(video, folds) for video in videos], np.int8
                    )
                )
        every, of = np.concatenate(rows).astype(np.int64), np.concatenate(groups)
        if len(np.unique(of[of < folds])) < 2:
            raise StepDiffError(
                f"{options.store}: its clips of split train with {options.view} features and a "
                f"text in column {options.narration} are of too few videos; featurize more, or "
                "give a smaller --hold-out"
            )
        order = np.argsort(every, kind="stable")
        return every[order], of[order]

    def _wording(self) -> Wording:
        """Learn the wording of the texts."""
        column = {"key": pl.String, self.options.narration: pl.String}
        train = self.rows[self.groups < self.options.folds]
        texts = (
            text
            for block in of_rows(self.catalog, train[:CLIPS], column)
            for text in block[self.options.narration]
        )
        narrated = of_keys(
            self.catalog, clips_in(pair.clips for pair in self.pairs), column
        ).drop_nulls()
        return learn(
            texts, dict(narrated.iter_rows()), self.pairs, self.options.least, self.options.most
        )

    def _shards(self) -> list[WorkPart]:
        """Return the shards in order, each about the groups of its clips."""
        numbers = self.rows // self.features.view.rows_per_shard
        ends = np.flatnonzero(np.diff(numbers)) + 1
        parts = zip(
            *(np.split(values, ends) for values in (numbers, self.rows, self.groups)), strict=True
        )
        return [WorkPart(int(number[0]), rows, groups) for number, rows, groups in parts]

    def _narrated(self, shard: WorkPart) -> list[tuple[str, str]]:
        column = {"key": pl.String, self.options.narration: pl.String}
        return [
            row[1:]
            for block in of_rows(self.catalog, shard.rows, column)
            for row in block.iter_rows()
        ]

    def _digest(self, shards: Sequence[WorkPart]) -> str:
        """Return a digest of all that the sums depend on."""
        view, features = self.features.view, self.features
        about = (
            features.pooling,
            view.provenance.as_dict(),
            asdict(self.wording),
            list(self.signs.items()),
        )
        digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=16)
        columns = [view.checksummed.index(part.feature) for part in features.parts]
        for shard in shards:
            sums = np.ascontiguousarray(view.checksums(shard.rows)[:, columns])
            texts = json.dumps(self._narrated(shard)).encode()
            digest.update(
                b"".join((shard.rows.tobytes(), shard.about.tobytes(), sums.tobytes(), texts))
            )
        return digest.hexdigest()

    def run(self) -> None:
        """Sum over all shards, after the shards of a pass that was killed."""
        make_folder(self.folder)
        place(self.folder).remove_dead(deep=False)
        shards = self._shards()
        digest = self._digest(shards)
        done, saved = self._load(digest), time.monotonic()
        remaining = shards[done:]
        with progress("words", sum(len(shard.rows) for shard in remaining), "clips") as advance:
            for values in results(self.options, reader, reader(self.options), remaining, advance):
                self._add(shards[done], values)
                done += 1
                if time.monotonic() - saved > SAVE_EVERY and done < len(shards):
                    self._save(digest, done)
                    saved = time.monotonic()

    def _load(self, digest: str) -> int:
        """Read the sums that a killed pass left; return the number of their shards. 0: there are
        none of this data."""
        from safetensors import SafetensorError

        path = self.folder / FILE
        if not path.exists():
            return 0
        try:
            about, arrays = read_arrays(path, _MOST_BYTES)
            if about["digest"] != digest:
                raise ValueError("it is of other clips, texts or options")
            for group, sums in enumerate(self.sums):
                for name, array in sums._asdict().items():
                    np.copyto(array, arrays[f"{group}.{name}"].reshape(array.shape), casting="no")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StepDiffError(
                f"{path}: {error}; remove it, and the next run reads all clips"
            ) from error
        say(f"{self.folder}: continues after {about['shards']} shards")
        return int(about["shards"])

    def _save(self, digest: str, done: int) -> None:
        arrays = {
            f"{group}.{name}": array
            for group, sums in enumerate(self.sums)
            for name, array in sums._asdict().items()
        }
        write_arrays(self.folder / FILE, {"digest": digest, "shards": done}, arrays)

    def forget(self) -> None:
        """Remove the saved sums, once the head is written."""
        (self.folder / FILE).unlink(missing_ok=True)

    def _add(self, shard: WorkPart, values: Float64[np.ndarray, "n D"]) -> None:
        labels = self.wording.targets(self._narrated(shard), self.signs)
        for group in np.unique(shard.about):
            of_group = np.flatnonzero(shard.about == group)
            for mine, more in zip(
                self.sums[group], Sums.of(values[of_group], labels[of_group]), strict=True
            ):
                np.add(mine, more, out=mine)


@dataclass(frozen=True)
class Fit:
    """Linear predictions of the labels from features that are not standardised."""

    weights: Float64[np.ndarray, "V D"]
    bias: Float64[np.ndarray, " V"]


def fit(sums: Sums, ridges: Sequence[float], sizes: Sequence[int]) -> Iterator[Fit]:
    """Yield for each c of `ridges` the mean of the regressions on each standardised feature, with
    the penalty c * trace / D of its Gram matrix; the constant is not penalised. sizes: D of each
    feature."""
    mean, scale, gram = standardised(float(sums.clips), sums.x, sums.xx)
    shared = (sums.xy - np.outer(sums.y, mean)) * scale
    ends = np.cumsum(sizes).tolist()
    parts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    for ridge in ridges:
        weights = np.empty_like(shared)
        for part in parts:
            square = gram[part, part]
            factor = scipy.linalg.cho_factor(square + penalty(ridge, square) * np.eye(len(square)))
            weights[:, part] = (
                scipy.linalg.cho_solve(factor, shared[:, part].T).T * scale[part] / len(sizes)
            )
        yield Fit(weights, sums.y / sums.clips - weights @ mean)


def moments(model: Fit, sums: Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each term, over the clips of `sums`, the sum of its prediction, of the label times
    the prediction, and of the prediction squared. Each is [V]."""
    weights, bias = model.weights, model.bias
    linear = weights @ sums.x
    return (
        linear + sums.clips * bias,
        np.einsum("vd,vd->v", weights, sums.xy) + bias * sums.y,
        np.einsum("vd,vd->v", weights @ sums.xx, weights)
        + 2 * bias * linear
        + sums.clips * bias**2,
    )


def squared_errors(model: Fit, sums: Sums) -> Float64[np.ndarray, " V"]:
    """Return the sum of squared errors of each term over the clips of `sums`."""
    _, product, square = moments(model, sums)
    return sums.yy - 2 * product + square


@dataclass(frozen=True)
class Calibration:
    """Two Gaussians of one variance: predictions for labels 1 of a term, and for labels 0."""

    with_term: Float64[np.ndarray, " V"]
    """mean where the label is 1"""
    without: Float64[np.ndarray, " V"]
    variance: Float64[np.ndarray, " V"]

    @property
    def distance(self) -> Float64[np.ndarray, " V"]:
        """d': distance of the means in standard deviations, at least 0."""
        return np.maximum(self.with_term - self.without, 0) / np.sqrt(self.variance)

    def log_odds(self, model: Fit) -> Fit:
        """Return the predictions as log-odds of the term, without its prior."""
        slope = np.maximum(self.with_term - self.without, 0) / self.variance
        middle = (self.with_term + self.without) / 2
        return Fit(model.weights * slope[:, None], (model.bias - middle) * slope)


def calibrate(models: Sequence[Fit], parts: Sequence[Sums]) -> Calibration:
    """Return the Gaussians of predictions. models: for each part, one that was fitted without
    it."""
    means, products, squares = (
        sum(each) for each in zip(*map(moments, models, parts), strict=True)
    )
    clips, y = sum(part.clips for part in parts), sum(part.y for part in parts)
    with_term = products / np.maximum(y, 1)
    without = (means - products) / np.maximum(clips - y, 1)
    # of weighted points: sum w (p - m)^2 = sum w p^2 - 2 m sum w p + m^2 sum w, over labels and
    # their complements
    spread = squares - 2 * with_term * products + with_term**2 * y
    spread += -2 * without * (means - products) + without**2 * (clips - y)
    return Calibration(with_term, without, np.maximum(spread, 0) / clips + _NO_VARIANCE)


def fitted(counting: Counting, began: float) -> WordHead:
    """Return the head. began: when the run did, by time.monotonic."""
    options, wording = counting.options, counting.wording
    *folds, val = counting.sums
    train = total(folds)
    of_categories = {term for shares in wording.categories.values() for term in shares}
    of_category = np.array([term in of_categories for term in wording.terms])
    sizes = counting.features.sizes
    ridge, chosen_on = _ridge(counting.sums, of_category, sizes)
    models = [
        model for part in (train, *without_each(folds)) for model in fit(part, [ridge], sizes)
    ]
    calibration = calibrate(models[1:], folds)
    visible = np.flatnonzero(calibration.distance >= options.least_distance)
    if not of_category[visible].any():
        best = sorted(np.flatnonzero(of_category), key=lambda place: -calibration.distance[place])[
            :3
        ]
        nearest = ", ".join(
            f"{wording.terms[place]} ({calibration.distance[place]:.2f}, in {train.y[place]:.0f} "
            "clips)"
            for place in best
        )
        raise StepDiffError(
            f"no word of a category can be seen in {options.view}: none has d' of "
            f"{options.least_distance} between the {train.clips:.0f} clips with and without it; "
            f"nearest are {nearest}; give more clips that name them, or a smaller --least-distance"
        )
    odds = [calibration.log_odds(model) for model in models]
    familiarity = _familiarity(counting, ridge)
    errors = sum(squared_errors(model, part) for model, part in zip(models[1:], folds, strict=True))
    about: dict[str, Any] = {
        "view": options.view,
        "provenance": counting.features.view.provenance.as_dict(),
        "pooling": counting.features.pooling,
        "options": {
            name: getattr(options, name)
            for name in ("narration", "least", "folds", "least_distance")
        },
        "clips": {"train": int(train.clips), "val": int(val.clips)},
        "ridge": {"value": ridge, "chosen_on": chosen_on},
        "distance": calibration.distance[visible].round(4).tolist(),
        "frequency": (train.y / train.clips)[visible].round(6).tolist(),
        "declines": None,
    }
    terms = tuple(wording.terms[place] for place in visible)
    head = WordHead(
        Path(options.out),
        about,
        terms,
        as_stored(np.stack([model.weights[visible] for model in odds])),
        as_stored(np.stack([model.bias[visible] for model in odds])),
        as_stored((errors / train.clips / calibration.variance)[visible]),
        familiarity,
        narrated=frozenset(wording.narrated).intersection(terms),
        **{name: getattr(wording, name) for name in OF_ANSWERS},
    )
    if counting.validation is not None:
        about["declines"] = declines(
            head, counting.features, counting.validation, str(options.validation)
        )
    about["seconds"] = round(time.monotonic() - began, 1)
    return head


def _familiarity(counting: Counting, ridge: float) -> Familiarity:
    """Return the familiarity of the training clips; clips of split val give its limit, or else the
    left-out folds."""
    *folds, _ = counting.sums
    named, tests = left_out(counting.sums)
    leverages = []
    for group, rest in tests:
        if len(rows := some_of(counting.rows[counting.groups == group])):
            leverages.append(rest.spread(ridge).leverage(pooled(counting.features, rows)))
    rows, train = counting.rows[counting.groups < len(folds)], total(folds)
    steps = steps_of(counting.store.catalog("clips"), rows)
    return Familiarity.learned(
        train.spread(ridge), len(rows), steps, np.concatenate(leverages), named
    )


def some_of(rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Return at most _MEASURED of some rows, evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), _MEASURED), dtype=int)]


def steps_of(catalog: Catalog, rows: Int64[np.ndarray, " n"]) -> dict[str, int]:
    """Return the steps of some clips of the catalog, each with its number of clips."""
    steps = pl.concat(
        [block["step"] for block in of_rows(catalog, rows, {"step": pl.String})]
    ).drop_nulls()
    return dict(steps.value_counts().iter_rows())


def left_out(sums: Sequence[Sums]) -> tuple[str, Iterator[tuple[int, Sums]]]:
    """Return the name of the clips on which values are chosen, and for each group of them the sums
    over the other training clips. sums: of each fold, and of split val."""
    *folds, val = sums
    return (
        (VAL, iter([(len(folds), total(folds))]))
        if val.clips
        else (FOLDS, enumerate(without_each(folds)))
    )


def without_each(folds: Sequence[Sums]) -> Iterator[Sums]:
    """Yield the sums without each fold."""
    return (total([other for other in folds if other is not fold]) for fold in folds)


def _ridge(
    sums: Sequence[Sums], of_category: Bool[np.ndarray, " V"], sizes: Sequence[int]
) -> tuple[float, str]:
    """Return the penalty with the least squared error, and the name of the clips that it is
    measured on.

    The error of a term is relative to the error of its mean, and a term that cannot be predicted
    counts as its mean: most words cannot be seen, and all of them would choose the largest penalty.
    """
    name, tests = left_out(sums)
    if name == FOLDS:
        say(
            "no clip of split val: the ridge is chosen by the error on training clips, each fold "
            "left out once"
        )
    errors, of_means = np.zeros((len(RIDGES), len(of_category))), np.zeros(len(of_category))
    for group, rest in tests:
        means = Fit(np.zeros_like(rest.xy), rest.y / rest.clips)
        of_means += squared_errors(means, sums[group])
        errors += [squared_errors(model, sums[group]) for model in fit(rest, RIDGES, sizes)]
    predictable = of_category & (of_means > 0)
    explained = np.maximum(1 - errors[:, predictable] / of_means[predictable], 0).sum(axis=1)
    return RIDGES[int(np.argmax(explained))], name


def declines(
    head: WordHead, features: Pooled, rows: Sequence[DiffRank], source: str
) -> dict[str, Any]:
    """Return the distance of each category below which two clips agree, and the distance of the
    main action from which they show different ones, by scored pairs.

    A category whose pairs all agree, or none, gets the distance of all pairs. The main action's
    distance is None if the head has no words of it, or all pairs are of one step, or none. source:
    the file of the rows.
    """
    evidence = evidence_of(head, features, clips_in(map(clips_of, rows)))
    pairs = [
        (row.category, evidence[row.reference], evidence[target], score)
        for row in rows
        for target, score in zip(row.targets, row.scores, strict=True)
    ]
    scored = [
        (category, head.distance(one, other, category), score == HIGHEST_SCORE)
        for category, one, other, score in pairs
        if category in head.known_categories
    ]
    if len({agree for *_, agree in scored}) < 2:
        raise StepDiffError(
            f"--validation {source}: it needs pairs of score {HIGHEST_SCORE} and others in "
            f"{head.folder}'s categories"
        )
    of_all = _threshold([(distance, agree) for _, distance, agree in scored])
    below, right = {}, []
    for category in head.known_categories:
        of_category = [(distance, agree) for name, distance, agree in scored if name == category]
        below[category] = (
            _threshold(of_category) if len({agree for _, agree in of_category}) == 2 else of_all
        )
        right += [(agree, (distance < below[category]) == agree) for distance, agree in of_category]
    other_action = None
    if MAIN_ACTION in head.known_categories and len({score > 0 for *_, score in pairs}) == 2:
        other_action = _threshold(
            [(head.distance(one, other, MAIN_ACTION), score > 0) for _, one, other, score in pairs]
        )
    shares = [
        np.mean([correct for agree, correct in right if agree == each]) for each in (True, False)
    ]
    accuracy = round(float(np.mean(shares)), 4)
    return {
        "below": below,
        "other_action": other_action,
        "balanced_accuracy": accuracy,
        "rows": len(scored),
    }


def _threshold(pairs: Sequence[tuple[float, bool]]) -> float:
    """Return the distance that separates pairs that agree from the others with the best balanced
    accuracy."""
    distances, agree = (np.array(values) for values in zip(*sorted(pairs), strict=True))
    # the first n are declined: agreeing ones among them
    below = np.append(0, np.cumsum(agree)) / agree.sum()
    above = 1 - np.append(0, np.cumsum(~agree)) / (~agree).sum()
    best = int(np.argmax(below + above))
    edges = np.concatenate([[0.0], distances, [2 * distances[-1] + 1]])
    return float((edges[best] + edges[best + 1]) / 2)


def evidence_of(head: WordHead, features: Pooled, clips: Sequence[str]) -> dict[str, Evidence]:
    """Return the evidence of clips; evidence of training clips comes from other videos.
    StepDiffError: one has no features."""
    means, videos = pooled(features, features.rows(clips)), training_videos(features.catalog, clips)
    return dict(zip(clips, head.evidence(means, [videos.get(clip) for clip in clips]), strict=True))


def training_videos(catalog: Clips, clips: Sequence[str]) -> dict[str, str]:
    """Return the video of each clip of split train."""
    rows = of_keys(catalog, clips, dict.fromkeys(("key", "split", "video"), pl.String))
    return dict(
        rows.filter(pl.col("split") == "train").select("key", pl.coalesce(VIDEO, "key")).iter_rows()
    )


def keep_lineage(counting: Counting) -> None:
    """Write the head's inputs and training clips, as a head of heads.train does."""
    options, rows = counting.options, counting.rows[counting.groups < counting.options.folds]
    store, folder = counting.store, Path(options.out)
    make_folder(folder)
    lineage = {
        "reads": {"clips": counting.features.view.provenance.as_dict()},
        "store": read_of(store, {"clips": options.view}),
        "init": None,
        "regime": "s1",
        "data": {
            **{source: test_digest(source) for source in options.hold_out},
            **{
                file: fingerprint(file)
                for file in (options.pairqa, options.validation)
                if file is not None
            },
        },
        "hold_out": counting.hold_out.record(),
        "trained_on": TrainedOn.of_catalog(counting.catalog, [rows]).write(folder),
    }
    write_record(folder, lineage)
    for line in counting.hold_out.lines():
        say(line)


@dataclass(frozen=True)
class Guard:
    familiarity: Familiarity | None
    """None: a run of an earlier version, which recorded none"""
    features: Pooled

    @classmethod
    def of_run(cls, folder: Path, store: Store, view: str) -> "Guard":
        """Return the guard of a head without evidence of words. StepDiffError: its record of
        training clips is damaged."""
        return cls(Familiarity.load(folder), Pooled(store, view, POOLING))

    @property
    def knows(self) -> str:
        """The head's training data, in words."""
        return UNRECORDED if self.familiarity is None else self.familiarity.knows

    def leverage(self, clips: Sequence[str]) -> Float64[np.ndarray, " C"]:
        """Return how far clips are from those that trained the head; 0 if these are not recorded.
        StepDiffError: one has no features."""
        if self.familiarity is None:
            return np.zeros(len(clips))
        return self.familiarity.leverage(pooled(self.features, self.features.rows(clips)))

    def doubt(self, clips: Sequence[str]) -> str:
        """Return why the head's output for clips means nothing; empty: they are like the clips that
        it knows."""
        return (
            ""
            if self.familiarity is None
            else self.familiarity.doubt(self.leverage(clips).tolist())
        )

    def unlike(self, clips: Sequence[str]) -> dict[str, Any]:
        """Return how many of some clips, a sample of many, the head does not know, for the score
        record; empty if its own clips are not recorded."""
        if self.familiarity is None:
            return {}
        about, sample = self.familiarity.about, some_of(np.arange(len(clips)))
        leverages = self.leverage([clips[place] for place in sample])
        far = int((leverages > about.limit).sum())
        return {
            "clips": far,
            "of_clips": len(leverages),
            "limit": about.limit,
            "learned_from": self.knows,
        }


def learn_familiarity(features: Pooled, parts: Iterable[Integer[np.ndarray, " _"]]) -> Familiarity:
    """Return the familiarity of the clips whose rows are in any of the parts, by a sample of them.

    Each of PLAIN_FOLDS groups of its videos is left out once to choose the limit.
    """
    every = np.concatenate(list(united(parts)))
    rows = some_of(every)
    values, catalog = pooled(features, rows), features.catalog
    about = pl.concat(list(of_rows(catalog, rows, {"key": pl.String, "video": pl.String})))
    names = about.select(pl.coalesce(VIDEO, "key"))["video"].to_list()
    videos = (
        np.unique(names, return_inverse=True)[1] if len(set(names)) > 1 else np.arange(len(rows))
    )
    parts_of = [
        np.flatnonzero(videos % PLAIN_FOLDS == fold)
        for fold in range(min(PLAIN_FOLDS, videos.max() + 1))
    ]
    folds = [Sums.of(values[places], sparse.csr_matrix((len(places), 0))) for places in parts_of]
    tests = zip(without_each(folds), parts_of, strict=True)
    leverages = np.concatenate(
        [rest.spread(PLAIN_RIDGE).leverage(values[places]) for rest, places in tests]
    )
    steps = steps_of(catalog, every)
    return Familiarity.learned(
        total(folds).spread(PLAIN_RIDGE), len(every), steps, leverages, FOLDS
    )
