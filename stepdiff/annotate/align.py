"""stepdiff annotate align --store data/features --head runs/align --narration data/kitchen/narration.json \
    --out data/aligned.parquet

Assigns raw speech to the clips that it is about, by a contrastive head (heads/recipes/kitchen/align.yaml): each piece
to the most similar clip of its video within WINDOW seconds. Writes texts of the kind `narration`, which
stepdiff annotate describe reads instead of the catalog's (--narration data/aligned.parquet).
"""

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stepdiff.common.cli import command
from stepdiff.common.cli.options import incomplete, parse
from stepdiff.common.errors import StepDiffError

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
    out: str
    """Parquet file to write"""
    window: float = 10.0
    """seconds between a piece of speech and its clip, at most"""
    least: float = 0.0
    """cosine below which a piece belongs to no clip"""
    device: str = "auto"
    """auto, cpu, cuda"""


def run(options: AlignOptions) -> dict[str, Any]:
    if options.window < 0:
        raise StepDiffError(f"--window {options.window}: give seconds, 0 or more")
    import polars as pl

    from heads.data.clip_texts import write_texts
    from heads.data.clips import Features
    from heads.data.hold_out import UID, known_clips
    from heads.methods.similarity import Sentences
    from heads.models.language_model import pick_device
    from heads.training.checkpoint import Run
    from heads.training.lineage import load_contrastive
    from stepdiff.annotate.sources.alignment import speech_of_clips
    from stepdiff.annotate.sources.narration import read_narration
    from stepdiff.common.progress import progress
    from stepdiff.weights import fingerprint
    from store import Store

    store, device = Store.open(options.store), pick_device(options.device)
    head, recipe = load_contrastive(Path(options.head), store, device)
    features = Features(store, recipe.view, "tokens")
    clips = known_clips(store).with_columns(pl.coalesce(UID, "video").alias("video")).drop_nulls(["start", "end"])
    clips = clips.filter(pl.Series(features.has(clips["key"].to_list())))
    by_video = {str(video): rows for (video,), rows in clips.group_by("video", maintain_order=True)}
    faults = Counter[str]()
    spoken = read_narration(options.narration, by_video, faults)
    sentences = Sentences(store, device)
    texts: dict[str, str] = {}
    pieces = 0
    with progress("speech", len(by_video)) as advance:
        while some := list(islice(spoken, _VIDEOS_AT_ONCE)):
            pieces += sum(len(said) for _, said in some)
            texts |= speech_of_clips(some, by_video, head, features, sentences, options.window, options.least)
            advance(len(some))
    if not texts:
        raise StepDiffError(
            f"{options.narration}: no speech near a clip of {options.store}; correct --narration or --window"
        )
    made = {
        "head": fingerprint(Run(Path(options.head)).best() / "head.safetensors"),
        "narration": fingerprint(Path(options.narration)),
        "window": options.window,
        "least": options.least,
    }
    write_texts(options.out, KIND, texts, made)
    words = {"clips": clips.height, "narrated": len(texts), "videos": len(by_video), "pieces": pieces}
    return {"out": options.out, **words, "narration_faults": dict(+faults)}


def show(record: dict[str, Any]) -> None:
    print("{out}: {narrated:,} of {clips:,} clips have speech, from {pieces:,} pieces".format(**record))
    for reason, count in record["narration_faults"].items():
        print(f"left out: {count:,} x {reason}")


def main(argv: list[str] | None = None) -> int:
    return parse(AlignOptions, argv, "stepdiff.annotate.align", __doc__, run, show, status=incomplete)


if __name__ == "__main__":
    command.run(main)
