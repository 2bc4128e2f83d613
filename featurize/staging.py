"""Batches of clips on a GPU, in stages that run at the same time, each in a thread of its own.

    decode -> upload -> forward -> download -> write

Frames are copied from pinned memory, features to it; each copy and the computation have a stream of
their own. Every stage ends with its stream: a tensor is freed or read on another stream only when
the work on it is done. Features that are stored in half precision are converted before the copy
back.

Guarantees
- batches leave in the order in which they came; an error of a stage is raised when they are used,
  and ends all threads
- between two stages one batch waits, at most
- a forward pass for which the GPU has no memory is done in halves, as are all later ones
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from featurize.encoders import Encoder
from featurize.video.picture import Bounded, Crop
from stepdiff_core.threads import prefetched

# of frames, in a batch whose size is chosen by memory: pinned memory holds three batches
MOST_BYTES = 256 << 20
MEMORY_SHARE = 0.8  # of the GPU's memory that such a batch may need

Computed = tuple[dict[str, Float[np.ndarray, "B ..."]], dict[str, Float32[np.ndarray, " B"]]]
"""features of a batch, and of those in half precision the largest magnitude of each row before the
conversion"""


class Gpu:
    """A CUDA device as the stages of a batch. Each is called by one thread, and returns when its
    work is done."""

    def __init__(self, encoder: Encoder, device: str, half: Collection[str]) -> None:
        """Make the streams. half: names of the features that are stored in half precision."""
        self._encoder, self._device, self._half = encoder, torch.device(device), half
        self._up, self._compute, self._down = (torch.cuda.Stream(self._device) for _ in range(3))

    def buffer(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "B T size size 3"]:
        """Return main memory of zeros for the frames of a batch."""
        return torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()

    def upload(
        self, frames: UInt8[np.ndarray, "B T size size 3"]
    ) -> UInt8[torch.Tensor, "B T size size 3"]:
        """Copy frames to the device."""
        with torch.cuda.stream(self._up):
            uploaded = torch.from_numpy(frames).to(self._device, non_blocking=True)
            self._up.synchronize()
        return uploaded

    def forward(
        self, frames: UInt8[torch.Tensor, "B T size size 3"]
    ) -> dict[str, dict[str, torch.Tensor]]:
        with torch.cuda.stream(self._compute), torch.inference_mode():
            computed = halved(self._encoder.forward_clips(frames), self._half)
            self._compute.synchronize()
        return computed

    def download(self, features: dict[str, dict[str, torch.Tensor]]) -> Computed:
        """Copy the result of `forward` to main memory."""
        with torch.cuda.stream(self._down):
            values, peaks = (
                {name: _pinned(there) for name, there in part.items()} for part in features.values()
            )
            self._down.synchronize()
        return values, peaks


def _pinned(values: torch.Tensor) -> np.ndarray:
    """Return pinned memory that receives `values` on the current stream. PyTorch uses freed pinned
    memory again."""
    return (
        torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        .copy_(values, non_blocking=True)
        .numpy()
    )


@torch.inference_mode()
def halved(
    features: dict[str, Float[torch.Tensor, "B ..."]], half: Collection[str]
) -> dict[str, dict[str, torch.Tensor]]:
    """Return `values`, of the names in `half` in half precision and else in float32, and `peaks`:
    see Computed."""
    norm, most = torch.linalg.vector_norm, math.inf
    dtypes = {name: torch.float16 if name in half else torch.float32 for name in features}
    return {
        "values": {name: values.to(dtypes[name]) for name, values in features.items()},
        "peaks": {
            name: norm(features[name].flatten(1).float(), most, dim=1)
            for name in features
            if name in half
        },
    }


@dataclass
class Batch:
    """Clips of a shard on their way through the stages."""

    shard: Any
    finished: int  # rows of the shard that are finished with it
    rows: tuple[int, ...] = ()
    places: tuple[int, ...] = ()  # of the rows in the batch
    data: Any = None  # what the last stage returned; None: no clip of it could be decoded
    last: bool = False  # whether the shard ends with it


@dataclass
class Spent:
    """Seconds of each stage, by its name, for reports."""

    # for the stage before
    waiting: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    working: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def staged(
    batches: Generator[Batch, None, None], device: Gpu, spent: Spent
) -> Generator[Batch, None, None]:
    """Yield batches of frames with their features, in parts if the GPU runs out of memory."""
    # at the end, and after an error, their threads end one after another
    with ExitStack() as stages:
        stages.enter_context(closing(batches))
        # a shard's decoding begins while the last batch before is uploaded
        done = stages.enter_context(closing(prefetched([batches], waiting=1)))
        works: list[Work] = [device.upload, device.forward, device.download]
        for stage, parts in zip(works, (_whole, in_parts, _whole), strict=True):
            done = stages.enter_context(
                closing(prefetched([_through(stage, parts, done, spent)], waiting=1))
            )
        yield from done


Work = Callable[[Any], Any]
"""takes the `data` of a batch and returns the next stage's `data`"""


def _through(
    work: Work,
    parts: Callable[[Work, Batch], Iterator[Batch]],
    batches: Iterator[Batch],
    spent: Spent,
) -> Iterator[Batch]:
    name, since = work.__name__, time.monotonic()
    for batch in batches:
        begin = time.monotonic()
        spent.waiting[name] += begin - since
        for part in parts(work, batch):
            spent.working[name] += time.monotonic() - begin
            yield part
            since = begin = time.monotonic()


def _whole(work: Work, batch: Batch) -> Iterator[Batch]:
    if batch.data is not None:
        batch.data = work(batch.data)
    yield batch


def in_parts(forward: Work, batch: Batch) -> Iterator[Batch]:
    """Yield a batch with the result of `forward`: of all rows at once, until the GPU runs out of
    memory.

    Then these rows, and rows of the encoder's later batches, are computed by half as many at once.
    """
    if batch.data is None:
        yield batch
        return
    encoder, start, count = batch.shard.encoder, 0, len(batch.data)
    while start < count:
        end = min(start + (encoder.forward_rows or count), count)
        try:
            data = forward(batch.data[start:end])
        except torch.OutOfMemoryError:
            if end - start == 1:
                raise
            encoder.forward_rows = (end - start + 1) // 2
            continue  # the error, which holds what the pass computed, is freed before the next one
        batch.shard.forward_rows = encoder.forward_rows
        inside = [number for number, place in enumerate(batch.places) if start <= place < end]
        rows, places = (tuple(of[number] for number in inside) for of in (batch.rows, batch.places))
        finished = batch.finished if end == count else 0
        yield Batch(batch.shard, finished, rows, tuple(place - start for place in places), data)
        start = end


def batch_by_memory(encoder: Encoder, device: str, rows: int, workers: int = 1) -> int:
    """Return the clips of a batch that a GPU shared by `workers` has memory for: a power of two, at
    most `rows`."""
    picture = encoder.picture
    # the largest shape that the encoder sees often, in frames that differ from each other
    side = math.isqrt(picture.pixels) if isinstance(picture, Bounded) else encoder.size
    clip = np.random.default_rng(0).integers(
        0, 256, (encoder.frames, side, side, 3), dtype=np.uint8
    )
    most = min(rows, max(MOST_BYTES // clip.nbytes, 1))
    share = MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory / workers

    def fits(size: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            if isinstance(picture, Crop):
                encoder.encode_clips(np.broadcast_to(clip, (size, *clip.shape)).copy())
            else:
                encoder.encode_wholes([(clip, np.arange(len(clip), dtype=np.float64))] * size)
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_reserved(device) <= share

    try:
        with torch.compiler.set_stance("force_eager"):  # else each size would be compiled
            return doubled(fits, most)
    finally:
        torch.cuda.empty_cache()


def doubled(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest power of two, of at most `most`, that fits: 1, 2, 4 ... are tried."""
    size = 1
    while 2 * size <= most and fits(2 * size):
        size *= 2
    return size
