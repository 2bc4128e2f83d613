"""The query of a video or picture, encoded as the provenance of the view says.

Only this module and `live` import featurize, when a function is called: nothing else here reads a
video.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrieval.queries.live import encoder_of, unit_vector
from retrieval.queries.search import Query
from stepdiff_core.errors import StepDiffError
from store import Store, View


def of_file(
    store: Store,
    view: View,
    feature: str,
    file: Path,
    span: tuple[float | None, float | None],
    weights: str | None,
    encoder: str | None = None,
) -> Query:
    """Return the query of a picture, or of a video from `span[0]` to `span[1]` (None: its ends),
    encoded as the view was."""
    from featurize.video.decode import Failure, read_clips
    from featurize.video.picture import Crop

    start, end = span_of(file, span)
    loaded = encoder_of(store, view, weights, encoder=encoder)
    (clip,) = read_clips(
        file, [(start, end)], loaded.frames, loaded.picture, sampling=loaded.sampling
    )
    if isinstance(clip, Failure):
        raise StepDiffError(clip.reason)
    if isinstance(loaded.picture, Crop):
        features = {
            name: values[0] for name, values in loaded.encode_clips(clip.frames[None]).items()
        }
    else:
        features = loaded.encode_whole(clip.frames, clip.seconds)
    vector = unit_vector(features[feature], f"the {feature} of {file}")
    return Query(f"file {file}", vector, np.empty(0, np.int64))


def span_of(file: Path, span: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return the start and end in seconds, by default of the whole file. StepDiffError if it cannot
    be read."""
    from featurize.manifest import as_manifest

    manifest = as_manifest([file])
    if manifest.failures:
        raise StepDiffError(next(iter(manifest.failures.values())))
    start, end = manifest.rows.select("start", "end").row(0)
    return (start if span[0] is None else span[0], end if span[1] is None else span[1])
