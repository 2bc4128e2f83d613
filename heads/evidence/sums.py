"""Ridge regression from sums: clips are added once, and standardised, cross-fitted and calibrated in closed form.

X [n, D] are the pooled features of n clips, Y [n, V] their labels. With the mean m and the spread s of X, the Gram
matrix of the standardised features is (X'X - n mm') / ss', so nothing is read twice.

Guarantees
- sums are float64, and are added in the order of the caller: the same order gives the same bits
- a channel that is constant has weight 0
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import scipy.linalg
import scipy.sparse as sparse
from jaxtyping import Float64

_CONSTANT = 1e-12  # of a variance next to the mean square
_NO_VARIANCE = 1e-6  # of predictions


@dataclass
class Sums:
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
        y, yy = (np.asarray(each.sum(axis=0), np.float64)[0] for each in (labels, labels.multiply(labels).tocsr()))
        xy = np.asarray(labels.T.tocsr() @ values)
        return cls(np.array(float(len(values))), values.sum(axis=0), values.T @ values, xy, y, yy)

    def add(self, more: "Sums") -> None:
        """Add the sums over other clips, in place."""
        for field in fields(self):
            mine = getattr(self, field.name)
            np.add(mine, getattr(more, field.name), out=mine)


def total(parts: Sequence[Sums]) -> Sums:
    """Return the sums over the clips of all parts, added in order."""
    sums = Sums.zeros(len(parts[0].x), len(parts[0].y))
    for part in parts:
        sums.add(part)
    return sums


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
