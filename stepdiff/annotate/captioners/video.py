"""Captions from the videos, by any image-text-to-text or image-to-text model of transformers.

A model with a chat template sees all frames in one turn; another was trained on single pictures, and sees the clip's
centre.

Guarantees
- a model reads the inputs of its own processor, with its own chat template
- a caption generated in a batch is the same as one generated alone, in float32
- a clip that cannot be decoded fails alone
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from heads.models.pretrained import load_model, load_processor
from stepdiff.annotate.captioners.vision import FRAMES, SHORT_SIDE, batches, caption, pictures
from stepdiff.annotate.qa.prompts import CaptionKind
from stepdiff.annotate.stages.job import Answer, Failure, Item
from stepdiff.common.threads import prefetched
from stepdiff.tasks.prompts import SYSTEM
from stepdiff.weights import fingerprint, resolve

_WORDLESS = ("blip", "git")  # model types that read no question
_BEFORE, _AFTER = SYSTEM.split("{video}")


@dataclass(frozen=True)
class VideoJob:
    kind: CaptionKind
    model: str  # folder or hub id
    question: str
    max_tokens: int
    batch: int  # clips at once

    def provenance(self) -> dict[str, Any]:
        shown = {"frames": shown_frames(self.kind, load_processor(self.model)), "short_side": SHORT_SIDE}
        prompt = {"system": SYSTEM, "question": self.question, "max_tokens": self.max_tokens}
        return {"model": self.model, "weights": fingerprint(resolve(self.model)), "shown": shown, "asked": prompt}

    def load(self, device: str, threads: int) -> "VideoCaptioner":
        return VideoCaptioner(self, device, threads)


def shown_frames(kind: CaptionKind, processor: Any) -> int:
    """Return how many frames of a clip the model sees: one if it has no chat template."""
    return FRAMES[kind] if processor.chat_template is not None else 1


class VideoCaptioner:
    def __init__(self, job: VideoJob, device: str, threads: int) -> None:
        self.job, self.threads = job, threads
        self.processor = load_processor(job.model)
        self.model = load_model("AutoModelForImageTextToText", job.model, device)
        self.chats = self.processor.chat_template is not None
        self.frames = shown_frames(job.kind, self.processor)
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.model.generation_config.pad_token_id = tokenizer.pad_token_id
        self.busy = 0.0

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Yield the caption of every item: key, video (path), start, end (seconds)."""
        failed: dict[str, Failure] = {}
        shown = batches(pictures(items, self.frames, self.threads, failed), self.job.batch)
        read = (([key for key, _ in some], self.inputs([own for _, own in some])) for some in shown)
        for keys, inputs in prefetched([read]):
            for key, text in zip(keys, self.write(inputs), strict=True):
                yield key, caption(self.job.kind, text)
        yield from failed.items()

    def inputs(self, clips: Sequence[list[Image.Image]]) -> Any:
        """Return what the model's own processor makes of each clip's pictures and the question."""
        if self.chats:
            shown = [{"type": "image"}] * self.frames
            after = f"{_AFTER} {self.job.question}"
            words = [{"type": "text", "text": _BEFORE.strip()}, *shown, {"type": "text", "text": after}]
            text = self.processor.apply_chat_template([{"role": "user", "content": words}], add_generation_prompt=True)
            return self.processor(images=list(clips), text=[text] * len(clips), padding=True, return_tensors="pt")
        single = [shown[0] for shown in clips]
        if self.model.config.model_type in _WORDLESS:
            return self.processor(images=single, return_tensors="pt")
        text = f"Question: {self.job.question} Answer:"
        return self.processor(images=single, text=[text] * len(clips), padding=True, return_tensors="pt")

    def write(self, inputs: Any) -> list[str]:
        begin = time.monotonic()
        inputs = inputs.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            written = self.model.generate(**inputs, max_new_tokens=self.job.max_tokens, do_sample=False)
        # A decoder repeats its prompt; an encoder-decoder does not.
        repeats = "input_ids" in inputs and not self.model.config.get_text_config(decoder=True).is_encoder_decoder
        prompt = inputs["input_ids"].shape[1] if repeats else 0
        texts = self.processor.batch_decode(written[:, prompt:], skip_special_tokens=True)
        self.busy += time.monotonic() - begin
        return list(texts)
