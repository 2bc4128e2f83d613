"""Small video language models on disk, and stores of their clips' tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image

from featurize.encoders import Encoder, load
from stepdiff_core.tasks.prompts import system
from store import Store

from .vlm_models import MODELS

SECONDS = (0.0, 0.5, 1.0, 1.5)
CLIPS = [f"video-_{i}_0.0_2.0" for i in range(4)]


def frames_of(clip: int) -> np.ndarray:
    """Return frames [4, height, 56, 3]; neighbouring clips have different shapes."""
    shape = (len(SECONDS), 40 + 8 * (clip % 3), 56, 3)
    return np.random.default_rng(clip).integers(0, 256, shape, dtype=np.uint8)


def save(case: str, folder: Path) -> None:
    """Write a model and its processor."""
    torch.manual_seed(0)
    model, processor = MODELS[case]()
    for parameter in model.parameters():  # with the default scale outputs are nearly constant
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@dataclass
class Small:
    """A whole model on disk, and a store of its encoder's tokens of CLIPS in the views float32 and
    int8."""

    folder: Path
    store: Store
    as_videos: bool

    def whole(self) -> Any:
        """Return the model with its vision tower."""
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    def inputs(
        self,
        clips: list[int],
        question: str,
        answer: str = "",
        sizes: list[tuple[int, int]] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return what the model's own processor makes of a prompt and the frames of clips, blank
        ones if of `sizes`."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(self.folder)
        content: list[dict[str, str]] = []
        for place, text in enumerate(f"{system(len(clips))} {question}".split("{video}")):
            shown = [{"type": "video"}] if self.as_videos else [{"type": "image"}] * len(SECONDS)
            content += [*(shown if place else []), {"type": "text", "text": text}]
        asked = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        begins = {"add_special_tokens": not text.startswith("<bos>")}  # as apply_chat_template does
        text += answer if not answer or text[-1].isspace() else f" {answer}"
        blank = [np.zeros((len(SECONDS), *size, 3), np.uint8) for size in sizes or ()]
        frames = blank or [frames_of(clip) for clip in clips]
        if not self.as_videos:
            images = [Image.fromarray(frame) for clip in frames for frame in clip]
            return dict(processor(text=[text], images=images, **begins, return_tensors="pt"))
        times = {"fps": 1000.0, "frames_indices": [round(1000 * t) for t in SECONDS]}
        metadata = [{**times, "total_num_frames": 2000, "duration": 2.0} for _ in frames]
        given = {"videos": frames, "video_metadata": metadata, "do_sample_frames": False}
        return dict(processor(text=[text], **given, **begins, return_tensors="pt"))


def mean_log_likelihood(
    whole: Any, given: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]
) -> float:
    """Return the mean log-likelihood of the tokens that `inputs` has after those of `given`."""
    start = given["input_ids"].shape[1]
    with torch.inference_mode():
        log_probs = whole(**inputs).logits[0, start - 1 : -1].log_softmax(-1)
    return float(log_probs.gather(1, inputs["input_ids"][0, start:, None]).mean())


def featurized(case: str, folder: Path, path: Path) -> Small:
    """Write the model to `folder` and its store to `path`."""
    save(case, folder)
    encoder = load("vlm", str(folder), "cpu", frames=len(SECONDS))
    store = Store.open(path, create=True)
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": CLIPS}))
    for dtype in ("float32", "int8"):
        fill(store, dtype, encoder, dtype)
    return Small(folder, store, "as a video" in encoder.crop)


def fill(store: Store, view: str, encoder: Encoder, dtype: str = "float32") -> None:
    """Add a view with the features of CLIPS."""
    encoded = [
        encoder.encode_whole(frames_of(clip), np.array(SECONDS)) for clip in range(len(CLIPS))
    ]
    features = {name: np.stack([one[name] for one in encoded]) for name in encoded[0]}
    with store.lock():
        made, shapes = encoder.provenance("clips", dtype), encoder.features("clips", dtype)
        filled = store.create_view("clips", view, made, shapes, rows_per_shard=4)
        filled.resize()
        filled.write_shard(0, np.arange(len(CLIPS)), features, {})
