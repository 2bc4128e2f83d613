"""stepdiff annotate ground --store data/features --view aligned --head runs/align

Keeps the objects of every object caption whose grounding score is above zero (S1), because
captioners list objects that are not there. In a space of clips and texts the score is the object's
cosine minus its mean over the other clips. The space is that of a contrastive head (above), or
CLIP's:

    stepdiff annotate ground --store data/features --view clip \\
        --weights openai/clip-vit-large-patch14

With a zero-shot detector the score is that of the best box in the clip's centre frame, 0 below the
threshold:

    stepdiff annotate ground --store data/features --model google/owlv2-base-patch16-ensemble \\
        --videos data/kitchen
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepdiff.annotate.stages.job import HINT, StageJob, StageOptions, show
from stepdiff_core.cli import command
from stepdiff_core.cli.options import incomplete, parse
from stepdiff_core.errors import StepDiffError

STAGE = "ground"
CAPTIONS = "captions-objects"


@dataclass(frozen=True, kw_only=True)
class GroundOptions(StageOptions):
    view: str | None = None
    """view with embeddings of clips, in a space that texts share"""
    head: str | None = None
    """run folder of the contrastive head that made the view"""
    weights: str | None = None
    """weights of the encoder that made the view, if they are not those of its name"""
    model: str | None = None
    """zero-shot object detector instead of a view: a folder or hub id"""
    videos: str | None = None
    """folder that the manifest's video paths begin in, for a detector"""
    threshold: float = 0.1
    """score below which a detector's box counts as 0"""
    captions: str | None = None
    """version of the object captions, by its first letters; null: the only one"""
    split: str | None = None
    """only clips of this split; null: all"""


def run(options: GroundOptions) -> dict[str, Any]:
    if (options.view is None) == (options.model is None):
        raise StepDiffError("give --view, a space of clips and texts, or --model, a detector")
    if (options.model is None) != (options.videos is None):
        raise StepDiffError("a detector needs both --model and --videos, the folder of the videos")
    if not 0 <= options.threshold <= 1:
        raise StepDiffError(f"--threshold {options.threshold}: a score lies between 0 and 1")
    import polars as pl

    from heads.data.clips import Features
    from stepdiff.annotate.captioning import clip_items
    from stepdiff.annotate.grounding import DetectorJob, RowSet, SpaceJob, sha256_of_keys
    from stepdiff.annotate.stages.stage import Items, absolute, chosen, clip_blocks, run_stage
    from stepdiff_core.workers.cluster import refuse_relative
    from store import Store

    folders = [(f"--{name}", getattr(options, name)) for name in ("head", "videos")]
    refuse_relative([(name, path) for name, path in folders if path is not None])
    store = Store.open(options.store)
    captions = chosen(store, CAPTIONS, options.captions)
    clips = clip_items(store, options.split, options.videos)

    def complete(shard: int, rows: pl.DataFrame) -> pl.DataFrame:
        texts = captions.shard_texts(shard, "objects")
        return clips.complete(shard, rows).with_columns(
            objects=pl.Series([texts.get(key) for key in rows["key"]], dtype=pl.String)
        )

    job: StageJob
    if options.model is not None:
        job = DetectorJob(options.model, options.threshold, {CAPTIONS: captions.name})
    else:
        assert options.view is not None
        head = options.head and str(Path(options.head).expanduser().absolute())
        features = Features(store, options.view, "embedding")
        # of all splits, which are scored alike
        others = RowSet.of(
            features.present(block)["row"].to_numpy() for block in clip_blocks(store, None)
        )
        mean_over, reads = sha256_of_keys(store.catalog("clips"), others), {CAPTIONS: captions.name}
        job = SpaceJob(
            absolute(options.store), options.view, head, options.weights, others, mean_over, reads
        )
    return run_stage(options, STAGE, job, Items(clips.blocks, complete))


def main(argv: list[str] | None = None) -> int:
    return parse(
        GroundOptions, argv, "stepdiff.annotate.ground", __doc__, run, show, status=incomplete
    )


if __name__ == "__main__":
    command.run(main, HINT)
