"""Any public vision-language model that can see two clips, by its name alone: which encoder it needs, and itself."""

from typing import Any

from heads.data.clips import Features
from heads.models.public.cached import ENCODER, load_cached
from heads.models.public.families import FAMILIES, Blip2, load_public, model_type
from heads.models.video_lm import VideoLM
from stepdiff.common.errors import StepDiffError
from stepdiff.weights import fingerprint, resolve
from store import Store


def encoder_of(weights: str) -> str:
    """Return the encoder of python -m featurize whose tokens a public model reads. StepDiffError: no such model, or one
    that sees one clip only."""
    family = FAMILIES.get(str(model_type(resolve(weights))))
    if family is Blip2:
        raise StepDiffError(f"{weights}: a BLIP-2 reads one picture, not two videos; give another model")
    return ENCODER if family is None else family.encoder


def view_of(weights: str, store: Store) -> str:
    """Return the view of clips that was made by a public model's vision part. StepDiffError: the store has none."""
    encoder, checkpoint = encoder_of(weights), fingerprint(resolve(weights))
    for name in sorted(store.views("clips")):
        provenance = store.view("clips", name).provenance
        if (provenance.encoder, provenance.weights) == (encoder, checkpoint):
            return name
    raise StepDiffError(
        f"{store.path}: no view of clips was made by {weights}; run python -m featurize --encoder {encoder} --weights "
        f"{weights}"
    )


def load_for_pairs(
    weights: str, store: Store, view: str, device: str = "cpu"
) -> tuple[VideoLM, Features, dict[str, Any]]:
    """Return the model without its vision part, the clips that it reads, and what to disclose next to its scores.

    Raises StepDiffError as `load_cached` and `load_public`.
    """
    load = load_cached if store.view("clips", view).provenance.encoder == ENCODER else load_public
    return load(weights, store, view, device)
