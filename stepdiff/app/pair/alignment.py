"""Two clips in step: which moments of them go together, by a view of the store that has frames of both.

Times are seconds of the clips, as the player has them, not of their videos.

Guarantees
- `warp` never goes back in time, and covers Video 1 from its begin to its end
"""

from dataclasses import dataclass, field

import numpy as np

from retrieval import align, read_moments
from retrieval.alignment import Spans
from retrieval.moments import has_frames
from stepdiff.app.site import Site
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.testsets import Pair
from store import View
from store.view import OK


@dataclass(frozen=True)
class Match:
    """A moment of each clip that go together."""

    first: float  # seconds in Video 1
    second: float  # seconds in Video 2
    cost: float  # cosine distance of the two moments, 0 to 2


@dataclass(frozen=True)
class PairAlignment:
    """Which moments of two clips go together, and what one clip lacks."""

    view: str
    path: list[Match] = field(default_factory=list)  # from both begins to both ends
    warp: list[tuple[float, float]] = field(default_factory=list)
    """seconds in Video 1 and in Video 2; linear between them"""
    times: list[float] = field(default_factory=list)  # seconds in Video 1 of its moments
    costs: list[float] = field(default_factory=list)  # mean cost of each of these moments on the path
    only_first: Spans = field(default_factory=list)  # seconds in Video 1 that look like nothing in Video 2
    only_second: Spans = field(default_factory=list)
    warning: str = ""  # why not to rely on it; empty: no reason is known
    problem: str = ""  # why there is no alignment; empty: there is one


def pair_alignment(site: Site, pair: Pair, preferred: str = "") -> PairAlignment:
    """Align two clips by the preferred view if it has frames of both, or else by the first view that has."""
    view = _view_of_frames(site, pair, preferred)
    if view is None:
        missing = "no view of the store has several frames of both clips"
        return PairAlignment("", problem=f"no alignment: {missing}; run python -m featurize with such an encoder")
    try:
        alignment = align(read_moments(view, pair[0]), read_moments(view, pair[1]))
    except StepDiffError as error:  # the catalog has no times, or a frame has no direction
        return PairAlignment(view.name, problem=f"no alignment: {error}")
    (start, end), (start_2, end_2) = ((clip.start or 0.0, clip.end or 0.0) for clip in site.clips(pair))
    times, times_2 = alignment.first.seconds - start, alignment.second.seconds - start_2
    one, two = alignment.path.T
    corners = dict(zip(times.tolist(), (alignment.warp(alignment.first.seconds) - start_2).tolist(), strict=True))
    return PairAlignment(
        view.name,
        [Match(*map(float, match)) for match in zip(times[one], times_2[two], alignment.cost, strict=True)],
        sorted(({0.0: 0.0, end - start: end_2 - start_2} | corners).items()),
        times.tolist(),
        (np.bincount(one, alignment.cost) / np.bincount(one)).tolist(),
        [(first - start, last - start) for first, last in alignment.only_first],
        [(first - start_2, last - start_2) for first, last in alignment.only_second],
        alignment.warning,
    )


def _view_of_frames(site: Site, pair: Pair, preferred: str) -> View | None:
    """Return a view with frames of both clips, the preferred one first."""
    rows = site.store.catalog("clips").rows(list(pair))
    for name in sorted(site.store.views("clips"), key=lambda name: (name != preferred, name)):
        view = site.store.view("clips", name)
        if has_frames(view) and (view.status(rows) == OK).all():
            return view
    return None
