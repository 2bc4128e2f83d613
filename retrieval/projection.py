"""Two coordinates for every clip of a view: a map.

Clips are compared by cosine, so their embeddings are divided by their length first. A view that has
only tokens is mapped by the mean of each clip's tokens. PCA takes its axes from a sample of rows
and then projects all rows, block by block. UMAP (`pip install 'stepdiff[umap]'`) needs all rows in
memory and takes minutes for 100,000.

Guarantees
- if all rows are in the sample, coordinates equal an eigendecomposition of all rows
- a map is the same on every run: the sample is seeded, and the largest weight of each axis is
  positive
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float32, Float64

from retrieval.vectors import Rows, Vectors, filled_rows, raw_blocks, unit
from stepdiff_core.errors import StepDiffError
from stepdiff_core.streams import generator
from store import View

PROJECTIONS = {"pca": "PCA", "umap": "UMAP"}  # name -> title
# rows of a map; of a larger view, a seeded sample is mapped
MOST = {"pca": 1_000_000, "umap": 100_000}
FIT = 20_000  # rows from which the axes of PCA are computed
REDUCED = 50  # channels that UMAP reads, of the largest variance
SEED = 0
_BLOCK = 4096  # rows of a block, at most

Axes = Float32[np.ndarray, "dim axes"]
Advance = Callable[[int], None]  # receives how many more rows are done


@dataclass(frozen=True)
class Map:
    """Rows of a view and where they are."""

    rows: Rows  # rising
    xy: Float32[np.ndarray, "rows 2"]
    # of the variance that each axis shows; zeros for UMAP, whose axes have no meaning
    shares: tuple[float, float]
    total: int  # rows of the view with features; more than `rows` if these are a sample


def missing(projection: str) -> str | None:
    """Return why a projection cannot be computed here, or None."""
    if projection == "umap" and find_spec("umap") is None:
        return "UMAP needs a package that is not installed: pip install 'stepdiff[umap]'"
    return None


def project(
    view: View,
    rows: Rows,
    projection: str = "pca",
    feature: str | None = None,
    advance: Advance = lambda count: None,
) -> tuple[Float32[np.ndarray, "rows 2"], tuple[float, float]]:
    """Return the coordinates of rows (rising, all filled), and the share of variance on each axis.

    `advance` receives how many more rows are projected; together as many as there are.
    """
    if reason := missing(projection):
        raise StepDiffError(reason)
    feature = pooled_feature(view, feature)
    if not len(rows):
        raise StepDiffError(
            f"view {view.entity}/{view.name} has no features yet: run `python -m featurize`"
        )
    if projection == "umap" and len(rows) > 3:  # fewer have no neighbourhoods
        axes, offset, _ = _axes(view, feature, rows, REDUCED)
        xy = _umap(_projected(view, feature, rows, axes, offset, lambda count: None))
        advance(len(rows))
        return xy, (0.0, 0.0)
    axes, offset, shares = _axes(view, feature, rows, 2)
    return _projected(view, feature, rows, axes, offset, advance), (
        float(shares[0]),
        float(shares[1]),
    )


def pooled_feature(view: View, feature: str | None = None) -> str:
    """Return the array that a map reads: `feature`, or an embedding [D], or tokens [N, D], which
    are averaged.

    Raises StepDiffError if the view has no such array.
    """
    usable = [name for name, form in view.features.items() if len(form.shape) in (1, 2)]
    usable.sort(key=lambda name: (name != "embedding", len(view.features[name].shape)))
    if not usable or feature not in (None, *usable):
        named = f"called {feature} " if feature else ""
        raise StepDiffError(
            f"view {view.entity}/{view.name} has no embedding {named}and no tokens to average: "
            f"it has {', '.join(view.features)}"
        )
    return feature or usable[0]


def pooled_blocks(view: View, feature: str, rows: Rows) -> Iterator[Vectors]:
    """Yield one vector of length 1 per row, block by block, in the order of `rows`; zero as in
    `unit`."""
    for _, values in raw_blocks(view, feature, rows):
        vectors = values if values.ndim == 2 else values.mean(axis=1)
        for start in range(0, len(vectors), _BLOCK):
            yield unit(vectors[start : start + _BLOCK]).astype(np.float32)


def sample_rows(view: View, most: int, seed: int = SEED) -> tuple[Rows, int]:
    """Return at most `most` filled rows, rising, and how many the view has; any sample is equally
    likely."""
    rows = filled_rows(view)
    if len(rows) <= most:
        return rows, len(rows)
    return np.sort(
        generator(seed, "rows of a map").choice(rows, most, replace=False, shuffle=False)
    ), len(rows)


def _axes(
    view: View, feature: str, rows: Rows, count: int
) -> tuple[Axes, Float64[np.ndarray, " axes"], Float64[np.ndarray, " axes"]]:
    """Return the directions of the largest variance, from at most FIT rows, the mean on each, and
    its share of the variance."""
    if len(rows) > FIT:
        rows = np.sort(
            generator(SEED, "rows of a map's axes").choice(rows, FIT, replace=False, shuffle=False)
        )
    dim = view.features[feature].shape[-1]
    sums, products = np.zeros(dim), np.zeros((dim, dim))
    for block in pooled_blocks(view, feature, rows):
        sums += block.sum(axis=0, dtype=np.float64)
        products += block.T @ block
    mean = sums / len(rows)
    values, vectors = np.linalg.eigh(products / len(rows) - np.outer(mean, mean))
    count = min(count, dim)
    axes = vectors[:, ::-1][:, :count]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(count)] < 0, -1, 1)
    shares = np.maximum(values[::-1][:count], 0) / max(values.sum(), 1e-30)
    if count < 2:  # a view of one channel
        axes, shares = np.pad(axes, ((0, 0), (0, 1))), np.pad(shares, (0, 1))
    return axes.astype(np.float32), mean @ axes, shares


def _projected(
    view: View,
    feature: str,
    rows: Rows,
    axes: Axes,
    offset: Float64[np.ndarray, " axes"],
    advance: Advance,
) -> Float32[np.ndarray, "rows axes"]:
    out = np.empty((len(rows), axes.shape[1]), np.float32)
    at = 0
    for block in pooled_blocks(view, feature, rows):
        out[at : at + len(block)] = block @ axes - offset
        at += len(block)
        advance(len(block))
    return out


def _umap(vectors: Float32[np.ndarray, "rows reduced"]) -> Float32[np.ndarray, "rows 2"]:
    import warnings

    from umap import UMAP  # compiles for seconds

    near = min(15, len(vectors) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seeded run uses one thread
        layout = UMAP(n_neighbors=near, min_dist=0.1, init="pca", random_state=SEED, n_jobs=1)
        return layout.fit_transform(vectors).astype(np.float32)
