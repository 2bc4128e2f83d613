"""python -m annotate.captions --store data/features --head runs/vclm --kind action

Says in one sentence what the person in every clip does (8 frames), or lists the objects in use (--kind objects: the
clip's centre frame, repeated), as the supplement's S1 asks. A trained head reads cached tokens:

    python -m featurize --manifest data/kitchen/clips.csv --store data/features --encoder efficientnet-lite0 \\
        --sampling centre --view efficientnet-centre
    python -m annotate.captions --store data/features --head runs/vclm --kind objects --view efficientnet-centre

A public model reads cached tokens of its own image tower (--model llava-hf/llava-1.5-7b-hf --view llava), or any
image-text-to-text or image-to-text model of transformers the videos (--model ID --videos data/kitchen).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.captioners.tokens import TokenJob
from annotate.captioners.video import VideoJob
from annotate.captioners.vision import QUESTIONS, Kind, with_videos
from annotate.stages.job import Job, clip_items
from annotate.stages.stage import StageOptions, absolute, run_stage, show
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from common.workers.cluster import refuse_relative
from store import Store


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(StageOptions):
    kind: Kind
    """action, or objects"""
    head: str | None = None
    """run folder of a trained video language model, which reads cached tokens"""
    model: str | None = None
    """public model in its place: a folder or hub id"""
    view: str | None = None
    """view whose tokens are read; null: the head's own. Objects need one of centre frames"""
    videos: str | None = None
    """folder that the manifest's video paths begin in, for a model that reads the videos"""
    split: str | None = None
    """only clips of this split; null: all"""
    question: str | None = None
    """asked in place of the supplement's prompt, as of a head that was trained on narration alone"""
    max_tokens: int = 48
    """longest caption, tokens"""
    batch: int = 16
    """clips captioned at once"""


def run(options: CaptionOptions) -> dict[str, Any]:
    if options.batch < 1 or options.max_tokens < 1:
        raise StepDiffError(f"--batch {options.batch}, --max-tokens {options.max_tokens}: neither may be below 1")
    job, columns = make_job(options), ["video", "start", "end"] if options.videos else []
    items = clip_items(Store.open(options.store), options.split, columns)
    if options.videos is not None:
        items = with_videos(items, options.videos)
    return run_stage(options, f"captions-{options.kind}", job, items)


def make_job(options: CaptionOptions) -> Job:
    """Who captions. StepDiffError: nobody, or more than one."""
    question = options.question or QUESTIONS[options.kind]
    if (options.head is None) == (options.model is None):
        raise StepDiffError("give --head, a trained head, or --model, a public model")
    if options.model is not None and (options.view is None) == (options.videos is None):
        raise StepDiffError("--model needs --view, cached tokens of its image tower, or --videos, a folder")
    if options.head is not None and options.videos is not None:
        raise StepDiffError("--head reads cached tokens, never --videos: leave it out")
    given = [(f"--{name}", getattr(options, name)) for name in ("head", "videos")]
    refuse_relative([(name, path) for name, path in given if path is not None])
    if options.model is not None and options.videos is not None:
        return VideoJob(options.kind, options.model, question, options.max_tokens, options.batch)
    if options.head is not None and options.kind == "objects" and options.view is None:
        raise StepDiffError("objects are seen in centre frames: give --view, made by featurize --sampling centre")
    head = None if options.head is None else str(Path(options.head).expanduser().absolute())
    asked = (question, options.max_tokens, options.batch)
    return TokenJob(absolute(options.store), options.kind, head, options.model, options.view, *asked)


def main(argv: list[str] | None = None) -> int:
    return parse(CaptionOptions, argv, "annotate.captions", __doc__, run, show, status=incomplete)


if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
