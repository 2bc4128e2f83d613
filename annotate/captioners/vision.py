"""A model of transformers that sees, with its own processor.

What captioners of every kind share: the kinds of caption, and what becomes of what a model says.

Pictures of clips, out of their videos.

Guarantees
- weights are safetensors and whole, and no code of the checkpoint runs
- pictures are whole and upright, those of featurize's own decoder
- a clip that cannot be decoded fails alone, with its reason
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import UInt8
from PIL import Image

from annotate.qa.prompts import ACTION_QUESTION, OBJECT_QUESTION
from annotate.stages.job import Answer, Failure, Item, plain
from common.errors import StepDiffError
from featurize.task import Source
from featurize.video.decode import Clip
from featurize.video.frames import Sampling
from featurize.video.media_file import shown
from featurize.video.picture import Whole
from featurize.video.threads import decoded_clips
from weights import resolve


def load_processor(name: str) -> Any:
    """The processor of a model, named as load_vision_model takes it. StepDiffError: there is none."""
    import transformers

    with _told(f"{name}: no processor that transformers can load"):
        return transformers.AutoProcessor.from_pretrained(resolve(name), trust_remote_code=False)


def load_vision_model(kind: str, name: str, device: str) -> tuple[Any, Any]:
    """Model and processor. kind: the class of transformers that picks the model; name: folder or hub id.

    Raises StepDiffError: no such model of that kind, or not a whole one.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    processor = load_processor(name)
    with _told(f"{name}: no model that {kind} can load"):
        model, report = getattr(transformers, kind).from_pretrained(
            resolve(name),
            dtype=torch.bfloat16 if device.startswith("cuda") else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        missing = sorted(report["missing_keys"])
        raise StepDiffError(f"{name}: lacks {len(missing)} tensors, first {missing[0]}; give a whole checkpoint")
    return model.eval().requires_grad_(False).to(torch.device(device)), processor


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What transformers makes of a folder that is none of its models, as one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0]
        raise StepDiffError(f"{what} ({why}); give another") from error


Kind = Literal["action", "objects"]
QUESTIONS: dict[Kind, str] = {"action": ACTION_QUESTION, "objects": OBJECT_QUESTION}
FRAMES: dict[Kind, int] = {"action": 8, "objects": 1}
"""of a clip that a model is shown (S1)"""
T = TypeVar("T")


def caption(kind: Kind, text: str) -> Answer:
    """What is kept of a caption, which may be empty: an action in one line, objects one a line."""
    lines = [" ".join(line.split()) for line in plain(text).splitlines()]
    return {kind: (" " if kind == "action" else "\n").join(filter(None, lines))}


def batches(things: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Lists of at most `size`; itertools.batched, which Python 3.11 lacks."""
    left = iter(things)
    while batch := list(islice(left, size)):
        yield batch


SHORT_SIDE = 480
"""pixels of a picture's short side at most: what models see is smaller"""


def with_videos(items: pl.DataFrame, folder: str) -> pl.DataFrame:
    """Absolute paths in the column `video`. StepDiffError where the first is not there."""
    root = Path(folder).expanduser().absolute()
    paths = [None if video is None else str(root / video) for video in items["video"]]
    found = items.with_columns(video=pl.Series(paths, dtype=pl.String))
    first = next(filter(None, paths), None)
    if first is None or not os.path.exists(first):
        missing = "the video of every clip" if first is None else shown(Path(first))
        raise StepDiffError(f"{missing} does not exist: give --videos, the folder that the manifest's paths begin in")
    return found


def pictures(items: Sequence[Item], count: int, threads: int) -> Iterator[tuple[str, list[Image.Image] | Failure]]:
    """Key and `count` pictures of each clip, or why there are none, in the order of their videos.

    items: key, video (path), start, end (seconds). One picture is that of the clip's centre.
    """
    clips = {}
    for place, item in enumerate(items):
        if item["start"] is None or item["end"] is None:  # what featurize could not read
            yield item["key"], Failure("its start or end is not known: correct it in the manifest and featurize again")
        elif item["video"] is None:
            yield item["key"], Failure("its video is not known: correct it in the manifest and featurize again")
        else:
            clips[place] = Source(item["video"], item["start"], item["end"])
    sampling: Sampling = "centre" if count == 1 else "linspace"
    for place, done in decoded_clips(clips, count, Whole(SHORT_SIDE), threads, sampling):
        key = items[place]["key"]
        yield key, _images(done.frames) if isinstance(done, Clip) else Failure(done.reason)


def _images(frames: UInt8[np.ndarray, "frames height width 3"]) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]
