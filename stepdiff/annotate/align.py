"""stepdiff annotate align --store data/features --head runs/align \\
    --narration data/kitchen/narration.json --out data/aligned.parquet

Assigns raw speech to the clips that it is about, by a contrastive head
(heads/recipes/kitchen/align.yaml): each piece to the most similar clip of its video within WINDOW
seconds. Writes texts of the kind `narration`, which stepdiff annotate describe reads instead of the
catalog's (--narration data/aligned.parquet). People talk about what they do before and after they
do it: each piece goes to one clip nearby or to none, in order of time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, at_least, incomplete, parse
from stepdiff_core.errors import StepDiffError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from stepdiff.annotate.sources.narration import SpeechPiece

KIND = "narration"
_VIDEOS_AT_ONCE = 256


@dataclass(frozen=True)
class AlignOptions:
    store: str
    """feature store"""
    head: str
    """run folder of a contrastive head; its view of clips is read"""
    narration: str
    """speech: a .json or .csv file of many videos, or a folder of VIDEO.csv"""
    out: str = field(metadata=WRITTEN)
    """Parquet file to write"""
    window: float = 10.0
    """seconds between a piece of speech and its clip, at most"""
    least: float = 0.0
    """cosine below which a piece belongs to no clip"""
    device: str = "auto"
    """auto, cpu, cuda"""


def run(options: AlignOptions) -> dict[str, Any]:
    at_least(options, window=0)
    import polars as pl
    import torch

    from heads.data.clip_texts import write_texts
    from heads.data.clips import Features
    from heads.data.hold_out import UID, known_clips
    from heads.methods.similarity import Sentences
    from heads.models.language_model import pick_device
    from heads.training.checkpoint import Run
    from heads.training.run_record import load_contrastive
    from stepdiff.annotate.sources.narration import read_narration
    from stepdiff_core.progress import progress
    from stepdiff_core.weights import fingerprint
    from store import Store

    store, device = Store.open(options.store), pick_device(options.device)
    head, recipe = load_contrastive(Path(options.head), store, device)
    features = Features(store, recipe.view, "tokens")
    clips = (
        known_clips(store)
        .with_columns(pl.coalesce(UID, "video").alias("video"))
        .drop_nulls(["start", "end"])
    )
    clips = clips.filter(pl.Series(features.has(clips["key"].to_list())))
    by_video = {str(video): rows for (video,), rows in clips.group_by("video", maintain_order=True)}
    faults = Counter[str]()
    spoken = read_narration(options.narration, by_video, faults)
    sentences = Sentences(store, device)
    texts: dict[str, str] = {}
    count = 0
    with progress("speech", len(by_video)) as advance, torch.inference_mode():
        while batch := list(islice(spoken, _VIDEOS_AT_ONCE)):
            different = list(dict.fromkeys(piece.text for _, pieces in batch for piece in pieces))
            places = {text: place for place, text in enumerate(different)}
            if different:
                vectors = head.embed_texts(torch.from_numpy(sentences(different)).to(device))
            for video, pieces in batch if different else ():
                rows = by_video[video]
                shown = head.embed_clips(features.read(rows["key"].to_list(), device))
                cosine = (vectors[[places[piece.text] for piece in pieces]] @ shown.T).cpu().numpy()
                times = list(zip(rows["start"], rows["end"], strict=True))
                assigned_texts = assigned(pieces, times, cosine, options.window, options.least)
                texts |= {
                    key: text for key, text in zip(rows["key"], assigned_texts, strict=True) if text
                }
                count += len(pieces)
            advance(len(batch))
    if not texts:
        raise StepDiffError(
            f"{options.narration}: no speech near a clip of {options.store}; correct --narration "
            "or --window"
        )
    provenance = {
        "head": fingerprint(Run(Path(options.head)).best() / "head.safetensors"),
        "narration": fingerprint(Path(options.narration)),
        "window": options.window,
        "least": options.least,
    }
    write_texts(options.out, KIND, texts, provenance)
    words = {
        "clips": clips.height,
        "narrated": len(texts),
        "videos": len(by_video),
        "pieces": count,
    }
    return {"out": options.out, **words, "narration_faults": dict(+faults)}


def assigned(
    pieces: "Sequence[SpeechPiece]",
    clips: Sequence[tuple[float, float]],
    cosine: "Float[np.ndarray, 'P C']",
    window: float,
    least: float,
) -> list[str]:
    """Return the speech of each clip of one video.

    pieces: by time; clips: start and end in seconds; window: seconds between a piece and its clip,
    at most; least: cosine below which a piece belongs to no clip.
    """
    import numpy as np

    assigned_texts: list[list[str]] = [[] for _ in clips]
    if not clips:
        return []
    start, end = np.array(clips).T
    for piece, row in zip(pieces, cosine, strict=True):
        near = (piece.start < end + window) & (piece.end > start - window)
        similarity = np.where(near & (row >= least), row, -np.inf)
        best = int(similarity.argmax())
        if np.isfinite(similarity[best]):
            assigned_texts[best].append(piece.text)
    return [" ".join(texts) for texts in assigned_texts]


def show(record: dict[str, Any]) -> None:
    print(
        "{out}: {narrated:,} of {clips:,} clips have speech, from {pieces:,} pieces".format(
            **record
        )
    )
    for reason, count in record["narration_faults"].items():
        print(f"left out: {count:,} x {reason}")


def main(argv: list[str] | None = None) -> int:
    return parse(
        AlignOptions, argv, "stepdiff.annotate.align", __doc__, run, show, status=incomplete
    )


if __name__ == "__main__":
    command.run(main)
