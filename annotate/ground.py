"""python -m annotate.ground --store data/features --view aligned --head runs/align

Keeps the objects of every object caption whose grounding score is above zero (S1): captioners list what is not there.
In a space of clips and texts the score is the cosine minus that object's mean over the other clips: a contrastive
head's (above), or CLIP's:

    python -m annotate.ground --store data/features --view clip --weights openai/clip-vit-large-patch14

By a zero-shot detector it is the best box's in the clip's centre frame, 0 below the threshold:

    python -m annotate.ground --store data/features --model google/owlv2-base-patch16-ensemble --videos data/kitchen
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from annotate.captioners.vision import with_videos
from annotate.grounding.detector import DetectorJob
from annotate.grounding.space import SpaceJob
from annotate.stages.job import Job, clip_items
from annotate.stages.stage import StageOptions, absolute, run_stage, show
from annotate.stages.versions import chosen
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from common.workers.cluster import refuse_relative
from heads.data.clips import Features
from store import Store

STAGE = "ground"
CAPTIONS = "captions-objects"


@dataclass(frozen=True, kw_only=True)
class GroundOptions(StageOptions):
    view: str | None = None
    """view with embeddings of clips, in whose space texts lie too"""
    head: str | None = None
    """run folder of the contrastive head that made the view"""
    weights: str | None = None
    """weights of the encoder that made the view, where they are not those of its name"""
    model: str | None = None
    """zero-shot object detector in place of a view: a folder or hub id"""
    videos: str | None = None
    """folder that the manifest's video paths begin in, for a detector"""
    threshold: float = 0.1
    """score below which a detector's box counts as 0"""
    captions: str | None = None
    """version of the object captions, by its first letters; null where there is one"""
    split: str | None = None
    """only clips of this split; null: all"""


def run(options: GroundOptions) -> dict[str, Any]:
    if (options.view is None) == (options.model is None):
        raise StepDiffError("give --view, a space of clips and texts, or --model, a detector")
    if (options.model is None) != (options.videos is None):
        raise StepDiffError("a detector needs both --model and --videos, the folder of the videos")
    if not 0 <= options.threshold <= 1:
        raise StepDiffError(f"--threshold {options.threshold}: a score lies between 0 and 1")
    given = [(f"--{name}", getattr(options, name)) for name in ("head", "videos")]
    refuse_relative([(name, path) for name, path in given if path is not None])
    store = Store.open(options.store)
    captions = chosen(store, CAPTIONS, options.captions)
    items = clip_items(store, options.split, ["video", "start", "end"] if options.videos else [])
    if options.videos is not None:
        items = with_videos(items, options.videos)
    texts = captions.texts("objects")
    items = items.with_columns(objects=pl.Series([texts.get(key) for key in items["key"]], dtype=pl.String))
    return run_stage(options, STAGE, make_job(options, {CAPTIONS: captions.name}), items)


def make_job(options: GroundOptions, reads: dict[str, str]) -> Job:
    """Who grounds. A space takes its mean over all clips that it has, so that every split is grounded alike."""
    if options.model is not None:
        return DetectorJob(options.model, options.threshold, reads)
    assert options.view is not None
    head = None if options.head is None else str(Path(options.head).expanduser().absolute())
    store = Store.open(options.store)
    clips = clip_items(store, None, [])["key"].to_list()
    there = Features(store, options.view, "embedding").has(clips)
    others = tuple(clip for clip, has in zip(clips, there, strict=True) if has)
    return SpaceJob(absolute(options.store), options.view, head, options.weights, others, reads)


def main(argv: list[str] | None = None) -> int:
    return parse(GroundOptions, argv, "annotate.ground", __doc__, run, show, status=incomplete)


if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
