"""python -m annotate.align --store data/features --head runs/align --narration data/kitchen/narration.json \
    --out data/aligned.parquet

Gives raw speech to the clips that it is about, by a contrastive head (heads/recipes/kitchen/align.yaml): each piece to
the likest clip of its video within WINDOW seconds. Writes texts about clips, of the kind `narration`, which
python -m annotate.describe takes in place of the catalog's (--narration data/aligned.parquet).

Raw speech given to the clips that it is about.

People speak of what they do before and after they do it. So each piece of speech goes to the clip that it is most like,
among the clips of its video that lie near it in time.

Guarantees
- clips without tokens are given nothing
- the texts say which head, narration, window and least cosine made them
- a piece goes to the likest clip near it, or to none, in order of time
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from annotate.sources.narration import Piece, read_narration
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from common.io import sealed as table
from common.io.files import write_bytes
from common.progress import progress
from heads.data.clip_texts import COLUMNS
from heads.data.clips import Features
from heads.data.hold_out import VIDEO, known_clips
from heads.methods.similarity import Sentences
from heads.models.language_model import pick_device
from heads.trained import load_contrastive
from heads.training.checkpoint import Run
from heads.training.contrastive_task import ContrastiveHead
from store import Store
from weights import fingerprint


def given(
    pieces: Sequence[Piece],
    clips: Sequence[tuple[float, float]],
    cosine: Float[np.ndarray, "P C"],
    window: float,
    least: float,
) -> list[str]:
    """The speech of each clip of one video.

    pieces: by time; clips: start and end in seconds; window: seconds between a piece and a clip, at most; least: a
    piece goes to no clip below this cosine.
    """
    said: list[list[str]] = [[] for _ in clips]
    if not clips:
        return []
    start, end = np.array(clips).T
    for piece, row in zip(pieces, cosine, strict=True):
        near = (piece.start < end + window) & (piece.end > start - window)
        likeness = np.where(near & (row >= least), row, -np.inf)
        best = int(likeness.argmax())
        if np.isfinite(likeness[best]):
            said[best].append(piece.text)
    return [" ".join(texts) for texts in said]


KIND = "narration"
_VIDEOS_AT_ONCE = 256


@dataclass(frozen=True)
class AlignOptions:
    store: str
    """feature store"""
    head: str
    """run folder of a contrastive head, whose view of clips is read"""
    narration: str
    """what is said: a .json or .csv file of many videos, or a folder of VIDEO.csv"""
    out: str
    """Parquet file to write"""
    window: float = 10.0
    """seconds that a piece of speech may lie from its clip"""
    least: float = 0.0
    """cosine below which a piece is about no clip"""
    device: str = "auto"
    """auto, cpu, cuda"""


def run(options: AlignOptions) -> dict[str, Any]:
    if options.window < 0:
        raise StepDiffError(f"--window {options.window}: give seconds, 0 or more")
    store, device = Store.open(options.store), pick_device(options.device)
    head, recipe = load_contrastive(Path(options.head), store, device)
    features = Features(store, recipe.view, "tokens")
    clips = known_clips(store).with_columns(VIDEO.alias("video")).drop_nulls(["start", "end"])
    clips = clips.filter(pl.Series(features.has(clips["key"].to_list())))
    by_video = {str(video): rows for (video,), rows in clips.group_by("video", maintain_order=True)}
    faults = Counter[str]()
    spoken = read_narration(options.narration, by_video, faults)
    texts: dict[str, str] = {}
    pieces = 0
    with progress("speech", len(by_video)) as advance:
        while some := list(islice(spoken, _VIDEOS_AT_ONCE)):
            pieces += sum(len(said) for _, said in some)
            texts |= _aligned(some, by_video, head, features, Sentences(store, device), options)
            advance(len(some))
    if not texts:
        raise StepDiffError(
            f"{options.narration}: speaks of no clip of {options.store}; correct --narration or --window"
        )
    made = {
        "head": fingerprint(Run(Path(options.head)).best() / "head.safetensors"),
        "narration": fingerprint(Path(options.narration)),
        "window": options.window,
        "least": options.least,
    }
    line = json.dumps(made, sort_keys=True)
    frame = pl.DataFrame([(key, KIND, text, line) for key, text in texts.items()], schema=COLUMNS, orient="row")
    data = table.encode(frame)
    write_bytes(Path(options.out), data)
    words = {"clips": clips.height, "narrated": len(texts), "videos": len(by_video), "pieces": pieces}
    return {"out": options.out, **words, "narration_faults": dict(+faults)}


@torch.inference_mode()
def _aligned(
    spoken: Sequence[tuple[str, list[Piece]]],
    by_video: dict[str, pl.DataFrame],
    head: ContrastiveHead,
    features: Features,
    sentences: Sentences,
    options: AlignOptions,
) -> dict[str, str]:
    """Speech by clip, of those that any was given to."""
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
        said = given(pieces, list(zip(rows["start"], rows["end"], strict=True)), cosine, options.window, options.least)
        found |= {key: text for key, text in zip(rows["key"], said, strict=True) if text}
    return found


def show(record: dict[str, Any]) -> None:
    print("{out}: {narrated:,} of {clips:,} clips were given speech, out of {pieces:,} pieces".format(**record))
    for reason, count in record["narration_faults"].items():
        print(f"left out: {count:,} x {reason}")


def main(argv: list[str] | None = None) -> int:
    return parse(AlignOptions, argv, "annotate.align", __doc__, run, show, status=incomplete)


if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
