"""stepdiff annotate captions --store data/features --head runs/vclm --kind action

Writes one sentence about what the person in every clip does (8 frames), or lists the objects in use
(--kind objects: the clip's centre frame, repeated), with the supplement's prompts (S1). A trained
head reads cached tokens:

    python -m featurize --manifest data/kitchen/clips.csv --store data/features \\
        --encoder efficientnet-lite0 --sampling centre --statistics add --view efficientnet-centre
    stepdiff annotate captions --store data/features --head runs/vclm --kind objects \\
        --view efficientnet-centre

A public model reads cached tokens of its own image tower (--model llava-hf/llava-1.5-7b-hf --view
llava). Any image-text-to-text or image-to-text model of transformers reads the videos (--model ID
--videos data/kitchen).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepdiff.annotate.qa.prompts import QUESTIONS, CaptionKind
from stepdiff.annotate.stages.job import HINT, StageJob, StageOptions, show
from stepdiff_core.cli import command
from stepdiff_core.cli.options import at_least, incomplete, parse
from stepdiff_core.errors import StepDiffError


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(StageOptions):
    kind: CaptionKind
    """action, or objects"""
    head: str | None = None
    """run folder of a trained video language model, which reads cached tokens"""
    model: str | None = None
    """public model instead: a folder or hub id"""
    view: str | None = None
    """view whose tokens are read; null: the head's own. Object captions need one of centre
    frames"""
    videos: str | None = None
    """folder that the manifest's video paths begin in, for a model that reads videos"""
    split: str | None = None
    """only clips of this split; null: all"""
    question: str | None = None
    """replaces the supplement's prompt, e.g. for a head that was trained on narration alone"""
    max_tokens: int = 48
    """longest caption, tokens"""
    batch: int = 16
    """clips captioned at once"""

    @property
    def prompt(self) -> str:
        """The question that the captioner gets."""
        return self.question or QUESTIONS[self.kind]


def run(options: CaptionOptions) -> dict[str, Any]:
    folder = options.videos
    at_least(options, batch=1, max_tokens=1)
    if (options.head is None) == (options.model is None):
        raise StepDiffError("give --head, a trained head, or --model, a public model")
    if options.model is not None and (options.view is None) == (folder is None):
        raise StepDiffError(
            "--model needs --view, cached tokens of its image tower, or --videos, a folder"
        )
    if options.head is not None and folder is not None:
        raise StepDiffError("--head reads cached tokens, not videos: leave out --videos")
    if options.head is not None and options.kind == "objects" and options.view is None:
        raise StepDiffError(
            "object captions read centre frames: give --view, made by featurize --sampling centre"
        )
    from stepdiff.annotate.captioning import TokenJob, VideoJob, clip_items
    from stepdiff.annotate.stages.stage import absolute, run_stage
    from stepdiff_core.workers.cluster import refuse_relative
    from store import Store

    folders = [(f"--{name}", getattr(options, name)) for name in ("head", "videos")]
    refuse_relative([(name, path) for name, path in folders if path is not None])
    job: StageJob
    if options.model is not None and folder is not None:
        job = VideoJob(options, options.model)
    else:
        head = options.head and str(Path(options.head).expanduser().absolute())
        job = TokenJob(replace(options, store=absolute(options.store), head=head))
    items = clip_items(Store.open(options.store), options.split, folder)
    return run_stage(options, f"captions-{options.kind}", job, items)


def main(argv: list[str] | None = None) -> int:
    return parse(
        CaptionOptions, argv, "stepdiff.annotate.captions", __doc__, run, show, status=incomplete
    )


if __name__ == "__main__":
    command.run(main, HINT)
