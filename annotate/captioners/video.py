"""Captions by any image-text-to-text or image-to-text model of transformers, from the videos.

A model that chats is shown all frames in one turn; one that does not was trained on single pictures, and is shown the
clip's centre.

Guarantees
- a model is shown what its own processor makes of the frames and of its own chat template
- in float32 a caption written in a batch is the one written alone
- a clip that cannot be decoded fails alone
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from annotate.captioners.vision import FRAMES, SHORT_SIDE, Kind, caption, load_processor, load_vision_model, pictures
from annotate.qa.prompts import CAPTION_SYSTEM
from annotate.stages.job import Answer, Failure, Item
from common.threads import prefetched
from weights import fingerprint, resolve

_WORDLESS = ("blip", "git")
"""model types that are asked nothing"""
_BEFORE, _BEHIND = CAPTION_SYSTEM.split("{video}")
_Batch = tuple[list[str], Any]
"""keys, and what the model is given of them"""


@dataclass(frozen=True)
class VideoJob:
    kind: Kind
    model: str
    """folder or hub id"""
    question: str
    max_tokens: int
    batch: int
    """clips at once"""

    def provenance(self) -> dict[str, Any]:
        """Model, its weights, what it is shown and asked."""
        shown = {"frames": shown_frames(self.kind, load_processor(self.model)), "short_side": SHORT_SIDE}
        asked = {"system": CAPTION_SYSTEM, "question": self.question, "max_tokens": self.max_tokens}
        return {"model": self.model, "weights": fingerprint(resolve(self.model)), "shown": shown, "asked": asked}

    def load(self, device: str, threads: int) -> "VideoCaptioner":
        return VideoCaptioner(self, device, threads)


def shown_frames(kind: Kind, processor: Any) -> int:
    """Of a clip; a model that does not chat is shown one picture, whatever it is asked."""
    return FRAMES[kind] if processor.chat_template is not None else 1


class VideoCaptioner:
    """StepDiffError: no such model."""

    def __init__(self, job: VideoJob, device: str, threads: int) -> None:
        self.job, self.threads = job, threads
        self.model, self.processor = load_vision_model("AutoModelForImageTextToText", job.model, device)
        self.chats = self.processor.chat_template is not None
        self.frames = shown_frames(job.kind, self.processor)
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.model.generation_config.pad_token_id = tokenizer.pad_token_id
        self.busy = 0.0

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """items: key, video (path), start, end (seconds)."""
        failed: list[tuple[str, Failure]] = []
        for keys, inputs in prefetched([self._batches(items, failed)]):
            for key, text in zip(keys, self.write(inputs), strict=True):
                yield key, caption(self.job.kind, text)
        yield from failed

    def _batches(self, items: Sequence[Item], failed: list[tuple[str, Failure]]) -> Iterator[_Batch]:
        decoded = pictures(items, self.frames, self.threads)
        good: list[tuple[str, list[Image.Image]]] = []
        for key, shown in decoded:
            if isinstance(shown, Failure):
                failed.append((key, shown))
                continue
            good.append((key, shown))
            if len(good) == self.job.batch:
                yield self._batch(good)
                good = []
        if good:
            yield self._batch(good)

    def _batch(self, clips: Sequence[tuple[str, list[Image.Image]]]) -> _Batch:
        return [key for key, _ in clips], self.inputs([shown for _, shown in clips])

    def inputs(self, clips: Sequence[list[Image.Image]]) -> Any:
        """What the model's own processor makes of each clip's pictures and the question."""
        if self.chats:
            shown = [{"type": "image"}] * self.frames
            words = [{"type": "text", "text": _BEFORE.strip()}, *shown, {"type": "text", "text": self._asked()}]
            text = self.processor.apply_chat_template([{"role": "user", "content": words}], add_generation_prompt=True)
            return self.processor(images=list(clips), text=[text] * len(clips), padding=True, return_tensors="pt")
        single = [shown[0] for shown in clips]
        if self.model.config.model_type in _WORDLESS:
            return self.processor(images=single, return_tensors="pt")
        text = f"Question: {self.job.question} Answer:"
        return self.processor(images=single, text=[text] * len(clips), padding=True, return_tensors="pt")

    def _asked(self) -> str:
        return f"{_BEHIND} {self.job.question}"

    def write(self, inputs: Any) -> list[str]:
        """What is said of each clip."""
        begin = time.monotonic()
        inputs = inputs.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            written = self.model.generate(**inputs, max_new_tokens=self.job.max_tokens, do_sample=False)
        # A decoder gives its prompt back; an encoder-decoder does not.
        prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs and not self._encodes() else 0
        texts = self.processor.batch_decode(written[:, prompt:], skip_special_tokens=True)
        self.busy += time.monotonic() - begin
        return list(texts)

    def _encodes(self) -> bool:
        return bool(self.model.config.get_text_config(decoder=True).is_encoder_decoder)
