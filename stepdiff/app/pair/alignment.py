"""Two clips in step: which moments of them go together, by a view of the store that has frames of both.

Times are seconds of the clips, as the player has them, not of their videos.

Guarantees
- `warp` never goes back in time, and covers Video 1 from its begin to its end
"""

from typing import Any

import numpy as np

from retrieval import align, read_moments
from retrieval.moments import has_frames
from stepdiff.app.site import Site
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.testsets import Pair
from store import View
from store.view import OK


def pair_alignment(site: Site, pair: Pair, preferred: str = "") -> dict[str, Any]:
    """Align two clips by the preferred view if it has frames of both, or else by the first view that has.

    Returns:
        view: its name; problem: why there is no alignment, or else ""; warning: why not to rely on it, or "";
        path: moments that go together, with `first` and `second` in seconds and `cost`, their cosine distance;
        warp: corners of a line, [seconds in Video 1, seconds in Video 2];
        times, costs: seconds in Video 1 of its moments, and the mean cost of each on the path;
        only_first, only_second: begin and end of parts that look like nothing in the other video.
    """
    alignment: dict[str, Any] = {"view": "", "problem": "", "warning": ""}
    alignment |= {name: [] for name in ("path", "warp", "times", "costs", "only_first", "only_second")}
    view = _view_of_frames(site, pair, preferred)
    if view is None:
        missing = "no view of the store has several frames of both clips"
        return alignment | {"problem": f"no alignment: {missing}; run python -m featurize with such an encoder"}
    alignment["view"] = view.name
    try:
        aligned = align(read_moments(view, pair[0]), read_moments(view, pair[1]))
    except StepDiffError as error:  # the catalog has no times, or a frame has no direction
        return alignment | {"problem": f"no alignment: {error}"}
    (start, end), (start_2, end_2) = ((clip.start or 0.0, clip.end or 0.0) for clip in site.clips(pair))
    times, times_2 = aligned.first.seconds - start, aligned.second.seconds - start_2
    one, two = aligned.path.T
    corners = dict(zip(times.tolist(), (aligned.warp(aligned.first.seconds) - start_2).tolist(), strict=True))
    matches = zip(times[one].tolist(), times_2[two].tolist(), aligned.cost.tolist(), strict=True)
    return alignment | {
        "warning": aligned.warning,
        "path": [{"first": first, "second": second, "cost": cost} for first, second, cost in matches],
        "warp": sorted(({0.0: 0.0, end - start: end_2 - start_2} | corners).items()),
        "times": times.tolist(),
        "costs": (np.bincount(one, aligned.cost) / np.bincount(one)).tolist(),
        "only_first": [(first - start, last - start) for first, last in aligned.only_first],
        "only_second": [(first - start_2, last - start_2) for first, last in aligned.only_second],
    }


def _view_of_frames(site: Site, pair: Pair, preferred: str) -> View | None:
    """Return a view with frames of both clips, the preferred one first."""
    rows = site.store.catalog("clips").rows(list(pair))
    for name in sorted(site.store.views("clips"), key=lambda name: (name != preferred, name)):
        view = site.store.view("clips", name)
        if has_frames(view) and (view.status(rows) == OK).all():
            return view
    return None
