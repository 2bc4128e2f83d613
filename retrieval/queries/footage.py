"""Videos and pictures for queries: the vector of a file, and frames of a clip.

Only this module of the room imports featurize, when a function is called: nothing else here reads a video.

Guarantees
- a_file_is_nearest_to_its_own_clip: a file is encoded as the view's provenance says, or refused with the difference
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

from common.errors import StepDiffError
from retrieval.vectors import command
from store import Store, View
from store.format.pool import unpooled

if TYPE_CHECKING:
    from featurize.encoders import Encoder

Pictures = UInt8[np.ndarray, "count side side 3"] | str
"""RGB frames of a clip, or the reason in one line if there are none"""


def embed_file(
    store: Store, view: View, feature: str, file: Path, span: tuple[float | None, float | None], weights: str | None
) -> Float32[np.ndarray, " dim"]:
    """Return the normalised embedding of a picture, or of a video from `span[0]` to `span[1]` seconds (None: its ends).

    Raises:
        StepDiffError: An unreadable file, a view that no encoder of featurize made, or weights other than the view's.
    """
    from featurize.video.decode import Failure, read_clips

    start, end = span_of(file, span)
    encoder = _encoder(store, view, weights)
    (clip,) = read_clips(file, [(start, end)], encoder.frames, encoder.picture, sampling=encoder.sampling)
    if isinstance(clip, Failure):
        raise StepDiffError(clip.reason)
    vector = encoder.encode_clips(clip.frames[None])[feature][0].astype(np.float64)
    length = np.sqrt(np.sum(vector * vector))
    if not np.isfinite(length) or length == 0:
        raise StepDiffError(f"the {feature} of {file} holds NaN, infinity or only zeros: query with another file")
    return (vector / length).astype(np.float32)


def frames(file: Path, span: tuple[float, float], count: int, side: int) -> Pictures:
    """Return `count` frames spread over a clip, each cropped to a square."""
    from featurize.video.decode import Failure, read_clips
    from featurize.video.picture import Crop

    (clip,) = read_clips(file, [span], count, Crop(side, side), sampling="segment-centres")
    return clip.reason if isinstance(clip, Failure) else clip.frames


def span_of(file: Path, span: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return the given seconds, by default those of the whole file. Raises StepDiffError if it cannot be read."""
    from featurize.manifest import as_manifest

    manifest = as_manifest([file])
    if manifest.failures:
        raise StepDiffError(next(iter(manifest.failures.values())))
    start, end = manifest.rows.select("start", "end").row(0)
    return (start if span[0] is None else span[0], end if span[1] is None else span[1])


def _encoder(store: Store, view: View, weights: str | None) -> Encoder:
    """Load the encoder that made the view, as its provenance says."""
    from featurize.encoders import encoder_class, load
    from featurize.video.frames import WORDS

    made = unpooled(view.provenance)  # embeddings do not depend on pooled tokens
    try:
        encoder_class(made.encoder)
    except StepDiffError:
        featurize = command("python", "-m", "featurize", "FILE", "--store", store.path, "--encoder", "ENCODER")
        embed = command("python", "-m", "heads.embed", "--head", "RUN", "--store", store.path, "--view", view.name)
        raise StepDiffError(
            f"view clips/{view.name} was made by a {made.encoder}, not by an encoder of files: run {featurize}, then "
            f"{embed}, and query with --clip"
        ) from None
    count, _, rule = made.frames.partition(" at ")
    sampling = next((name for name, words in WORDS.items() if rule.startswith(words)), None)
    encoder = load(made.encoder, weights, sampling=sampling)
    if str(encoder.frames) != count and "frames" in encoder.choices:
        encoder = load(made.encoder, weights, frames=int(count), sampling=sampling)
    differs = made.difference(encoder.provenance("clips", made.dtypes.get("tokens", "float16")))
    if differs:
        raise StepDiffError(
            f"view clips/{view.name} differs from what {made.encoder} makes of a file now ({differs}): "
            "name the view's own weights with --weights, or query with --clip"
        )
    return encoder
