"""Grounding by a zero-shot object detector of transformers (OWL-ViT, OWLv2, Grounding DINO) in a clip's centre frame.

Guarantees
- the score of an object is that of its best box, and 0 below the threshold in the provenance
- other objects of the same clip change no score
- a clip that cannot be decoded fails alone
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from annotate.captioners.vision import SHORT_SIDE, pictures
from annotate.grounding.objects import kept, objects
from annotate.pretrained import load_model, load_processor
from annotate.stages.job import Answer, Failure, Item
from common.threads import prefetched
from weights import fingerprint, resolve

_MANY_QUERIES = ("owlvit", "owlv2")
"""model types that score every text alone; the others read one sentence, so they receive one object at a time"""


@dataclass(frozen=True)
class DetectorJob:
    model: str  # folder or hub id
    threshold: float  # of a box's score
    reads: dict[str, str]  # stage -> version of the object captions

    def provenance(self) -> dict[str, Any]:
        made = {"model": self.model, "weights": fingerprint(resolve(self.model)), "threshold": self.threshold}
        return {**made, "short_side": SHORT_SIDE, "reads": self.reads}

    def load(self, device: str, threads: int) -> "Detector":
        return Detector(self, device, threads)


class Detector:
    def __init__(self, job: DetectorJob, device: str, threads: int) -> None:
        self.job, self.threads = job, threads
        self.processor = load_processor(job.model)
        self.model = load_model("AutoModelForZeroShotObjectDetection", job.model, device)
        self.many = self.model.config.model_type in _MANY_QUERIES
        self.busy = 0.0

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Yield the objects of every item: key, objects (a caption, or None), video (path), start, end (seconds)."""
        names: dict[str, list[str]] = {}
        for item in items:
            if item["objects"] is None:
                yield item["key"], Failure("no object caption: run python -m annotate.captions, then --retry-failed")
            elif found := objects(item["objects"]):
                names[item["key"]] = found
            else:
                yield item["key"], kept([], [])
        failed: dict[str, Failure] = {}
        shown = pictures([item for item in items if item["key"] in names], 1, self.threads, failed)
        read = ((key, self.inputs(picture, names[key])) for key, (picture,) in shown)
        for key, inputs in prefetched([read]):
            yield key, kept(names[key], self.scores(inputs))
        yield from failed.items()

    def inputs(self, picture: Image.Image, names: Sequence[str]) -> Any:
        """Return what the model's own processor makes of a picture and its objects."""
        how: dict[str, Any] = {"truncation": True, "return_tensors": "pt"}
        if self.many:
            return self.processor(text=[[*names]], images=[picture], **how)
        texts = [name.lower() + "." for name in names]
        return self.processor(text=texts, images=[picture] * len(texts), padding=True, **how)

    def scores(self, inputs: Any) -> list[float]:
        """Return the best box's score of every object, 0 below the threshold."""
        begin = time.monotonic()
        with torch.inference_mode():
            logits = self.model(**inputs.to(self.model.device, self.model.dtype)).logits.float()
        # [1, boxes, objects], or [objects, boxes, tokens]
        best = (logits[0].amax(0) if self.many else logits.amax((1, 2))).sigmoid().tolist()
        self.busy += time.monotonic() - begin
        return [score if score >= self.job.threshold else 0.0 for score in best]
