"""The head that follows from the sums of a pass, in closed form: standardised, cross-fitted and calibrated.

Guarantees
- a channel that is constant has weight 0
- clips of split val choose the ridge, and train nothing
- a term's evidence is calibrated on clips of videos that its weights have not seen
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.linalg
from jaxtyping import Bool, Float64

from heads.data.catalog_rows import Clips, of_keys
from heads.data.clips import Features
from heads.data.hold_out import VIDEO
from heads.data.trained_on import TrainedOn
from heads.evidence.counting import Counting, Sums, pooled, total
from heads.evidence.head import WordHead
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder, write_text
from stepdiff.common.progress import say
from stepdiff.tasks.testsets import HIGHEST_SCORE, DiffRank, clips_of
from stepdiff.weights import fingerprint
from store.lineage.answers import RECORD, read_of

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_CONSTANT = 1e-12  # of a variance next to the mean square
_NO_VARIANCE = 1e-6  # of predictions


@dataclass(frozen=True)
class Fit:
    """Linear predictions of the labels from features that are not standardised."""

    weights: Float64[np.ndarray, "V D"]
    bias: Float64[np.ndarray, " V"]


def fit(sums: Sums, ridges: Sequence[float]) -> Iterator[Fit]:
    """Yield for each c of `ridges` the regression on standardised features with the penalty c * trace / D of the Gram
    matrix; the constant is not penalised."""
    mean = sums.x / sums.clips
    variance = np.diag(sums.xx) / sums.clips - mean**2
    varies = variance > _CONSTANT * np.diag(sums.xx) / sums.clips
    scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)
    gram = (sums.xx - sums.clips * np.outer(mean, mean)) * np.outer(scale, scale)
    shared = (sums.xy - np.outer(sums.y, mean)) * scale
    for ridge in ridges:
        penalty = ridge * max(float(np.trace(gram)), _CONSTANT) / len(mean)
        factor = scipy.linalg.cho_factor(gram + penalty * np.eye(len(mean)))
        weights = scipy.linalg.cho_solve(factor, shared.T).T * scale
        yield Fit(weights, sums.y / sums.clips - weights @ mean)


def moments(model: Fit, sums: Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each term, over the clips of `sums`, the sum of its prediction, of the label times the prediction, and
    of the prediction squared. Each is [V]."""
    weights, bias = model.weights, model.bias
    linear = weights @ sums.x
    return (
        linear + sums.clips * bias,
        np.einsum("vd,vd->v", weights, sums.xy) + bias * sums.y,
        np.einsum("vd,vd->v", weights @ sums.xx, weights) + 2 * bias * linear + sums.clips * bias**2,
    )


def squared_errors(model: Fit, sums: Sums) -> Float64[np.ndarray, " V"]:
    """Return the sum of squared errors of each term over the clips of `sums`."""
    _, product, square = moments(model, sums)
    return sums.yy - 2 * product + square


@dataclass(frozen=True)
class Calibration:
    """Two Gaussians of one variance: predictions where a term's label is 1, and where it is 0."""

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
    """Return the Gaussians of predictions. models: for each part, one that was fitted without it."""
    means, products, squares = (sum(each) for each in zip(*map(moments, models, parts), strict=True))
    clips, y = sum(part.clips for part in parts), sum(part.y for part in parts)
    with_term = products / np.maximum(y, 1)
    without = (means - products) / np.maximum(clips - y, 1)
    # of weighted points: sum w (p - m)^2 = sum w p^2 - 2 m sum w p + m^2 sum w, over labels and their complements
    spread = squares - 2 * with_term * products + with_term**2 * y
    spread += -2 * without * (means - products) + without**2 * (clips - y)
    return Calibration(with_term, without, np.maximum(spread, 0) / clips + _NO_VARIANCE)


def fitted(counting: Counting, began: float) -> WordHead:
    """Return the head. began: when the run did, by time.monotonic."""
    options, wording = counting.options, counting.count.wording
    *folds, val = counting.count.groups
    train = total(folds)
    of_categories = {term for shares in wording.categories.values() for term in shares} or set(wording.terms)
    asked = np.array([term in of_categories for term in wording.terms])
    ridge, chosen_on = _ridge(folds, val, asked)
    models = [model for part in (train, *_without_each(folds)) for model in fit(part, [ridge])]
    calibration = calibrate(models[1:], folds)
    visible = np.flatnonzero(calibration.distance >= options.least_distance)
    if not len(visible):
        raise StepDiffError(
            f"no word can be seen in {options.view}: none has d' of {options.least_distance} between clips with and "
            "without it; give more clips, or a smaller --least-distance"
        )
    odds = [calibration.log_odds(model) for model in models]
    about: dict[str, Any] = {
        "view": options.view,
        "provenance": counting.features.view.provenance.as_dict(),
        "options": {name: getattr(options, name) for name in ("narration", "least", "folds", "least_distance")},
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
        np.stack([model.weights[visible] for model in odds]).astype(np.float32).astype(np.float64),
        np.stack([model.bias[visible] for model in odds]).astype(np.float32).astype(np.float64),
        wording.sides,
        wording.categories,
        frozenset(wording.narrated).intersection(terms),
    )
    if counting.validation is not None:
        about["declines"] = declines(head, counting.features, counting.validation, str(options.validation))
    about["seconds"] = round(time.monotonic() - began, 1)
    return head


def _without_each(folds: Sequence[Sums]) -> Iterator[Sums]:
    """Yield the sums without each fold."""
    return (total([other for other in folds if other is not fold]) for fold in folds)


def _ridge(folds: Sequence[Sums], val: Sums, asked: Bool[np.ndarray, " V"]) -> tuple[float, str]:
    """Return the penalty with the least squared error, and the name of the clips that it is measured on.

    The error of a term is relative to that of its mean, and a term that cannot be predicted counts as its mean: most
    words cannot be seen, and all of them would choose the largest penalty.
    """
    if val.clips:
        tests, name = [val], "split val"
        rests = iter([total(folds)])
    else:
        say("no clip of split val: the ridge is chosen by the error on training clips, each fold left out once")
        tests, name = list(folds), "left-out folds"
        rests = _without_each(folds)
    errors, of_means = np.zeros((len(RIDGES), len(asked))), np.zeros(len(asked))
    for test, rest in zip(tests, rests, strict=True):
        means = Fit(np.zeros_like(rest.xy), rest.y / rest.clips)
        of_means += squared_errors(means, test)
        errors += [squared_errors(model, test) for model in fit(rest, RIDGES)]
    known = asked & (of_means > 0)
    explained = np.maximum(1 - errors[:, known] / of_means[known], 0).sum(axis=1)
    return RIDGES[int(np.argmax(explained))], name


def declines(head: WordHead, features: Features, rows: Sequence[DiffRank], source: str) -> dict[str, Any]:
    """Return the distance of each category below which two clips agree, by scored pairs.

    A category whose pairs all agree, or none, gets the distance of all pairs. source: the file of the rows.
    """
    evidence = evidence_of(head, features, list(dict.fromkeys(clip for row in rows for clip in clips_of(row))))
    scored = [
        (row.category, head.distance(evidence[row.reference], evidence[target], row.category), score == HIGHEST_SCORE)
        for row in rows
        if row.category in head.known_categories
        for target, score in zip(row.targets, row.scores, strict=True)
    ]
    if len({agree for *_, agree in scored}) < 2:
        raise StepDiffError(
            f"--validation {source}: it needs pairs of score {HIGHEST_SCORE} and others in {head.folder}'s categories"
        )
    of_all = _threshold([(distance, agree) for _, distance, agree in scored])
    below, right = {}, []
    for category in head.known_categories:
        of_category = [(distance, agree) for name, distance, agree in scored if name == category]
        below[category] = _threshold(of_category) if len({agree for _, agree in of_category}) == 2 else of_all
        right += [(agree, (distance < below[category]) == agree) for distance, agree in of_category]
    shares = [np.mean([correct for agree, correct in right if agree == each]) for each in (True, False)]
    return {"below": below, "balanced_accuracy": round(float(np.mean(shares)), 4), "rows": len(scored)}


def _threshold(pairs: Sequence[tuple[float, bool]]) -> float:
    """Return the distance that separates pairs that agree from the others with the best balanced accuracy."""
    distances, agree = (np.array(values) for values in zip(*sorted(pairs), strict=True))
    below = np.append(0, np.cumsum(agree)) / agree.sum()  # the first n are declined: agreeing ones among them
    above = 1 - np.append(0, np.cumsum(~agree)) / (~agree).sum()
    best = int(np.argmax(below + above))
    edges = np.concatenate([[0.0], distances, [2 * distances[-1] + 1]])
    return float((edges[best] + edges[best + 1]) / 2)


def evidence_of(head: WordHead, features: Features, clips: Sequence[str]) -> dict[str, Float64[np.ndarray, " T"]]:
    """Return the evidence of clips, that of training clips from other videos. StepDiffError: one has no features."""
    means, videos = pooled(features, features.rows(clips)), training_videos(features.catalog, clips)
    train = [place for place, clip in enumerate(clips) if clip in videos]
    evidence = head.evidence(means)
    evidence[train] = head.cross_fitted(means[train], [videos[clips[place]] for place in train])
    return dict(zip(clips, evidence, strict=True))


def training_videos(catalog: Clips, clips: Sequence[str]) -> dict[str, str]:
    """Return the video of each clip of split train."""
    known = of_keys(catalog, clips, dict.fromkeys(("key", "split", "video"), pl.String))
    return dict(known.filter(pl.col("split") == "train").select("key", pl.coalesce(VIDEO, "key")).iter_rows())


def keep_lineage(counting: Counting) -> None:
    """Write what the head reads and which clips train it, as a head of heads.train does."""
    options, rows = counting.options, counting.rows[counting.groups < counting.options.folds]
    store, folder = counting.store, Path(options.out)
    make_folder(folder)
    lineage = {
        "reads": {"clips": counting.features.view.provenance.as_dict()},
        "store": read_of(store, {"clips": options.view}),
        "init": None,
        "regime": "s1",
        "data": {
            file: fingerprint(file)
            for file in (options.pairqa, *options.hold_out, *([options.validation] if options.validation else []))
        },
        "hold_out": counting.hold_out.record(),
        "trained_on": TrainedOn.of_catalog(counting.catalog, [rows]).write(folder),
    }
    write_text(folder / RECORD, json.dumps(lineage, indent=1))
    for line in counting.hold_out.lines():
        say(line)
