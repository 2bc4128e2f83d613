"""Raw speech, assigned to the clips that it is about.

People talk about what they do before and after they do it. So each piece of speech goes to the most similar clip among
those of its video that are near it in time.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from heads.data.clips import Features
from heads.methods.similarity import Sentences
from heads.training.contrastive_task import ContrastiveHead
from stepdiff.annotate.sources.narration import Piece


def assigned(
    pieces: Sequence[Piece],
    clips: Sequence[tuple[float, float]],
    cosine: Float[np.ndarray, "P C"],
    window: float,
    least: float,
) -> list[str]:
    """Return the speech of each clip of one video.

    pieces: by time; clips: start and end in seconds; window: seconds between a piece and its clip, at most; least:
    cosine below which a piece belongs to no clip.
    """
    said: list[list[str]] = [[] for _ in clips]
    if not clips:
        return []
    start, end = np.array(clips).T
    for piece, row in zip(pieces, cosine, strict=True):
        near = (piece.start < end + window) & (piece.end > start - window)
        similarity = np.where(near & (row >= least), row, -np.inf)
        best = int(similarity.argmax())
        if np.isfinite(similarity[best]):
            said[best].append(piece.text)
    return [" ".join(texts) for texts in said]


@torch.inference_mode()
def speech_of_clips(
    spoken: Sequence[tuple[str, list[Piece]]],
    by_video: dict[str, pl.DataFrame],
    head: ContrastiveHead,
    features: Features,
    sentences: Sentences,
    window: float,
    least: float,
) -> dict[str, str]:
    """Return clip -> speech, for the clips that receive any; spoken: speech by video, by_video: clips by video."""
    device = next(head.parameters()).device
    different = list(dict.fromkeys(piece.text for _, pieces in spoken for piece in pieces))
    if not different:
        return {}
    places = {text: place for place, text in enumerate(different)}
    texts = head.embed_texts(torch.from_numpy(sentences(different)).to(device))
    found: dict[str, str] = {}
    for video, pieces in spoken:
        rows = by_video[video]
        shown = head.embed_clips(features.read(rows["key"].to_list(), device))
        cosine = (texts[[places[piece.text] for piece in pieces]] @ shown.T).cpu().numpy()
        said = assigned(pieces, list(zip(rows["start"], rows["end"], strict=True)), cosine, window, least)
        found |= {key: text for key, text in zip(rows["key"], said, strict=True) if text}
    return found
