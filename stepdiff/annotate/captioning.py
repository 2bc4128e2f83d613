"""Captions of clips by models, from cached tokens or from the videos, and the pictures that models
of clips read.

A caption generated in a batch is the same as one generated alone, in float32. Pictures are
uncropped and upright, as featurize's own decoder returns them. A clip that cannot be decoded, or
has no tokens, fails alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from featurize.video.decode import Clip, Source, decoded_clips
from featurize.video.frames import WORDS, Sampling
from featurize.video.picture import Whole
from heads.data.clips import Features
from heads.data.packing import Packer, Turn
from heads.models.language_model import autocast, load_model, load_processor
from heads.models.public.cached import ENCODER, load_cached
from heads.models.public.families import load_public
from heads.models.video_lm import VideoLM
from heads.training import run_record
from heads.training.checkpoint import Run
from heads.training.recipe import read_recipe
from heads.training.run_record import load_video_lm
from stepdiff.annotate.captions import CaptionOptions
from stepdiff.annotate.qa.prompts import CaptionKind
from stepdiff.annotate.stages.job import Answer, Item, Unanswered, plain
from stepdiff.annotate.stages.stage import Items, clip_blocks
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import shown
from stepdiff_core.io.tars import is_regular
from stepdiff_core.tasks.prompts import SYSTEM
from stepdiff_core.threads import prefetched
from stepdiff_core.weights import fingerprint, resolve
from store import Provenance, Store

FRAMES: dict[CaptionKind, int] = {"action": 8, "objects": 1}  # of a clip that a model sees (S1)
SHORT_SIDE = 480  # pixels of a picture's short side at most: models see smaller ones
T = TypeVar("T")


def caption(kind: CaptionKind, text: str) -> Answer:
    """Return the answer of a caption, which may be empty: an action in one line, objects one a
    line."""
    lines = [" ".join(line.split()) for line in plain(text).splitlines()]
    return {kind: (" " if kind == "action" else "\n").join(filter(None, lines))}


def batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Yield lists of at most `size`, as itertools.batched of Python 3.12."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def with_videos(items: pl.DataFrame, folder: str) -> pl.DataFrame:
    root = Path(folder).expanduser().absolute()
    paths = [None if video is None else str(root / video) for video in items["video"]]
    return items.with_columns(video=pl.Series(paths, dtype=pl.String))


def clip_items(store: Store, split: str | None, folder: str | None) -> Items:
    """Return the clips of a split (None: all) as items, with `video`, `start` and `end` if `folder`
    has their videos.

    StepDiffError: the first video does not exist in `folder`.
    """
    items = Items(lambda: clip_blocks(store, split, ["video", "start", "end"] if folder else []))
    if folder is None:
        return items
    with_video = (block.filter(pl.col("video").is_not_null()).head(1) for block in items.blocks())
    first = next(
        (with_videos(rows, folder)["video"][0] for rows in with_video if rows.height), None
    )
    if first is None or not is_regular(Path(first)):
        missing = "the video of every clip" if first is None else shown(Path(first))
        raise StepDiffError(
            f"{missing} does not exist: give --videos, the folder that the manifest's paths begin "
            "in"
        )
    return Items(items.blocks, lambda shard, rows: with_videos(rows, folder))


def pictures(
    items: Sequence[Item], count: int, threads: int, failed: dict[str, Unanswered]
) -> Iterator[tuple[str, list[Image.Image]]]:
    """Yield key and `count` pictures of each clip, in the order of their videos; `failed` receives
    the others.

    items: key, video (path), start, end (seconds). A single picture shows the clip's centre.
    """
    clips = {}
    for place, item in enumerate(items):
        if item["start"] is None or item["end"] is None:  # featurize could not read them
            failed[item["key"]] = Unanswered(
                "its start or end is not known: correct the manifest and featurize again"
            )
        elif item["video"] is None:
            failed[item["key"]] = Unanswered(
                "its video is not known: correct the manifest and featurize again"
            )
        else:
            clips[place] = Source(item["video"], item["start"], item["end"])
    sampling: Sampling = "centre" if count == 1 else "linspace"
    for place, done in decoded_clips(clips, count, Whole(SHORT_SIDE), threads, sampling):
        if isinstance(done, Clip):
            yield items[place]["key"], [Image.fromarray(frame) for frame in done.frames]
        else:
            failed[items[place]["key"]] = Unanswered(done.reason)


@dataclass(frozen=True)
class TokenJob:
    options: CaptionOptions  # with absolute paths

    def provenance(self) -> dict[str, Any]:
        options = self.options
        if options.head is not None:
            folder = Path(options.head)
            recipe = read_recipe(folder / "recipe.yaml").video_lm
            if recipe is None:
                raise StepDiffError(
                    f"{folder}: a contrastive head writes no captions; name another run"
                )
            view, weights = (
                options.view or recipe.view,
                fingerprint(Run(folder).best() / "head.safetensors"),
            )
            model = {
                "model": "head",
                "language_model": run_record.read(folder)["reads"].get("language_model"),
            }
        else:
            assert options.model is not None and options.view is not None
            view, weights, model = (
                options.view,
                fingerprint(resolve(options.model)),
                {"model": options.model},
            )
        of_view = Store.open(options.store).view("clips", view).provenance
        if options.kind == "objects":
            check_centre(view, of_view)
        prompt = {"system": SYSTEM, "question": options.prompt, "max_tokens": options.max_tokens}
        return {**model, "weights": weights, "view": of_view.as_dict(), "asked": prompt}

    def load(self, device: str, threads: int) -> "TokenCaptioner":
        options, precision = self.options, "float32"
        store = Store.open(options.store)
        if options.head is not None:
            model, features, recipe = load_video_lm(Path(options.head), store, device)
            precision = recipe.precision
            if options.view is not None:
                features = _other_frames(features, Features(store, options.view, "tokens"))
            model.packer = Packer(model.lm.chat, model.outputs, SYSTEM)
        else:
            assert options.model is not None and options.view is not None
            if store.view("clips", options.view).provenance.encoder == ENCODER:
                model, features, _ = load_cached(options.model, store, options.view, device)
            else:
                model, features, _ = load_public(
                    options.model, store, options.view, device, clips=1
                )
        return TokenCaptioner(model, features, options, device, precision)


class TokenCaptioner:
    def __init__(
        self,
        model: VideoLM,
        features: Features,
        options: CaptionOptions,
        device: str,
        precision: str,
    ) -> None:
        self.model, self.features, self.options = model.eval(), features, options
        self.device, self.precision = device, precision

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        keys = [item["key"] for item in items]
        able = [key for key, has in zip(keys, self.features.has(keys), strict=True) if has]
        view = self.features.view
        for key in sorted(set(keys).difference(able)):
            again = f"python -m featurize --encoder {view.provenance.encoder} --view {view.name}"
            yield (
                key,
                Unanswered(
                    f"no features of view {view.name}: run {again}, then this with --retry-failed"
                ),
            )
        batched = (
            (batch, self.features.read(batch)) for batch in batches(able, self.options.batch)
        )
        for batch, tokens in prefetched([batched]):
            for key, text in zip(batch, self.write(tokens), strict=True):
                yield key, caption(self.options.kind, text)

    def write(self, tokens: Float32[Tensor, "C N D"]) -> list[str]:
        turns = [Turn(self.options.prompt, "", ends=False)] * len(tokens)
        with torch.inference_mode(), autocast(self.device, self.precision):
            return self.model.generate(turns, self.model.project(tokens), self.options.max_tokens)


def check_centre(view: str, made: Provenance) -> None:
    """Refuse a view of several frames of a clip. One that featurize did not make may describe its
    frames freely."""
    spread = [words for sampling, words in WORDS.items() if sampling != "centre"]
    if not made.frames.startswith("1 ") and any(words in made.frames for words in spread):
        raise StepDiffError(
            f"view {view} shows {made.frames}: object captions read the centre frame alone; give a "
            "view made by featurize --sampling centre"
        )


def _other_frames(trained: Features, features: Features) -> Features:
    """Return `features`. StepDiffError if they differ from `trained` in more than the frames of a
    clip."""
    trained_on, other = trained.view.provenance, features.view.provenance
    differs = trained_on.difference(
        replace(other, frames=trained_on.frames, dtypes=trained_on.dtypes)
    )
    if trained.shape != features.shape:
        differs = differs or f"tokens {list(trained.shape)} against {list(features.shape)}"
    if differs:
        raise StepDiffError(
            f"view {features.view.name} is not one that the head can read ({differs}): featurize "
            "with the same encoder and another --sampling"
        )
    return features


_WORDLESS = ("blip", "git")  # model types that read no question
_BEFORE, _AFTER = SYSTEM.split("{video}")


@dataclass(frozen=True)
class VideoJob:
    options: CaptionOptions
    model: str  # folder or hub id

    def provenance(self) -> dict[str, Any]:
        shown = {
            "frames": shown_frames(self.options.kind, load_processor(self.model)),
            "short_side": SHORT_SIDE,
        }
        prompt = {
            "system": SYSTEM,
            "question": self.options.prompt,
            "max_tokens": self.options.max_tokens,
        }
        return {
            "model": self.model,
            "weights": fingerprint(resolve(self.model)),
            "shown": shown,
            "asked": prompt,
        }

    def load(self, device: str, threads: int) -> "VideoCaptioner":
        return VideoCaptioner(self, device, threads)


def shown_frames(kind: CaptionKind, processor: Any) -> int:
    """Return how many frames of a clip the model sees: one if it has no chat template."""
    return FRAMES[kind] if processor.chat_template is not None else 1


class VideoCaptioner:
    def __init__(self, job: VideoJob, device: str, threads: int) -> None:
        self.options, self.threads = job.options, threads
        self.processor = load_processor(job.model)
        self.model = load_model("AutoModelForImageTextToText", job.model, device)
        self.chats = self.processor.chat_template is not None
        self.frames = shown_frames(job.options.kind, self.processor)
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.model.generation_config.pad_token_id = tokenizer.pad_token_id

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Yield the caption of every item: key, video (path), start, end (seconds)."""
        failed: dict[str, Unanswered] = {}
        batched = batches(pictures(items, self.frames, self.threads, failed), self.options.batch)
        inputs_of = (
            ([key for key, _ in batch], self.inputs([frames for _, frames in batch]))
            for batch in batched
        )
        for keys, inputs in prefetched([inputs_of]):
            for key, text in zip(keys, self.write(inputs), strict=True):
                yield key, caption(self.options.kind, text)
        yield from failed.items()

    def inputs(self, clips: Sequence[list[Image.Image]]) -> Any:
        """Return the inputs that the model's processor makes of each clip's pictures and the
        question."""
        if self.chats:
            shown = [{"type": "image"}] * self.frames
            after = f"{_AFTER} {self.options.prompt}"
            words = [
                {"type": "text", "text": _BEFORE.strip()},
                *shown,
                {"type": "text", "text": after},
            ]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": words}], add_generation_prompt=True
            )
            return self.processor(
                images=list(clips), text=[text] * len(clips), padding=True, return_tensors="pt"
            )
        single = [shown[0] for shown in clips]
        if self.model.config.model_type in _WORDLESS:
            return self.processor(images=single, return_tensors="pt")
        text = f"Question: {self.options.prompt} Answer:"
        return self.processor(
            images=single, text=[text] * len(clips), padding=True, return_tensors="pt"
        )

    def write(self, inputs: Any) -> list[str]:
        inputs = inputs.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            written = self.model.generate(
                **inputs, max_new_tokens=self.options.max_tokens, do_sample=False
            )
        # A decoder repeats its prompt; an encoder-decoder does not.
        repeats = (
            "input_ids" in inputs
            and not self.model.config.get_text_config(decoder=True).is_encoder_decoder
        )
        prompt = inputs["input_ids"].shape[1] if repeats else 0
        return list(self.processor.batch_decode(written[:, prompt:], skip_special_tokens=True))
