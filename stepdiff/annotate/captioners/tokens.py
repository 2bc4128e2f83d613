"""Captions from cached tokens: by a trained head, or by a public model whose image tower filled the view.

Guarantees
- a caption generated in a batch is the same as one generated alone, in float32
- a view of another encoder than that of the head is refused; one of other frames is accepted
- a clip without tokens fails alone, and its reason says what to run
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from featurize.video.frames import WORDS
from heads.data.clips import Features
from heads.data.packing import Packer, Turn
from heads.models.language_model import autocast
from heads.models.public.cached import ENCODER, load_cached
from heads.models.public.families import load_public
from heads.models.video_lm import VideoLM
from heads.training import lineage
from heads.training.checkpoint import Run
from heads.training.lineage import load_video_lm
from heads.training.recipe import read_recipe
from stepdiff.annotate.captioners.vision import batches, caption
from stepdiff.annotate.qa.prompts import CaptionKind
from stepdiff.annotate.stages.job import Answer, Failure, Item
from stepdiff.common.errors import StepDiffError
from stepdiff.common.threads import prefetched
from stepdiff.tasks.prompts import SYSTEM
from stepdiff.weights import fingerprint, resolve
from store import Provenance, Store


@dataclass(frozen=True)
class TokenJob:
    store: str
    kind: CaptionKind
    head: str | None  # run folder of a trained head
    model: str | None  # public model instead: folder or hub id
    view: str | None  # None: the view that the head was trained on
    question: str
    max_tokens: int
    batch: int  # clips at once

    def provenance(self) -> dict[str, Any]:
        if self.head is not None:
            folder = Path(self.head)
            recipe = read_recipe(folder / "recipe.yaml").video_lm
            if recipe is None:
                raise StepDiffError(f"{folder}: a contrastive head writes no captions; name another run")
            view, weights = self.view or recipe.view, fingerprint(Run(folder).best() / "head.safetensors")
            model = {"model": "head", "language_model": lineage.read(folder)["reads"].get("language_model")}
        else:
            assert self.model is not None and self.view is not None
            view, weights, model = self.view, fingerprint(resolve(self.model)), {"model": self.model}
        made = Store.open(self.store).view("clips", view).provenance
        if self.kind == "objects":
            check_centre(view, made)
        prompt = {"system": SYSTEM, "question": self.question, "max_tokens": self.max_tokens}
        return {**model, "weights": weights, "view": made.as_dict(), "asked": prompt}

    def load(self, device: str, threads: int) -> "TokenCaptioner":
        store = Store.open(self.store)
        precision = "float32"
        if self.head is not None:
            model, features, recipe = load_video_lm(Path(self.head), store, device)
            precision = recipe.precision
            if self.view is not None:
                features = _other_frames(features, Features(store, self.view, "tokens"))
            model.packer = Packer(model.lm.chat, model.outputs, SYSTEM)
        else:
            assert self.model is not None and self.view is not None
            if store.view("clips", self.view).provenance.encoder == ENCODER:
                model, features, _ = load_cached(self.model, store, self.view, device)
            else:
                model, features, _ = load_public(self.model, store, self.view, device, clips=1)
        return TokenCaptioner(model, features, self, device, precision)


class TokenCaptioner:
    def __init__(self, model: VideoLM, features: Features, job: TokenJob, device: str, precision: str) -> None:
        self.model, self.features, self.job = model.eval(), features, job
        self.device, self.precision = device, precision
        self.busy = 0.0

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        keys = [item["key"] for item in items]
        able = [key for key, has in zip(keys, self.features.has(keys), strict=True) if has]
        view = self.features.view
        for key in sorted(set(keys).difference(able)):
            again = f"python -m featurize --encoder {view.provenance.encoder} --view {view.name}"
            yield key, Failure(f"no features of view {view.name}: run {again}, then this with --retry-failed")
        read = ((some, self.features.read(some)) for some in batches(able, self.job.batch))
        for some, tokens in prefetched([read]):
            for key, text in zip(some, self.write(tokens), strict=True):
                yield key, caption(self.job.kind, text)

    def write(self, tokens: Float32[Tensor, "C N D"]) -> list[str]:
        begin = time.monotonic()
        turns = [Turn(self.job.question, "", ends=False)] * len(tokens)
        with torch.inference_mode(), autocast(self.device, self.precision):
            texts = self.model.generate(turns, self.model.project(tokens), self.job.max_tokens)
        self.busy += time.monotonic() - begin
        return texts


def check_centre(view: str, made: Provenance) -> None:
    """Refuse a view of several frames of a clip. One that featurize did not make may describe its frames freely."""
    spread = [words for sampling, words in WORDS.items() if sampling != "centre"]
    if not made.frames.startswith("1 ") and any(words in made.frames for words in spread):
        raise StepDiffError(
            f"view {view} shows {made.frames}: object captions read the centre frame alone; give a view made by "
            "featurize --sampling centre"
        )


def _other_frames(trained: Features, given: Features) -> Features:
    """Return `given`. StepDiffError if it differs from `trained` in more than the frames of a clip."""
    made, other = trained.view.provenance, given.view.provenance
    differs = made.difference(replace(other, frames=made.frames, dtypes=made.dtypes))
    if trained.shape != given.shape:
        differs = differs or f"tokens {list(trained.shape)} against {list(given.shape)}"
    if differs:
        raise StepDiffError(
            f"view {given.view.name} is not one that the head can read ({differs}): featurize with the same encoder "
            "and another --sampling"
        )
    return given
