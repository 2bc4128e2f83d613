"""The encoder that made a view, loaded again to encode a text or a file as the view was.

Guarantees
- weights come from the place that featurize recorded with the view's rows, or are the encoder's
  own, if the provenance has their sha256 and they were used here before; else --weights names them
- a text that the store lacks gets the embedding that featurize computes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

from retrieval.vectors import command, width
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.tables import short
from store import Provenance, Store, View
from store.format.pool import unpooled
from store.io.records import all_writes

if TYPE_CHECKING:
    from featurize.encoders import Encoder

_RECORDS = 64  # shards whose records are read, at most
Record = tuple[str | None, dict[str, Any] | None]
"""of a shard: where its encoder's weights were found, and the options of the encoder"""
_CHOICES = {
    "layer": int,
    "frames": int,
    "sampling": str,
    "pooling": str,
    "window": int,
    "pixels": int,
    "statistics": str,
    "compile": bool,
}


def embed_text(
    store: Store,
    view: View,
    feature: str,
    text: str,
    weights: str | None = None,
    encoder: str | None = None,
) -> Float32[np.ndarray, " dim"]:
    """Return the normalised embedding of a text in the space of a view of clips.

    Raises:
        StepDiffError: The text is empty, or the view's encoder encodes no texts, or its weights are
            not found.
    """
    if not text.strip():
        raise StepDiffError("the text is empty: write what the clips should show")
    loaded = encoder_of(store, view, weights, encoder=encoder)
    shape = loaded.features("texts").get(feature)
    if shape is None or shape.shape != (width(view, feature),):
        raise StepDiffError(
            f"{feature} of view clips/{view.name} is not in the space of the texts of "
            f"{loaded.name}: query with --clip"
        )
    return unit_vector(
        loaded.encode_texts([text])[feature][0], f"the {feature} of the text {short(text)!r}"
    )


def unit_vector(vector: Float[np.ndarray, " dim"], what: str) -> Float32[np.ndarray, " dim"]:
    """Return a vector divided by its length. Raises StepDiffError if it has no direction."""
    exact = vector.astype(np.float64)
    length = np.sqrt(np.sum(exact * exact))
    if not np.isfinite(length) or length == 0:
        raise StepDiffError(f"{what} holds NaN, infinity or only zeros: query with another one")
    return (exact / length).astype(np.float32)


def encodes(view: View, entity: str, encoder: str | None = None) -> bool:
    """Return whether the encoder that made a view can be loaded here (see `encoder_of`), and
    encodes an entity."""
    from featurize.encoders import encoder_class, of_data

    try:
        return entity in encoder_class(of_data(view.provenance.encoder, encoder)).entities
    except StepDiffError:
        if encoder is not None:
            raise
        return False


def encoder_of(
    store: Store,
    view: View,
    weights: str | None = None,
    device: str | None = None,
    encoder: str | None = None,
) -> Encoder:
    """Load the encoder that made a view of clips, as its provenance says.

    Args:
        weights: Folder, name or hub id; None: the weights recorded with the view, or the encoder's
            own.
        device: As PyTorch names it; None is a GPU if there is one.
        encoder: Its package.module:Class, which only the user may name; None: ours, or of an
            installed package.

    Raises:
        StepDiffError: The view was made by something else, its weights are not found, or the
            encoder differs.
    """
    from featurize.encoders import load, of_data, version_of

    provenance = unpooled(view.provenance)  # embeddings do not depend on pooled tokens
    try:
        name = of_data(provenance.encoder, encoder)
    except StepDiffError:
        if encoder is not None:
            raise
        featurize = command(
            "python", "-m", "featurize", "FILE", "--store", store.path, "--encoder", "ENCODER"
        )
        embed = command(
            "python",
            "-m",
            "heads.embed",
            "--head",
            "RUN",
            "--store",
            store.path,
            "--view",
            view.name,
        )
        raise StepDiffError(
            f"view clips/{view.name} was made by {provenance.encoder}, which is none of our "
            "encoders and of no installed package: if it is yours, name it with --encoder "
            f"package.module:Class; of a head's view run {featurize}, then {embed}, and query with "
            "--clip"
        ) from None
    records = records_of(view)
    named, choices = loading_of(name, provenance, records)
    named = weights or named
    if named is None and version_of(name) is None:
        recorded = " or ".join(sources_of(records))
        where = f" at {recorded}, or were never used here" if recorded else ""
        raise StepDiffError(
            f"the weights of view clips/{view.name} ({provenance.encoder}, sha256 "
            f"{provenance.weights[:12]}) are not found{where}: name them with --weights, a folder "
            "or hub id, or query with --clip"
        )
    loaded = load(name, named, device, **choices)
    # embeddings do not depend on them
    made = replace(loaded.provenance("clips"), dtypes=provenance.dtypes)
    differs = provenance.difference(made)
    if differs:
        advice = "name the view's own weights with --weights, or query" if named else "query"
        raise StepDiffError(
            f"view clips/{view.name} differs from what {provenance.encoder} makes of a file now "
            f"({differs}): {advice} with --clip"
        )
    return loaded


def loading_of(
    name: str, provenance: Provenance, records: Sequence[Record] = ()
) -> tuple[str | None, dict[str, Any]]:
    """Return the place of an encoder's weights and its options, by the records of shards; None: no
    such weights.

    name: by which the encoder is loaded (featurize.encoders.of_data).
    """
    choices = next((choices for _, choices in records if choices is not None), None)
    return weights_of(provenance, records), choices or _choices(name, provenance)


def records_of(view: View) -> list[Record]:
    """Return the records of at most _RECORDS shards; older versions recorded less."""
    writes = (
        write for _, writes in all_writes(view.paths, view.rows_per_shard) for write in writes
    )
    records: list[Record] = []
    for write in islice(writes, _RECORDS):
        source, choices = write.info.get("weights"), write.info.get("choices")
        if isinstance(choices, dict):
            choices = {
                name: value for name, value in choices.items() if type(value) is _CHOICES.get(name)
            }
        records.append(
            (
                source if isinstance(source, str) else None,
                choices if isinstance(choices, dict) else None,
            )
        )
    return records


def _choices(name: str, provenance: Provenance) -> dict[str, Any]:
    """Return the choices that a provenance implies: stores of older versions record no others."""
    from featurize.encoders import encoder_class, statistics_in
    from featurize.video.frames import WORDS

    count, _, rule = provenance.frames.partition(" at ")
    sampling = next((each for each, words in WORDS.items() if rule.startswith(words)), None)
    choices, implied = encoder_class(name).choices, dict[str, Any](sampling=sampling)
    if count.isdecimal() and "frames" in choices:
        implied["frames"] = int(count)
    if "statistics" in choices:
        implied["statistics"] = statistics_in(provenance)
    return implied


def weights_of(provenance: Provenance, records: Sequence[Record]) -> str | None:
    """Return where the weights of an encoder are: a recorded place, or the encoder's own name;
    None: they are gone, or were never used here."""
    from featurize.encoders import digest
    from stepdiff_core.weights import NAMES, resolve_of_data

    fetched = [provenance.encoder] if provenance.encoder in NAMES else []
    for source in [*sources_of(records), *fetched]:
        try:
            if digest(provenance.encoder, resolve_of_data(source)) == provenance.weights:
                return source
        except (StepDiffError, OSError):
            # gone, unknown, or out of reach: another place may have them
            continue
    return None


def sources_of(records: Sequence[Record]) -> list[str]:
    """Return the recorded places of a view's weights."""
    return list(dict.fromkeys(source for source, _ in records if source))
